//! What can be wrong with a guest before it runs, each with what to do about it.

use std::path::{Path, PathBuf};

/// Why a guest could not be run. The text completes "failed to …"; [`RunError::hint`] is the next step.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The file could not be read.
    #[error("read {}: {source}", path.display())]
    Read {
        /// As given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is larger than any guest.
    #[error("read {}: {length} bytes are more than the limit of {limit}", path.display())]
    TooLarge {
        /// As given.
        path: PathBuf,
        /// Its length in bytes.
        length: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The file is something else.
    #[error("load {}: {what}, not a WebAssembly module or component", path.display())]
    NotWasm {
        /// As given.
        path: PathBuf,
        /// What it seems to be.
        what: &'static str,
        /// The next step.
        hint: &'static str,
    },
    /// WebAssembly text that does not parse.
    #[error("parse {} as WebAssembly text: {message}", path.display())]
    Text {
        /// As given.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
    /// The engine refused the bytes.
    #[error("compile {name}: {message}")]
    Invalid {
        /// The file's name.
        name: String,
        /// The engine's reason.
        message: String,
        /// Whether the file ends too early.
        truncated: bool,
    },
    /// The engine could not be made.
    #[error("start the engine: {0}")]
    Engine(wasmtime::Error),
    /// Imports that nothing provides.
    #[error("link {name}: it imports {}, which this host does not provide", imports.join(", "))]
    MissingImports {
        /// The file's name.
        name: String,
        /// The imports, as `module::name`.
        imports: Vec<String>,
    },
    /// Linking failed for another reason.
    #[error("link {name}: {message}")]
    Link {
        /// The file's name.
        name: String,
        /// The engine's reason.
        message: String,
    },
    /// Nothing to run.
    #[error("run {name}: it exports no {wanted}")]
    NoEntry {
        /// The file's name.
        name: String,
        /// What was looked for.
        wanted: String,
        /// Functions that it exports.
        exports: Vec<String>,
    },
    /// Arguments that do not fit the function.
    #[error("call {function}: {message}")]
    Arguments {
        /// The function.
        function: String,
        /// What does not fit.
        message: String,
    },
    /// A directory that cannot be opened.
    #[error("open the directory {} for the guest: {source}", path.display())]
    Directory {
        /// On the host.
        path: PathBuf,
        /// Why.
        source: wasmtime::Error,
    },
    /// Not a wasi:http component.
    #[error("serve {name}: it exports neither wasi:http/incoming-handler (0.2) nor wasi:http/handler (0.3)")]
    NotHttp {
        /// The file's name.
        name: String,
    },
    /// A thread could not be started.
    #[error("start a thread for the guest: {0}")]
    Thread(std::io::Error),
}

impl RunError {
    /// What to try next, as a sentence.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                "Check the path; files of the guest itself are given with --dir.".to_owned()
            }
            Self::NotWasm { hint, .. } => (*hint).to_owned(),
            Self::Invalid { truncated: true, .. } => {
                "The file is cut off; build or copy it again.".to_owned()
            }
            Self::Invalid { .. } => "Run `wasm-tools validate` on it, or build it again.".to_owned(),
            Self::MissingImports { .. } => {
                "Build the guest for WASI (wasm32-wasip1 or wasm32-wasip2), or embed sandscope-host and provide \
                 these imports."
                    .to_owned()
            }
            Self::NoEntry { exports, .. } if !exports.is_empty() => {
                format!("Name a function with --invoke; it exports: {}.", exports.join(", "))
            }
            Self::NotHttp { .. } => "Run commands with `sandscope run`.".to_owned(),
            Self::Directory { .. } => "Create it, or correct --dir HOST::GUEST.".to_owned(),
            _ => return None,
        })
    }

    pub(super) fn invalid(name: &str, bytes: &[u8], source: &wasmtime::Error) -> Self {
        let message = one_line(source);
        let truncated = wasmparser::Validator::new_with_features(wasmparser::WasmFeatures::all())
            .validate_all(bytes)
            .is_err_and(|error| error.offset() >= bytes.len() || error.message().contains("unexpected end"));
        Self::Invalid { name: name.to_owned(), message, truncated }
    }
}

/// An engine's error with its causes on one line, without backtraces.
pub(super) fn one_line(error: &wasmtime::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string().replace('\n', " ");
        if !parts.contains(&text) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

/// The binary form of what was read, or what it is instead.
pub(super) fn binary(path: &Path, bytes: Vec<u8>) -> Result<Vec<u8>, RunError> {
    let not_wasm = |what, hint| Err(RunError::NotWasm { path: path.to_owned(), what, hint });
    if bytes.starts_with(b"\0asm") && bytes.len() >= 8 {
        return Ok(bytes);
    }
    if bytes.is_empty() {
        return not_wasm("an empty file", "Build the guest again.");
    }
    if b"\0asm".starts_with(&bytes[..bytes.len().min(4)]) {
        return not_wasm("a file cut off after a few bytes", "Build or copy it again.");
    }
    if bytes.starts_with(b"\x7fELF") {
        let hint = "Give the original .wasm; precompiled modules and native programs are not run.";
        return not_wasm("an ELF file", hint);
    }
    let Ok(text) = std::str::from_utf8(&bytes) else {
        return not_wasm("an unknown binary file", "Give a .wasm file.");
    };
    if text.trim_start().starts_with(['(', ';']) {
        return wat::parse_str(text).map_err(|error| RunError::Text {
            path: path.to_owned(),
            message: error.to_string().lines().next().unwrap_or_default().to_owned(),
        });
    }
    not_wasm("a text file", "Give a .wasm file, or a .wat file in WebAssembly text format.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], want: &str) {
        let got = binary(Path::new("x"), bytes.to_vec()).unwrap_err().to_string();
        assert!(got.contains(want), "{got}");
    }

    /// What is not wasm is named for what it is.
    #[test]
    fn other_files_are_recognized() {
        check(b"", "an empty file");
        check(b"\0as", "cut off");
        check(b"\0asm\x01", "cut off");
        check(b"hello", "a text file");
        check(b"\x7fELF\x02", "ELF");
        check(b"\xff\xfe\x00", "unknown binary");
        check(b"(module (func", "parse x as WebAssembly text");
        assert!(binary(Path::new("x"), b"(module)".to_vec()).unwrap().starts_with(b"\0asm"));
    }
}
