//! What LLVM's tools can read of a file: its core modules, one by one, and instructions in them to ask for.

use wasmparser::{Parser, Payload};

/// A core module with code.
pub struct CoreModule<'a> {
    pub bytes: &'a [u8],
    /// Where the Code section's content starts in the whole file.
    pub code_start: u64,
    /// Where it starts in `bytes`.
    code_in_module: u64,
    /// Where functions start, relative to the content.
    functions: Vec<u64>,
    /// Where instructions start, relative to the content.
    pub instructions: Vec<u64>,
}

impl CoreModule<'_> {
    /// The start of the function around an address, as LLVM's symbol table counts: from the start of the module. (Its
    /// symbols end some bytes early, as many as the size before a function takes.)
    pub fn symbol(&self, address: u64) -> u64 {
        let at = self.functions.partition_point(|start| *start <= address);
        self.functions[at - 1] + self.code_in_module
    }
}

/// The core modules of a module or component.
pub fn core_modules(bytes: &[u8]) -> Vec<CoreModule<'_>> {
    let mut out: Vec<CoreModule<'_>> = Vec::new();
    let (mut module, mut module_start) = (bytes, 0);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.unwrap() {
            Payload::ModuleSection { unchecked_range, .. } => {
                module_start = unchecked_range.start;
                module = &bytes[unchecked_range];
            }
            Payload::CodeSectionStart { range, .. } => {
                out.push(CoreModule {
                    bytes: module,
                    code_start: range.start as u64,
                    code_in_module: (range.start - module_start) as u64,
                    functions: Vec::new(),
                    instructions: Vec::new(),
                });
            }
            Payload::CodeSectionEntry(body) => {
                let Some(module) = out.last_mut() else { continue };
                let start = module.code_start;
                module.functions.push(body.range().start as u64 - start);
                let operators = body.get_operators_reader().unwrap().into_iter_with_offsets();
                let starts = operators.map(|operator| operator.unwrap().1 as u64 - start);
                module.instructions.extend(starts);
            }
            _ => {}
        }
    }
    out
}

/// So many of them, each at most once, the same for the same seed.
pub fn choose(instructions: &[u64], count: usize, seed: u64) -> Vec<u64> {
    let mut all = instructions.to_vec();
    // The largest odd fraction of 2^64 makes neighbouring seeds unlike each other.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for at in 0..count.min(all.len()) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let rest = all.len() - at;
        all.swap(at, at + state as usize % rest);
    }
    all.truncate(count);
    all
}

/// The module without what names functions outside of DWARF. No byte moves.
pub fn without_names(module: &[u8]) -> Vec<u8> {
    let mut out = module.to_vec();
    for payload in Parser::new(0).parse_all(module) {
        match payload.unwrap() {
            // Exports become a custom section with an empty name.
            Payload::ExportSection(section) => {
                let content = section.range().start;
                let size_field = (1..6).find(|len| module[content - len - 1] == 7).unwrap();
                out[content - size_field - 1] = 0;
                out[content] = 0;
            }
            Payload::CustomSection(section) if section.name() == "name" => {
                out[section.data_offset() - section.name().len()] = b'-';
            }
            _ => {}
        }
    }
    out
}
