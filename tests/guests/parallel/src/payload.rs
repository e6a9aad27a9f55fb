//! Payloads: a batch of readings as text, and what is kept of them.
//!
//! ```text
//! device=pump-17;value=-3.25;unit=bar
//! ```

use std::fmt::{self, Display, Write};

/// Lines of one payload: enough parsing that others queue behind it.
const LINES: u64 = 24;

const DEVICES: [&str; 4] = ["pump", "valve", "motor", "tank"];

pub struct Reading<'a> {
    pub device: &'a str,
    /// In thousandths, so that sums are exact in any order.
    pub value: i64,
}

#[derive(Default)]
pub struct Statistics {
    pub count: u64,
    pub sum: i64,
    largest: Option<i64>,
}

impl Statistics {
    pub fn add(&mut self, value: i64) {
        self.count += 1;
        self.sum += value;
        self.largest = self.largest.max(Some(value));
    }
}

impl Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mean = self.sum as f64 / 1_000.0 / self.count.max(1) as f64;
        let largest = self.largest.unwrap_or_default() as f64 / 1_000.0;
        write!(f, "{} readings, mean {mean:.3}, largest {largest:.3}", self.count)
    }
}

/// The payload with this number: always the same text.
#[inline(never)]
pub fn text_of(item: u64) -> String {
    let mut text = String::with_capacity(LINES as usize * 40);
    let mut state = item.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for _ in 0..LINES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let device = DEVICES[(state >> 8 & 3) as usize];
        let number = state >> 16 & 63;
        let sign = if state >> 24 & 1 == 0 { "" } else { "-" };
        let (whole, part) = (state >> 25 & 127, state >> 33 & 1023);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "device={device}-{number};value={sign}{whole}.{:03};unit=bar", part % 1000);
    }
    text
}

/// A line's reading, if it has a device and a value.
#[inline(never)]
pub fn parse_line(line: &str) -> Option<Reading<'_>> {
    let mut device = None;
    let mut value = None;
    for field in line.split(';') {
        match field.split_once('=')? {
            ("device", name) => device = Some(name),
            ("value", text) => value = Some(parse_thousandths(text)?),
            _ => {}
        }
    }
    Some(Reading { device: device?, value: value? })
}

/// "-3.25" as -3250.
fn parse_thousandths(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let mut thousandths: i64 = whole.parse().ok()?;
    for place in 0..3 {
        let digit = part.as_bytes().get(place).copied().unwrap_or(b'0');
        thousandths = thousandths * 10 + i64::from(char::from(digit).to_digit(10)?);
    }
    Some(sign * thousandths)
}
