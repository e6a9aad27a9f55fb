//! What commands show a collector, read from the files and variables that name it.

use std::path::Path;

use sandscope_host::Credentials;

use crate::args::{HostReach, Reach};
use crate::problem::{Problem, chain};

impl Reach {
    /// Reads the files.
    ///
    /// # Errors
    /// A file that cannot be read, or holds no token.
    pub fn credentials(&self) -> Result<Credentials, Problem> {
        let Self { token_file, ca, cert, key } = self;
        let mut credentials = Credentials::default();
        credentials.ca = ca.as_deref().map(read).transpose()?;
        if let (Some(certificate), Some(key)) = (cert, key) {
            credentials.identity = Some((read(certificate)?, read(key)?));
        }
        let Some(path) = token_file else { return Ok(credentials) };
        let text = String::from_utf8_lossy(&read(path)?).into_owned();
        let mut lines = text.lines().map(str::trim);
        let token = lines.find(|line| !line.is_empty() && !line.starts_with('#')).ok_or_else(|| {
            Problem::usage(format!("find a token in {}", path.display()))
                .next("The token is the first line that is not empty and does not begin with #.")
        })?;
        credentials.with_token(token).map_err(|error| Problem::usage(chain(&error)))
    }
}

impl HostReach {
    /// Reads the files, and the headers that OpenTelemetry's variable names; a token from a file wins over one there.
    ///
    /// # Errors
    /// As [`Reach::credentials`], and headers that are none.
    pub fn credentials(&self) -> Result<Credentials, Problem> {
        let Self { token_file, ca, cert, key } = self.clone();
        let mut credentials = Reach { token_file, ca, cert, key }.credentials()?;
        let has_token = self.token_file.is_some();
        for (name, value) in headers(&std::env::var("OTEL_EXPORTER_OTLP_HEADERS").unwrap_or_default()) {
            if has_token && name.eq_ignore_ascii_case("authorization") {
                continue;
            }
            credentials =
                credentials.with_header(&name, &value).map_err(|error| Problem::usage(chain(&error)))?;
        }
        Ok(credentials)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    std::fs::read(path).map_err(|error| Problem::usage(format!("read {}: {error}", path.display())))
}

/// `name=value` pairs between commas, values percent-encoded, as OpenTelemetry's specification of the OTLP exporter has
/// them.
fn headers(text: &str) -> Vec<(String, String)> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.trim().to_ascii_lowercase(), decoded(value.trim()))).collect()
}

fn decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = (byte == b'%').then(|| after.get(..2)).flatten();
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        out.push(code.unwrap_or(byte));
        rest = if code.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_opentelemetry_has_them() {
        let found = headers("Authorization=Bearer%20a%3Db, x-other = 1%,broken");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(found, [pair("authorization", "Bearer a=b"), pair("x-other", "1%")]);
    }
}
