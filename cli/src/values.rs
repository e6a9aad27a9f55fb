//! Values of flags: what a text stands for, and what stands where none is given.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use sandscope_collector::history::{NotAPlace, Table};

use crate::args::HistoryAt;

/// Where compiled modules are kept by default; `None` without a home.
pub fn default_cache() -> Option<&'static str> {
    static DEFAULT: LazyLock<Option<String>> = LazyLock::new(|| {
        let cache = user_directory("XDG_CACHE_HOME", ".cache")?;
        cache.join("sandscope/modules").into_os_string().into_string().ok()
    });
    DEFAULT.as_deref()
}

/// Where recordings go by default: the user's state directory, with a folder of ours. `None` without a home.
pub fn default_recordings() -> Option<PathBuf> {
    Some(user_directory("XDG_STATE_HOME", ".local/state")?.join("sandscope/recordings"))
}

/// Where a collector keeps its log by default; `None` without a home.
pub fn default_data() -> Option<&'static str> {
    static DEFAULT: LazyLock<Option<String>> = LazyLock::new(|| {
        let state = user_directory("XDG_STATE_HOME", ".local/state")?;
        state.join("sandscope/collector").into_os_string().into_string().ok()
    });
    DEFAULT.as_deref()
}

/// A directory of the XDG Base Directory Specification: the variable's, or this folder at home.
pub fn user_directory(variable: &str, at_home: &str) -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(variable).or_else(|| Some(absolute("HOME")?.join(at_home)))
}

/// Where a collector keeps its history; `off` for none.
pub fn history(text: &str) -> Result<HistoryAt, String> {
    if text == "off" {
        return Ok(HistoryAt::Off);
    }
    text.parse().map(HistoryAt::Place).map_err(|error: NotAPlace| error.to_string())
}

/// How long a table's rows, or those of all, stay in the history.
pub fn keep(text: &str) -> Result<(Option<Table>, Duration), String> {
    let Some((table, time)) = text.split_once('=') else { return Ok((None, duration(text)?)) };
    let names = || Table::ALL.map(Table::name).join(", ");
    let table = Table::parse(table).ok_or_else(|| format!("{table:?} is none of {}", names()))?;
    Ok((Some(table), duration(time)?))
}

/// How long a capture may take.
pub fn capture_time(text: &str) -> Result<Duration, String> {
    let most = sandscope_host::capture::MAX_DURATION;
    let duration = duration(text)?;
    if duration <= most { Ok(duration) } else { Err(format!("it can be {most:?} at most")) }
}

/// Samples per second of a capture.
pub fn capture_hz(text: &str) -> Result<f64, String> {
    let hz = text.parse().ok().filter(|hz| (1.0..=10_000.0).contains(hz));
    hz.ok_or_else(|| "it can be 1 to 10000".to_owned())
}

/// How much of the past a host keeps: up to an hour.
pub fn recorder_time(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    let fits = (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&time);
    if fits { Ok(time) } else { Err("it can be 1s to 1h".to_owned()) }
}

/// Memory for it.
pub fn recorder_size(text: &str) -> Result<usize, String> {
    let size = bytes(text)?;
    if size >= 1 << 20 { Ok(size) } else { Err("it is 1MiB at least".to_owned()) }
}

/// A number of seconds.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.trim_end_matches('s').parse().map_err(|_| format!("{text:?} is no number"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// A time with its unit, seconds without.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.trim_end_matches(char::is_alphabetic).len());
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(format!("{unit:?} is no unit of time; use ms, s, m, h or d")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is no time, such as 30s"))?;
    Duration::try_from_secs_f64(number * factor).map_err(|error| error.to_string())
}

/// A size with its unit, bytes without.
pub fn bytes(text: &str) -> Result<usize, String> {
    let (number, unit) = text.split_at(text.trim_end_matches(char::is_alphabetic).len());
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1_048_576.0,
        "g" | "gib" => 1_073_741_824.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        _ => return Err(format!("{unit:?} is no unit of size; use KiB, MiB or GiB")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is no size, such as 64MiB"))?;
    let bytes = number * factor;
    if (0.0..1e15).contains(&bytes) { Ok(bytes as usize) } else { Err(format!("{text:?} is out of range")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_parse() {
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("20"), Ok(Duration::from_secs(20)));
        assert!(duration("5 parsecs").is_err());
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert!(bytes("-1").is_err());
    }
}
