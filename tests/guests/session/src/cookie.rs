//! Cookies that prove themselves: claims and their HMAC-SHA-256, both in base64url.
//!
//! ```text
//! session=<base64url of the claims as JSON>.<base64url of their HMAC>
//! ```

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

pub const NAME: &str = "session";

/// What a cookie says; it says so to everybody who has it, so nothing secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub user: String,
    pub id: String,
    /// Seconds since 1970 at which it ends.
    pub expires: u64,
}

pub struct Signer {
    keyed: Hmac<Sha256>,
}

impl Signer {
    pub fn new(key: &[u8]) -> Self {
        let keyed = Hmac::new_from_slice(key).expect("HMAC takes keys of any length");
        Self { keyed }
    }

    #[inline(never)]
    pub fn digest(&self, message: &[u8]) -> [u8; 32] {
        let mut mac = self.keyed.clone();
        mac.update(message);
        mac.finalize().into_bytes().into()
    }

    pub fn seal(&self, claims: &Claims) -> String {
        let json = serde_json::to_vec(claims).expect("claims are plain strings and numbers");
        let payload = URL_SAFE_NO_PAD.encode(json);
        let mac = URL_SAFE_NO_PAD.encode(self.digest(payload.as_bytes()));
        format!("{payload}.{mac}")
    }

    /// The claims of a genuine cookie; whether they have expired is the caller's matter.
    pub fn open(&self, value: &str) -> Option<Claims> {
        let (payload, mac) = value.split_once('.')?;
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
        let mut expected = self.keyed.clone();
        expected.update(payload.as_bytes());
        expected.verify_slice(&mac).ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    }
}

/// The value of our cookie in a `Cookie` header.
pub fn find(header: &str) -> Option<&str> {
    header.split(';').find_map(|pair| pair.trim().strip_prefix(NAME)?.strip_prefix('='))
}
