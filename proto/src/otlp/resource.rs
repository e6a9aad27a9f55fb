//! Who sent: the resource of a batch.

use opentelemetry_proto::tonic::resource::v1::Resource as OtlpResource;

use super::{string, text_of};
use crate::metric::attribute;

/// The process that telemetry comes from. Empty text is unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resource {
    /// `service.name`.
    pub service: String,
    /// `service.instance.id`: one per boot.
    pub instance: String,
    /// `host.name`.
    pub host: String,
    /// `host.arch`.
    pub arch: String,
    /// `cloud.region`.
    pub region: String,
    /// `wasm.engine.name`.
    pub engine: String,
    /// `wasm.engine.version`.
    pub engine_version: String,
}

impl Resource {
    fn fields(&self) -> [(&'static str, &String); 7] {
        [
            (attribute::SERVICE_NAME, &self.service),
            (attribute::SERVICE_INSTANCE, &self.instance),
            (attribute::HOST_NAME, &self.host),
            (attribute::HOST_ARCH, &self.arch),
            (attribute::REGION, &self.region),
            (attribute::ENGINE_NAME, &self.engine),
            (attribute::ENGINE_VERSION, &self.engine_version),
        ]
    }

    /// The attributes that are known, as (key, value).
    pub fn attributes(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.fields()
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(key, value)| (key, value.as_str()))
    }

    /// As OTLP carries it.
    pub fn to_otlp(&self) -> OtlpResource {
        let attributes = self.attributes().map(|(key, value)| string(key, value)).collect();
        OtlpResource { attributes, ..OtlpResource::default() }
    }

    /// What a peer said of itself; attributes that are missing or of another type stay empty.
    pub fn from_otlp(resource: Option<&OtlpResource>) -> Self {
        let mut out = Self::default();
        for attribute in resource.iter().flat_map(|r| &r.attributes) {
            let Some(value) = text_of(attribute.value.as_ref()) else { continue };
            match attribute.key.as_str() {
                attribute::SERVICE_NAME => out.service = value,
                attribute::SERVICE_INSTANCE => out.instance = value,
                attribute::HOST_NAME => out.host = value,
                attribute::HOST_ARCH => out.arch = value,
                attribute::REGION => out.region = value,
                attribute::ENGINE_NAME => out.engine = value,
                attribute::ENGINE_VERSION => out.engine_version = value,
                _ => {}
            }
        }
        out
    }
}
