//! The collector's settings in force: flags over the file over defaults, each with where it comes from.

mod file;
mod history;
mod place;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::path::{Path, PathBuf};

use sandscope_collector::access::{AccessError, AuditSettings, Proof, Tls};
use sandscope_collector::log::{self, WhenFull};
use sandscope_collector::{BindError, Config, Limits, check};

use crate::args::{CollectArgs, LogFull};
use crate::problem::{Problem, chain};
use crate::values::default_data;
use file::{AuditSection, CredentialEntry, File, LimitsSection, LogSection, Size, Time, TlsSection};
use history::history_of;

/// Size of the audit log's file at which a new one begins, in bytes.
const AUDIT_SIZE: u64 = 16 << 20;

/// What is in force.
pub struct Resolved {
    pub config: Config,
    /// A line for each setting: its name, its value, and where that comes from.
    pub lines: Vec<String>,
    source: Option<Source>,
}

/// A file that was read.
struct Source {
    path: PathBuf,
    text: String,
}

/// Reads the file, if one is named, and puts the flags over it.
///
/// # Errors
/// A file that cannot be read or holds something else, with line, column and field.
pub fn resolve(args: &CollectArgs) -> Result<Resolved, Problem> {
    let Some(path) = &args.config else { return Ok(merge(args, File::default(), None)) };
    let text = std::fs::read_to_string(path)
        .map_err(|error| Problem::usage(format!("read {}: {error}", path.display())))?;
    let file = toml::from_str(&text).map_err(|error| {
        let found = place::of_error(&text, &error);
        Problem::usage(format!("use {}:{found}", path.display()))
            .next("docs/COLLECTOR.md has an example with every setting.")
    })?;
    Ok(merge(args, file, Some(Source { path: path.clone(), text })))
}

impl Resolved {
    /// Whether a collector would start with it, as far as can be known without listening.
    ///
    /// # Errors
    /// What is wrong, with line, column and field if it is in the file.
    pub fn check(&self) -> Result<(), Problem> {
        check(&self.config).map_err(|error| self.problem(&error))
    }

    /// What is wrong with the settings.
    pub fn problem(&self, error: &BindError) -> Problem {
        let next = match error {
            BindError::Log(_) | BindError::Recordings(_) | BindError::DebugInfo(_) => {
                "Choose another directory with --data."
            }
            BindError::Access(AccessError::Exposed { .. }) => {
                "docs/COLLECTOR.md says how TLS and credentials are set up; --insecure does without them."
            }
            BindError::History(_) => "Choose another place with --history.",
            BindError::Access(_) => "docs/COLLECTOR.md says how TLS and credentials are set up.",
            BindError::Otlp { .. }
            | BindError::OtlpHttp { .. }
            | BindError::Query { .. }
            | BindError::Http { .. } => {
                "Choose others with --otlp-listen, --otlp-http-listen, --query-listen and --http-listen."
            }
        };
        let named = if let BindError::Access(error) = error { error.path() } else { None };
        let found = named.zip(self.source.as_ref()).and_then(|(named, source)| {
            Some((source, place::of_value(&source.text, &named.file_name()?.to_string_lossy())?))
        });
        let text = chain(error);
        match found {
            Some((source, place)) => {
                Problem::usage(format!("use {}:{place}: failed to {text}", source.path.display()))
            }
            None => Problem::usage(text),
        }
        .next(next)
    }
}

/// Chooses, and writes down what was chosen.
#[derive(Default)]
struct Chooser {
    lines: Vec<String>,
}

impl Chooser {
    fn note(&mut self, name: &str, value: impl Display, source: &str) {
        self.lines.push(format!("{name} = {value}  ({source})"));
    }

    fn choose<T: Display>(&mut self, name: &str, flag: Option<T>, file: Option<T>, default: T) -> T {
        let (value, source) = match (flag, file) {
            (Some(value), _) => (value, "flag"),
            (None, Some(value)) => (value, "file"),
            (None, None) => (default, "default"),
        };
        self.note(name, &value, source);
        value
    }
}

fn merge(args: &CollectArgs, file: File, source: Option<Source>) -> Resolved {
    let File { log, limits, history, tls, audit, credential: credentials, .. } = file;
    let directory = source.as_ref().and_then(|source| source.path.parent()).unwrap_or(Path::new(""));
    let defaults = Config::default();
    let mut chooser = Chooser::default();
    let mut config = Config {
        otlp: chooser.choose("otlp_listen", args.otlp_listen, file.otlp_listen, defaults.otlp),
        otlp_http: chooser.choose(
            "otlp_http_listen",
            args.otlp_http_listen,
            file.otlp_http_listen,
            defaults.otlp_http,
        ),
        query: chooser.choose("query_listen", args.query_listen, file.query_listen, defaults.query),
        http: chooser.choose("http_listen", args.http_listen, file.http_listen, defaults.http),
        ..defaults
    };
    config.data = data(args.data.as_ref(), file.data.map(|path| directory.join(path)), &mut chooser);
    let memory = args.memory_limit.map(|bytes| Size(bytes as u64));
    config.memory_limit =
        chooser.choose("memory_limit", memory, file.memory_limit, Size(config.memory_limit)).0;
    let insecure = args.insecure.then_some(true);
    config.access.insecure = chooser.choose("insecure", insecure, file.insecure, false);
    config.access.local_metrics = chooser.choose("local_metrics", None, file.local_metrics, false);
    config.log = log_settings(args, &log, &config.log, &mut chooser);
    config.history = history_of(args, &history, directory, config.data.as_deref(), &mut chooser);
    config.limits = limits_of(&limits, &config.limits, &mut chooser);
    config.access.tls = tls_of(args, tls, directory, &mut chooser);
    config.access.audit = audit.map(|AuditSection { file, size }| {
        let file = directory.join(file);
        chooser.note("audit.file", file.display(), "file");
        AuditSettings { file, size: chooser.choose("audit.size", None, size, Size(AUDIT_SIZE)).0 }
    });
    for CredentialEntry(mut credential) in credentials {
        let shown = match &mut credential.proof {
            Proof::TokenFile(path) => {
                *path = directory.join(&*path);
                format!("token_file {}", path.display())
            }
            Proof::Certificate(name) => format!("certificate {name}"),
        };
        let names =
            |names: &Option<Vec<String>>| names.as_ref().map_or("all".into(), |names| names.join(" "));
        let roles: Vec<&str> = credential.roles.iter().map(|role| role.name()).collect();
        let (regions, tenants) = (names(&credential.scope.regions), names(&credential.scope.tenants));
        let roles = roles.join(" ");
        let value = format!("{}: {shown}; {roles}; regions {regions}; tenants {tenants}", credential.name);
        chooser.note("credential", value, "file");
        config.access.credentials.push(credential);
    }
    Resolved { config, lines: chooser.lines, source }
}

fn data(flag: Option<&PathBuf>, file: Option<PathBuf>, chooser: &mut Chooser) -> Option<PathBuf> {
    let (data, source) = match (flag, file) {
        (Some(path), _) => (Some(path.clone()), "flag"),
        (None, Some(path)) => (Some(path), "file"),
        (None, None) => (default_data().map(PathBuf::from), "default"),
    };
    match &data {
        Some(path) => chooser.note("data", path.display(), source),
        None => chooser.note("data", "-", "default"),
    }
    data
}

fn log_settings(
    args: &CollectArgs,
    file: &LogSection,
    defaults: &log::Settings,
    chooser: &mut Chooser,
) -> log::Settings {
    let flag = args.log_size.map(|bytes| Size(bytes as u64));
    let size = chooser.choose("log.size", flag, file.size, Size(defaults.max_bytes));
    let age = chooser.choose("log.age", args.log_age.map(Time), file.age, Time(defaults.max_age));
    let full = chooser.choose("log.full", args.log_full, file.full, LogFull::Refuse);
    let when_full = match full {
        LogFull::Refuse => WhenFull::Refuse,
        LogFull::DropOldest => WhenFull::DropOldest,
    };
    log::Settings::new(size.0, age.0, when_full)
}

impl Display for LogFull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Refuse => "refuse",
            Self::DropOldest => "drop-oldest",
        })
    }
}

fn limits_of(file: &LimitsSection, defaults: &Limits, chooser: &mut Chooser) -> Limits {
    let mut count = |name: &str, file, default: usize| chooser.choose(name, None, file, default);
    let (keys, hosts, series, stacks_per_bucket, agents, watchers) = (
        count("limits.rows", file.rows, defaults.keys),
        count("limits.hosts", file.hosts, defaults.hosts),
        count("limits.series", file.series, defaults.series),
        count("limits.stacks_per_row", file.stacks_per_row, defaults.stacks_per_bucket),
        count("limits.agents", file.agents, defaults.agents),
        count("limits.watchers", file.watchers, defaults.watchers),
    );
    let mut size = |name: &str, file, default: u64| chooser.choose(name, None, file, Size(default)).0;
    let memory = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
    let figures_bytes = memory(size("limits.figures", file.figures, defaults.figures_bytes as u64));
    let recent_bytes = memory(size("limits.recent", file.recent, defaults.recent_bytes as u64));
    let flame_bytes = memory(size("limits.stacks", file.stacks, defaults.flame_bytes as u64));
    let debug_info_bytes = size("limits.debug_info", file.debug_info, defaults.debug_info_bytes);
    let recordings_bytes = size("limits.recordings", file.recordings, defaults.recordings_bytes);
    let retention = chooser.choose("limits.retention", None, file.retention, Time(defaults.retention)).0;
    Limits {
        keys,
        hosts,
        series,
        figures_bytes,
        recent_bytes,
        flame_bytes,
        stacks_per_bucket,
        retention,
        debug_info_bytes,
        recordings_bytes,
        agents,
        watchers,
    }
}

fn tls_of(
    args: &CollectArgs,
    file: Option<TlsSection>,
    directory: &Path,
    chooser: &mut Chooser,
) -> Option<Tls> {
    let (tls, source) = match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => {
            let (certificate, key) = (certificate.clone(), key.clone());
            (Tls { certificate, key, client_ca: args.tls_client_ca.clone() }, "flag")
        }
        _ => {
            let TlsSection { certificate, key, client_ca } = file?;
            let at = |path: PathBuf| directory.join(path);
            (Tls { certificate: at(certificate), key: at(key), client_ca: client_ca.map(at) }, "file")
        }
    };
    chooser.note("tls.certificate", tls.certificate.display(), source);
    chooser.note("tls.key", tls.key.display(), source);
    if let Some(path) = &tls.client_ca {
        chooser.note("tls.client_ca", path.display(), source);
    }
    Some(tls)
}
