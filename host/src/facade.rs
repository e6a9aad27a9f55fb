//! The `metrics` facade bridged to the OpenTelemetry SDK: what the embedder records with `metrics::counter!`
//! and its like is exported by `opentelemetry-otlp` to the same collector.
//!
//! Our own signals do not go this way: the SDK can neither be filled from outside nor evict a stream.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry_otlp::WithTonicConfig;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use sandscope_proto::connect::Credentials;
use sandscope_proto::otlp::Resource;
use tonic::transport::Endpoint;

/// Time between exports of the facade's metrics.
const INTERVAL: Duration = Duration::from_secs(10);

/// Another recorder was there first.
#[derive(Debug)]
pub(crate) struct Installed;

/// The SDK's pipeline behind the facade.
pub(crate) struct Facade(SdkMeterProvider);

impl Facade {
    /// Exports what is left, for at most `timeout`. Needs the runtime that drives the connection to go on.
    pub(crate) async fn shutdown(self, timeout: Duration) {
        let provider = self.0;
        // The SDK waits for its own thread, which waits for the connection of this runtime.
        let done = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(timeout));
        // A collector that is gone was told of already, and must not hold up the process's end.
        let _ = tokio::time::timeout(timeout, done).await;
    }
}

/// Installs the recorder. To be called inside the runtime that drives the exporter's connection.
pub(crate) fn install(
    collector: Option<(&Endpoint, &Credentials)>,
    resource: &Resource,
) -> Result<Facade, Installed> {
    let resource = opentelemetry_sdk::Resource::builder_empty()
        .with_attributes(resource.attributes().map(|(key, value)| KeyValue::new(key, value.to_owned())))
        .build();
    let mut provider = SdkMeterProvider::builder().with_resource(resource);
    let exporter = collector.map(|(endpoint, credentials)| {
        let exporter = opentelemetry_otlp::MetricExporter::builder().with_tonic();
        let exporter = exporter.with_metadata(credentials.headers().metadata());
        exporter.with_channel(endpoint.connect_lazy()).build()
    });
    if let Some(Ok(exporter)) = exporter {
        provider = provider.with_reader(PeriodicReader::builder(exporter).with_interval(INTERVAL).build());
    }
    let provider = provider.build();
    let bridge = Bridge { meter: provider.meter("metrics"), units: Mutex::default() };
    metrics::set_global_recorder(bridge).map_err(|_| Installed)?;
    Ok(Facade(provider))
}

/// Units and descriptions arrive apart from values; what was described is remembered by name.
#[derive(Clone, Default)]
struct Described {
    unit: Option<Unit>,
    text: String,
}

struct Bridge {
    meter: Meter,
    units: Mutex<HashMap<String, Described>>,
}

impl Bridge {
    fn describe(&self, key: &KeyName, unit: Option<Unit>, text: SharedString) {
        let mut units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        units.insert(key.as_str().to_owned(), Described { unit, text: text.into_owned() });
    }

    fn described(&self, key: &Key) -> (String, &'static str, String) {
        let units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        let described = units.get(key.name()).cloned().unwrap_or_default();
        (key.name().to_owned(), described.unit.map_or("", ucum), described.text)
    }
}

fn ucum(unit: Unit) -> &'static str {
    match unit {
        Unit::Count => "1",
        Unit::Percent => "%",
        Unit::Seconds => "s",
        Unit::Milliseconds => "ms",
        Unit::Microseconds => "us",
        Unit::Nanoseconds => "ns",
        Unit::Tebibytes => "TiBy",
        Unit::Gibibytes => "GiBy",
        Unit::Mebibytes => "MiBy",
        Unit::Kibibytes => "KiBy",
        Unit::Bytes => "By",
        Unit::TerabitsPerSecond => "Tbit/s",
        Unit::GigabitsPerSecond => "Gbit/s",
        Unit::MegabitsPerSecond => "Mbit/s",
        Unit::KilobitsPerSecond => "kbit/s",
        Unit::BitsPerSecond => "bit/s",
        Unit::CountPerSecond => "1/s",
    }
}

fn labels(key: &Key) -> Vec<KeyValue> {
    key.labels().map(|label| KeyValue::new(label.key().to_owned(), label.value().to_owned())).collect()
}

impl Recorder for Bridge {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe(&key, unit, text);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe(&key, unit, text);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe(&key, unit, text);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let (name, unit, text) = self.described(key);
        let counter = self.meter.u64_counter(name).with_unit(unit).with_description(text).build();
        Counter::from_arc(Arc::new(OtelCounter { counter, labels: labels(key), last: Mutex::new(0) }))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let (name, unit, text) = self.described(key);
        let gauge = self.meter.f64_gauge(name).with_unit(unit).with_description(text).build();
        Gauge::from_arc(Arc::new(OtelGauge { gauge, labels: labels(key), value: Mutex::new(0.0) }))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let (name, unit, text) = self.described(key);
        let histogram = self.meter.f64_histogram(name).with_unit(unit).with_description(text).build();
        Histogram::from_arc(Arc::new(OtelHistogram { histogram, labels: labels(key) }))
    }
}

struct OtelCounter {
    counter: opentelemetry::metrics::Counter<u64>,
    labels: Vec<KeyValue>,
    /// For `absolute`, which the SDK's counters lack.
    last: Mutex<u64>,
}

impl CounterFn for OtelCounter {
    fn increment(&self, value: u64) {
        self.counter.add(value, &self.labels);
    }

    fn absolute(&self, value: u64) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        self.counter.add(value.saturating_sub(*last), &self.labels);
        *last = value.max(*last);
    }
}

struct OtelGauge {
    gauge: opentelemetry::metrics::Gauge<f64>,
    labels: Vec<KeyValue>,
    value: Mutex<f64>,
}

impl OtelGauge {
    fn update(&self, change: impl FnOnce(f64) -> f64) {
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        *value = change(*value);
        self.gauge.record(*value, &self.labels);
    }
}

impl GaugeFn for OtelGauge {
    fn increment(&self, value: f64) {
        self.update(|old| old + value);
    }

    fn decrement(&self, value: f64) {
        self.update(|old| old - value);
    }

    fn set(&self, value: f64) {
        self.update(|_| value);
    }
}

struct OtelHistogram {
    histogram: opentelemetry::metrics::Histogram<f64>,
    labels: Vec<KeyValue>,
}

impl HistogramFn for OtelHistogram {
    fn record(&self, value: f64) {
        self.histogram.record(value, &self.labels);
    }
}
