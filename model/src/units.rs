//! Numbers as people read them. Machines get plain numbers in base units instead.

/// Seconds as `12.4 ms`, `3.1 s`, `250 ns`.
pub fn duration(seconds: f64) -> String {
    if seconds == 0.0 {
        return "0".to_owned();
    }
    let (scaled, unit) = match seconds.abs() {
        s if s < 1e-6 => (seconds * 1e9, "ns"),
        s if s < 1e-3 => (seconds * 1e6, "µs"),
        s if s < 1.0 => (seconds * 1e3, "ms"),
        s if s < 120.0 => (seconds, "s"),
        s if s < 7200.0 => (seconds / 60.0, "min"),
        _ => (seconds / 3600.0, "h"),
    };
    format!("{} {unit}", three_digits(scaled))
}

/// Bytes as `38 MiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{} {}", three_digits(value), UNITS[unit]) }
}

/// A count as `1.2k`, `34M`.
pub fn count(n: u64) -> String {
    match n {
        0..=9_999 => n.to_string(),
        10_000..=999_999 => format!("{}k", three_digits(n as f64 / 1e3)),
        1_000_000..=999_999_999 => format!("{}M", three_digits(n as f64 / 1e6)),
        _ => format!("{}G", three_digits(n as f64 / 1e9)),
    }
}

/// A share 0..=1 as `12.3 %`.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A time of so many seconds since 1970 as `2026-11-23T20:30:00Z`; days to dates of the proleptic Gregorian calendar, by
/// eras of 400 years.
pub fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Months from March on, whose lengths are those of a line.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    let year = era * 400 + year;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

fn three_digits(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_735_689_599), "2024-12-31T23:59:59Z");
    }

    #[test]
    fn values_keep_three_digits() {
        for (value, text) in
            [(0.0124, "12.4 ms"), (3.1, "3.10 s"), (250e-9, "250 ns"), (0.0, "0"), (7300.0, "2.03 h")]
        {
            assert_eq!(duration(value), text);
        }
        for (value, text) in [(12, "12 B"), (39_845_888, "38.0 MiB"), (1023, "1.00 KiB")] {
            assert_eq!(bytes(value), text);
        }
        assert_eq!(count(12_345), "12.3k");
        assert_eq!(percent(0.123), "12.3 %");
    }
}
