//! Finds the core modules of a file, which is one or a component that has some, and replaces them in place.

use std::ops::Range;

use wasmparser::{BinaryReader, Encoding, Parser, Payload};

use super::module::Module;
use super::output::Output;
use super::plan::Plan;
use super::{Instrumented, MAX_DEPTH, NotInstrumented, emit};

/// Section ids of components (component-model, Binary.md).
const CORE_MODULE: u8 = 1;
const COMPONENT: u8 = 4;

/// Bytes of the preamble: magic, version, layer.
const PREAMBLE: usize = 8;

/// Writes the whole input to `out`, its core modules instrumented. Returns them; there is at least one.
pub(super) fn rewrite(out: &mut Output<'_>, period: u32) -> Result<Vec<Instrumented>, NotInstrumented> {
    let whole = 0..out.input.len();
    let mut modules = Modules { period, count: 0, instrumented: Vec::new(), refused: None };
    match encoding(out.input, whole.clone())? {
        Encoding::Module => modules.module(out, whole)?,
        Encoding::Component => modules.component(out, whole, 0)?,
    }
    if modules.instrumented.is_empty() {
        return Err(modules.refused.unwrap_or(NotInstrumented::NoAllocator));
    }
    Ok(modules.instrumented)
}

fn encoding(wasm: &[u8], range: Range<usize>) -> Result<Encoding, NotInstrumented> {
    match Parser::new(range.start as u64).parse_all(&wasm[range]).next().transpose()? {
        Some(Payload::Version { encoding, .. }) => Ok(encoding),
        _ => Err(NotInstrumented::NoAllocator),
    }
}

struct Modules {
    period: u32,
    /// Core modules so far.
    count: u32,
    instrumented: Vec<Instrumented>,
    /// Why a module with allocators could not be instrumented.
    refused: Option<NotInstrumented>,
}

impl Modules {
    fn component(
        &mut self,
        out: &mut Output<'_>,
        range: Range<usize>,
        depth: u32,
    ) -> Result<(), NotInstrumented> {
        if depth > MAX_DEPTH {
            return Err(NotInstrumented::TooDeep { limit: MAX_DEPTH });
        }
        let input = out.input;
        encoding(input, range.clone())?;
        out.copy(range.start..range.start + PREAMBLE);
        let mut reader = BinaryReader::new(&input[range.clone()], range.start);
        reader.read_bytes(PREAMBLE)?;
        while !reader.eof() {
            let start = reader.original_position();
            let id = reader.read_u8()?;
            let size = reader.read_var_u32()?;
            let payload = reader.original_position();
            reader.read_bytes(size as usize)?;
            let payload = payload..reader.original_position();
            if id != CORE_MODULE && id != COMPONENT {
                out.copy(start..payload.end);
                continue;
            }
            let section = out.open_section(id);
            if id == CORE_MODULE {
                self.module(out, payload)?;
            } else {
                self.component(out, payload, depth + 1)?;
            }
            out.close(section)?;
        }
        Ok(())
    }

    /// Writes the core module at `range`, instrumented if it can be.
    fn module(&mut self, out: &mut Output<'_>, range: Range<usize>) -> Result<(), NotInstrumented> {
        let ordinal = self.count;
        self.count += 1;
        let module = Module::read(out.input, range.clone())?;
        let start = out.position();
        match Plan::new(&module, self.period) {
            Ok(plan) => {
                emit::module(out, &module, &plan)?;
                let written = start as u64..out.position() as u64;
                self.instrumented.push(Instrumented::new(ordinal, written, &module, &plan));
            }
            Err(malformed @ NotInstrumented::Malformed(_)) => return Err(malformed),
            Err(reason) => {
                if !matches!(reason, NotInstrumented::NoAllocator) {
                    self.refused.get_or_insert(reason);
                }
                out.copy(range);
            }
        }
        Ok(())
    }
}

impl Instrumented {
    fn new(ordinal: u32, range: Range<u64>, module: &Module<'_>, plan: &Plan<'_>) -> Self {
        let freed = plan.live.ok().map(|live| live.freed);
        Self {
            ordinal,
            range,
            reporters: [plan.sampled].into_iter().chain(freed).collect(),
            allocators: plan.allocators.iter().map(|allocator| allocator.name.to_owned()).collect(),
            live: plan.live.map(|_| ()),
            functions: module.function_count(),
            copies: plan.allocators.iter().map(|allocator| (allocator.copy, allocator.function)).collect(),
        }
    }
}
