//! A guest whose truth is known: three blocks, whose CPU time the host takes from the thread's clock at each
//! boundary, independently of the sampler.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result};
use sandscope_host::Loaded;
use sandscope_model::{Frame, Profile};
use wasmparser::{Operator, Parser, Payload};
use wasmtime::{Caller, Engine, Linker, Module, Store};

use crate::clock;
use crate::stats::Random;

/// The guest's text.
pub const TEXT: &str = include_str!("../kernels/planted.wat");
/// Blocks of the guest.
pub const BLOCKS: usize = 3;
/// Steps of a block that take about a millisecond.
const STEPS_PER_MS: f64 = 300_000.0;

/// CPU time by the thread's clock.
#[derive(Clone, Copy, Default)]
pub struct Clocked {
    /// Of each block.
    pub blocks: [Duration; BLOCKS],
    /// Of everything.
    pub all: Duration,
}

struct Marks {
    last: Duration,
    blocks: [Duration; BLOCKS],
}

/// Calls the guest on this thread until it has spent `cpu`. `weights`: the blocks' lengths in each call, whose
/// whole varies at random from a fraction of the sampler's period to many of them.
pub fn run(
    engine: &Engine,
    guest: &Loaded<Module>,
    weights: [f64; BLOCKS],
    cpu: Duration,
    seed: u64,
) -> wasmtime::Result<Clocked> {
    let mut linker = Linker::new(engine);
    linker.func_wrap("bench", "mark", |mut caller: Caller<'_, Marks>, boundary: i32| {
        let now = clock::thread();
        let marks = caller.data_mut();
        if let Some(block) = usize::try_from(boundary - 1).ok().and_then(|i| marks.blocks.get_mut(i)) {
            *block += now.saturating_sub(marks.last);
        }
        marks.last = clock::thread();
    })?;
    let mut store = Store::new(engine, Marks { last: Duration::ZERO, blocks: Default::default() });
    let workload = guest.workload();
    let instance = workload.instantiate(|| linker.instantiate(&mut store, guest))?;
    let run = instance.get_typed_func::<(i32, i32, i32), ()>(&mut store, "run")?;
    let mut random = Random(seed);
    let started = clock::thread();
    while clock::thread() - started < cpu {
        let milliseconds = 0.5 + random.below(160_000) as f64 / 1000.0;
        let [a, b, c] = weights.map(|weight| (weight * milliseconds * STEPS_PER_MS) as i32);
        workload.call(|| run.call(&mut store, (a, b, c)))?;
    }
    Ok(Clocked { blocks: store.data().blocks, all: clock::thread() - started })
}

/// Where the blocks are in the file: the function's loops, in order.
pub fn places(module: &[u8]) -> Result<Vec<Range<u64>>> {
    let body = Parser::new(0).parse_all(module).find_map(|payload| match payload {
        Ok(Payload::CodeSectionEntry(body)) => Some(body),
        _ => None,
    });
    let mut open = Vec::new();
    let mut loops = Vec::new();
    let operators = body.context("no function")?.get_operators_reader()?;
    for operator in operators.into_iter_with_offsets() {
        let (operator, offset) = operator?;
        match operator {
            Operator::Loop { .. } => open.push(Some(offset as u64)),
            Operator::Block { .. } | Operator::If { .. } => open.push(None),
            Operator::End => {
                if let Some(Some(start)) = open.pop() {
                    loops.push(start..offset as u64);
                }
            }
            _ => {}
        }
    }
    Ok(loops)
}

/// CPU nanoseconds of a profile by block of the leaf's offset, and of everything.
pub fn sampled(profile: &Profile, places: &[Range<u64>]) -> ([u64; BLOCKS], u64) {
    let (mut blocks, mut all) = ([0; BLOCKS], 0);
    for (stack, weight) in profile.iter() {
        all += weight.value;
        let leaf = stack.first().map(|&frame| &profile.frames[frame as usize]);
        if let Some(Frame::Guest { offset, .. }) = leaf
            && let Some(block) = places.iter().position(|place| place.contains(offset))
        {
            blocks[block] += weight.value;
        }
    }
    (blocks, all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The three loops are found, apart and in order.
    #[test]
    fn blocks_are_found() {
        let places = places(&wat::parse_str(TEXT).unwrap()).unwrap();
        assert_eq!(places.len(), BLOCKS);
        assert!(places.windows(2).all(|pair| pair[0].end < pair[1].start));
    }
}
