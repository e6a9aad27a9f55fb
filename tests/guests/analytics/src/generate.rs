//! Synthetic events: the same seed gives the same lines, on every engine.

use std::fmt::Write;

/// Routes of a shop, with the share of requests (of 100) and the usual latency in ms.
const ROUTES: [(&str, u64, f64); 6] = [
    ("catalog", 45, 8.0),
    ("search", 22, 35.0),
    ("cart", 15, 12.0),
    ("checkout", 9, 80.0),
    ("login", 6, 150.0),
    ("export", 3, 900.0),
];

const REGIONS: [&str; 5] = ["fra", "iad", "nrt", "syd", "gru"];

pub struct Generator {
    state: u64,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// One event as a line of JSON, because parsing is part of the load.
    pub fn next_line(&mut self) -> String {
        let (key, latency) = self.route();
        let user = self.user();
        let latency_ms = latency * self.spread();
        let bytes = 200 + self.below(40_000);
        let status = match self.below(100) {
            0 => 503,
            1..=3 => 404,
            _ => 200,
        };
        let mut line = format!(
            r#"{{"key":"{key}","user":"u{user}","latency_ms":{latency_ms:.3},"bytes":{bytes},"status":{status},"tags":["region:{}""#,
            REGIONS[self.below(REGIONS.len() as u64) as usize],
        );
        if self.below(4) == 0 {
            let _ = write!(line, r#","trace:{:016x}""#, self.next());
        }
        line.push_str("]}");
        line
    }

    fn route(&mut self) -> (&'static str, f64) {
        let mut ticket = self.below(100);
        for (key, share, latency) in ROUTES {
            match ticket.checked_sub(share) {
                Some(rest) => ticket = rest,
                None => return (key, latency),
            }
        }
        unreachable!("the shares add up to 100");
    }

    /// A few users make most of the requests.
    fn user(&mut self) -> u64 {
        let crowd = 1 << self.below(11);
        self.below(crowd)
    }

    /// A factor around 1 with a long tail to the right, as latencies have.
    fn spread(&mut self) -> f64 {
        let mut factor = 0.25;
        for _ in 0..4 {
            factor *= 1.0 + self.below(1_000) as f64 / 1_000.0;
        }
        if self.below(200) == 0 { factor * 12.0 } else { factor }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
