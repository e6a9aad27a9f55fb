//! Credentials: how somebody is recognised, and what they may then do. Tokens are kept as digests.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::AccessError;
use super::role::{Role, Scope, Who};

/// Tokens of one file.
const MAX_TOKENS: usize = 1024;
/// Size of a file of tokens, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Shortest token, in bytes: what is shorter can be guessed.
const MIN_TOKEN: usize = 16;

/// Somebody who may do something.
#[derive(Clone, Debug)]
pub struct Credential {
    /// What the audit log calls them.
    pub name: String,
    /// How they are recognised.
    pub proof: Proof,
    /// What they may do.
    pub roles: Vec<Role>,
    /// For which regions and tenants.
    pub scope: Scope,
}

/// How somebody is recognised.
#[derive(Clone, Debug)]
pub enum Proof {
    /// By a token in this file: one per line; empty lines and those that begin with `#` are none.
    TokenFile(PathBuf),
    /// By a client certificate with this name: its subject's common name, or a DNS name or URI among its alternative
    /// names.
    Certificate(String),
}

impl Credential {
    /// Its name, if it is a certificate's.
    pub(super) fn certificate(&self) -> Option<&str> {
        matches!(self.proof, Proof::Certificate(_)).then_some(&self.name)
    }
}

type Token = [u8; 32];

/// All credentials, with the tokens that were read.
#[derive(Default)]
pub(super) struct Register {
    tokens: Vec<(Token, Arc<Who>)>,
    certificates: Vec<(Box<str>, Arc<Who>)>,
}

impl Register {
    pub(super) fn read(credentials: &[Credential]) -> Result<Self, AccessError> {
        let mut register = Self::default();
        for Credential { name, proof, roles, scope } in credentials {
            let who =
                Arc::new(Who { name: name.as_str().into(), roles: roles.clone(), scope: scope.clone() });
            match proof {
                Proof::TokenFile(path) => {
                    register.tokens.extend(tokens(path)?.into_iter().map(|token| (token, Arc::clone(&who))));
                }
                Proof::Certificate(name) => register.certificates.push((name.as_str().into(), who)),
            }
        }
        Ok(register)
    }

    /// Whether nobody has to say who they are.
    pub(super) fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.certificates.is_empty()
    }

    /// All whose token this is. Takes as long whatever the token is.
    pub(super) fn by_token(&self, token: &[u8]) -> Vec<Arc<Who>> {
        let shown = digest(token);
        let is_same = |known: &Token| known.iter().zip(shown).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0;
        self.tokens.iter().filter(|(known, _)| is_same(known)).map(|(_, who)| Arc::clone(who)).collect()
    }

    /// All who go by one of these names.
    pub(super) fn by_names(&self, names: &[Box<str>]) -> Vec<Arc<Who>> {
        let known = self.certificates.iter().filter(|(name, _)| names.contains(name));
        known.map(|(_, who)| Arc::clone(who)).collect()
    }
}

fn digest(token: &[u8]) -> Token {
    Sha256::digest(token).into()
}

/// The digests of a file's tokens.
fn tokens(path: &Path) -> Result<Vec<Token>, AccessError> {
    let text = super::tls::read(path, MAX_FILE)?;
    let wrong = |line, reason| AccessError::Token { path: path.to_owned(), line, reason };
    let mut tokens = Vec::new();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        if line.len() < MIN_TOKEN {
            return Err(wrong(number + 1, "it has less than 16 characters"));
        }
        if !line.iter().all(u8::is_ascii_graphic) {
            return Err(wrong(number + 1, "it has other characters than printable ASCII"));
        }
        if tokens.len() == MAX_TOKENS {
            return Err(wrong(number + 1, "a file has 1024 at most"));
        }
        tokens.push(digest(line));
    }
    if tokens.is_empty() { Err(wrong(0, "there is none in the file")) } else { Ok(tokens) }
}
