//! The names in a certificate: its subject's common names, and the DNS names and URIs among its alternative names
//! (RFC 5280, 4.1 and 4.2.1.6). The TLS library has checked the certificate and tells nobody its names.

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const OCTETS: u8 = 0x04;
const UTF8: u8 = 0x0c;
const PRINTABLE: u8 = 0x13;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const DNS: u8 = 0x82;
const URI: u8 = 0x86;
/// id-at-commonName and id-ce-subjectAltName.
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const ALTERNATIVE_NAME: &[u8] = &[0x55, 29, 17];

/// Names that are kept of one certificate.
const MAX_NAMES: usize = 64;

/// All names, empty if it is no certificate.
pub(crate) fn names(certificate: &[u8]) -> Vec<Box<str>> {
    let mut names = Vec::new();
    // What was found before the first thing that is not understood counts.
    let _ = collect(certificate, &mut names);
    names.truncate(MAX_NAMES);
    names
}

fn collect(certificate: &[u8], names: &mut Vec<Box<str>>) -> Option<()> {
    let mut signed = Der(Der(certificate).content(SEQUENCE)?);
    let mut fields = Der(signed.content(SEQUENCE)?);
    fields.optional(VERSION);
    // Serial number, signature's algorithm, issuer, validity.
    for _ in 0..4 {
        fields.value()?;
    }
    let mut subject = Der(fields.content(SEQUENCE)?);
    while let Some((SET, relative)) = subject.value() {
        let mut relative = Der(relative);
        while let Some((SEQUENCE, attribute)) = relative.value() {
            let mut attribute = Der(attribute);
            let is_name = attribute.content(OID)? == COMMON_NAME;
            if let (true, Some((UTF8 | PRINTABLE, name))) = (is_name, attribute.value()) {
                keep(name, names);
            }
        }
    }
    while let Some((tag, field)) = fields.value() {
        if tag != EXTENSIONS {
            continue;
        }
        let mut extensions = Der(Der(field).content(SEQUENCE)?);
        while let Some((SEQUENCE, extension)) = extensions.value() {
            let mut extension = Der(extension);
            if extension.content(OID)? != ALTERNATIVE_NAME {
                continue;
            }
            let value = std::iter::from_fn(|| extension.value()).find(|(tag, _)| *tag == OCTETS)?.1;
            let mut alternatives = Der(Der(value).content(SEQUENCE)?);
            while let Some((tag, name)) = alternatives.value() {
                if matches!(tag, DNS | URI) {
                    keep(name, names);
                }
            }
        }
    }
    Some(())
}

fn keep(name: &[u8], names: &mut Vec<Box<str>>) {
    if let Ok(name) = std::str::from_utf8(name)
        && !name.is_empty()
        && names.len() < MAX_NAMES
    {
        names.push(name.into());
    }
}

/// Values in DER, one after another.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Tag and content; `None` at the end, or where it is no DER.
    fn value(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let length = if first < 0x80 {
            usize::from(first)
        } else {
            let (bytes, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
            rest = after;
            // No certificate has 16 MiB.
            if bytes.len() > 3 {
                return None;
            }
            bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn content(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.value().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    fn optional(&mut self, tag: u8) {
        if self.0.first() == Some(&tag) {
            self.value();
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate() -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["edge.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, "not a name");
        params.distinguished_name.push(DnType::CommonName, "edge-1");
        params.subject_alt_names.push(SanType::URI("spiffe://fleet/edge".try_into().unwrap()));
        params.subject_alt_names.push(SanType::Rfc822Name("somebody@example".try_into().unwrap()));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn common_dns_and_uri_names_are_found() {
        let found = names(&certificate());
        let found: Vec<&str> =
            found.iter().map(AsRef::as_ref).filter(|name| !name.starts_with("rcgen")).collect();
        assert_eq!(found, ["edge-1", "edge.example", "spiffe://fleet/edge"]);
    }

    /// Cut or changed anywhere, it has fewer names or other ones, and nothing else happens.
    #[test]
    fn damage_is_harmless() {
        let whole = certificate();
        for at in 0..whole.len() {
            names(&whole[..at]);
            for byte in [0, 0x30, 0x80, 0x84, 0xff] {
                let mut other = whole.clone();
                other[at] = byte;
                names(&other);
            }
        }
    }
}
