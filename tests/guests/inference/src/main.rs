//! The guest `inference`: reads digits with a small int8 network, by SIMD.
//!
//! `inference SAMPLE` shows one of the built-in samples and says which digit it is and
//! how sure it is; `inference --batch N [SEED]` classifies N samples, with fresh noise
//! from the second round on, and prints the accuracy. `train.py` trained the network
//! and says how its two files are laid out; the layers are in `network.rs`.

mod network;
mod samples;

use std::process::ExitCode;

use crate::network::Network;
use crate::samples::{Noise, Sample};

const USAGE: &str = "usage: inference SAMPLE | --batch N [SEED]";

static WEIGHTS: &[u8] = include_bytes!("../weights.bin");

/// What the network says of one image.
struct Verdict {
    digit: usize,
    /// The softmax of the digit's logit, 0..=1.
    confidence: f32,
    second: usize,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let network = match Network::parse(WEIGHTS) {
        Ok(network) => network,
        Err(error) => {
            eprintln!("inference: weights.bin: {error}");
            return ExitCode::FAILURE;
        }
    };
    match parse(&args) {
        Some(Task::One(index)) => match samples::get(index) {
            Some(sample) => show(&network, &sample),
            None => {
                eprintln!("inference: there are samples 0 to {}", samples::COUNT - 1);
                return ExitCode::from(2);
            }
        },
        Some(Task::Batch { count, seed }) => batch(&network, count, seed),
        None => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

enum Task {
    One(usize),
    Batch { count: u64, seed: u64 },
}

fn parse(args: &[&str]) -> Option<Task> {
    match args {
        ["--batch", count] => Some(Task::Batch { count: count.parse().ok()?, seed: 1 }),
        ["--batch", count, seed] => {
            Some(Task::Batch { count: count.parse().ok()?, seed: seed.parse().ok()? })
        }
        [index] => Some(Task::One(index.parse().ok()?)),
        _ => None,
    }
}

fn show(network: &Network, sample: &Sample) {
    for row in sample.pixels.chunks(samples::SIDE) {
        let line: String =
            row.iter().map(|pixel| b" .:-=+*#%@"[usize::from(*pixel) * 9 / 15] as char).collect();
        println!("  {line}");
    }
    let verdict = classify(network, sample);
    println!(
        "digit {} with confidence {:.1} % (next guess {}, truth {})",
        verdict.digit,
        verdict.confidence * 100.0,
        verdict.second,
        sample.label,
    );
}

fn batch(network: &Network, count: u64, seed: u64) {
    let mut noise = Noise::new(seed);
    let mut right = 0_u64;
    let mut confidence = 0.0_f64;
    for turn in 0..count {
        let index = (turn % samples::COUNT as u64) as usize;
        let mut sample = samples::get(index).expect("the index is below COUNT");
        if turn >= samples::COUNT as u64 {
            noise.disturb(&mut sample);
        }
        let verdict = classify(network, &sample);
        right += u64::from(verdict.digit == usize::from(sample.label));
        confidence += f64::from(verdict.confidence);
    }
    let share = |part: f64| if count == 0 { 0.0 } else { part * 100.0 / count as f64 };
    println!(
        "{count} samples, {right} right ({:.1} %), mean confidence {:.1} %",
        share(right as f64),
        share(confidence),
    );
}

#[inline(never)]
fn classify(network: &Network, sample: &Sample) -> Verdict {
    let logits = network.run(&sample.inputs());
    let mut ranked: Vec<usize> = (0..logits.len()).collect();
    ranked.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    let best = logits[ranked[0]];
    let total: f32 = logits.iter().map(|logit| (logit - best).exp()).sum();
    Verdict { digit: ranked[0], confidence: total.recip(), second: ranked[1] }
}
