//! A store at a collector, over its HTTP port.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use sandscope_host::Credentials;
use sandscope_model::{FileIds, ModuleId};
use sandscope_proto::MAX_DEBUG_INFO;

use super::{Held, StoreError, check, connection};

/// Longest time for a request with its answer.
const PATIENCE: Duration = Duration::from_secs(300);
/// The port, if the address names none.
const PORT: u16 = 4321;

/// A collector.
#[derive(Debug)]
pub struct Remote {
    url: String,
    host: String,
    port: u16,
    is_tls: bool,
    credentials: Credentials,
}

impl Remote {
    /// Understands an address; nothing is sent yet.
    ///
    /// # Errors
    /// What is not `http://HOST[:PORT]` or `https://HOST[:PORT]`.
    pub fn new(url: &str, credentials: Credentials) -> Result<Self, StoreError> {
        let unknown = || StoreError::Address { url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| unknown())?;
        let is_tls = uri.scheme_str() == Some("https");
        let is_ours = (is_tls || uri.scheme_str() == Some("http")) && matches!(uri.path(), "" | "/");
        let host = uri.host().filter(|_| is_ours).ok_or_else(unknown)?;
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(PORT),
            is_tls,
            credentials,
        })
    }

    /// Sends a file; the collector files it under all its ids.
    ///
    /// # Errors
    /// A collector that is not there or refuses.
    pub fn push(&self, ids: &FileIds, bytes: &[u8]) -> Result<(), StoreError> {
        let path = path(&ids.module);
        let (status, answer) = self.ask(Method::PUT, &path, Bytes::copy_from_slice(bytes))?;
        if status.is_success() { Ok(()) } else { Err(self.refused(&path, status, &answer)) }
    }

    /// The debug info of an id; `None` if the collector does not have it.
    ///
    /// # Errors
    /// A collector that is not there, refuses, or sends something else.
    pub fn fetch(&self, id: &ModuleId) -> Result<Option<Vec<u8>>, StoreError> {
        let path = path(id);
        let (status, answer) = self.ask(Method::GET, &path, Bytes::new())?;
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::OK => {
                check(format!("{}{path}", self.url), id, &answer)?;
                Ok(Some(answer.into()))
            }
            status => Err(self.refused(&path, status, &answer)),
        }
    }

    /// What the collector holds.
    ///
    /// # Errors
    /// A collector that is not there or refuses.
    pub fn list(&self) -> Result<Vec<Held>, StoreError> {
        let path = "/buildid";
        let (status, answer) = self.ask(Method::GET, path, Bytes::new())?;
        if status != StatusCode::OK {
            return Err(self.refused(path, status, &answer));
        }
        let text = String::from_utf8_lossy(&answer);
        let held = text.lines().filter_map(|line| {
            let (id, size) = line.split_once(' ')?;
            Some(Held { id: ModuleId::parse(id)?, size: size.parse().ok()? })
        });
        Ok(held.filter(|held| !held.id.as_str().starts_with("code:")).collect())
    }

    fn refused(&self, path: &str, status: StatusCode, answer: &[u8]) -> StoreError {
        let text = String::from_utf8_lossy(answer);
        let body = text.lines().next().unwrap_or_default().to_owned();
        StoreError::Refused { url: format!("{}{path}", self.url), status: status.as_u16(), body }
    }

    fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), StoreError> {
        let broken = |reason: String| StoreError::Connection { url: self.url.clone(), reason };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| broken(error.to_string()))?;
        let answer = async { tokio::time::timeout(PATIENCE, self.exchange(method, path, body)).await };
        match runtime.block_on(answer) {
            Ok(answer) => answer.map_err(|error| broken(error.to_string())),
            Err(_) => Err(broken(format!("no answer within {} s", PATIENCE.as_secs()))),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let tls = self.is_tls.then_some(&self.credentials);
        let stream = connection::connect(&self.host, self.port, tls).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // What ends it shows in the answer.
        tokio::spawn(connection);
        let headers = self.credentials.headers();
        let mut request = Request::builder();
        if let Some(value) = headers.authorization() {
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request
            .method(method)
            .uri(path)
            .header(header::HOST, format!("{}:{}", self.host, self.port))
            .body(Full::new(body))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let limit = usize::try_from(MAX_DEBUG_INFO)?;
        let answer = Limited::new(response.into_body(), limit).collect().await?.to_bytes();
        Ok((status, answer))
    }
}

fn path(id: &ModuleId) -> String {
    format!("/buildid/{id}/debuginfo")
}
