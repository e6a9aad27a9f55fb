//! What only the file of a guest says and its compiled form does not: the core modules in it, which functions
//! they import, and which global is the pointer of LLVM's stack in linear memory.

use wasmparser::{
    ConstExpr, DataKind, Encoding, FunctionBody, KnownCustom, Name, NameSectionReader, Operator, Parser,
    Payload,
};
use wasmparser::{ImportSectionReader, TypeRef, ValType};

/// Core modules that are looked at.
const MAX_MODULES: usize = 1000;

/// Bytes of all imports that are kept, names and their overhead: what a sidecar has room for.
const MAX_IMPORTS: usize = 8 << 20;
const OVERHEAD: usize = 16;

/// Name of the stack pointer, as LLVM gives it.
const STACK_POINTER: &str = "__stack_pointer";

/// Operators at the start of a function among which a prologue is looked for: unoptimized code moves each
/// value through a local.
const PROLOGUE: usize = 8;

/// One core module of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreModule {
    /// Module and name of the imported functions, in the order of their indices; the first 8 MiB of them.
    pub imported_functions: Vec<(String, String)>,
    /// Index of the global that holds the stack pointer, if the module has one.
    ///
    /// # Accuracy
    /// By its name, where the name section or the imports have one; else global 0, if it looks like LLVM's
    /// and a function takes from it what LLVM's prologues take.
    pub stack_pointer: Option<u32>,
}

/// The core modules of a guest, in the order in which they begin; what is malformed ends the list.
pub(crate) fn core_modules(bytes: &[u8]) -> Vec<CoreModule> {
    let mut walk = Walk { modules: Vec::new(), open: Vec::new(), room: MAX_IMPORTS };
    for payload in Parser::new(0).parse_all(bytes) {
        if payload.and_then(|payload| walk.take(&payload)).is_err() {
            break;
        }
    }
    let modules = walk.modules.into_iter();
    modules
        .map(|Seen { mut module, llvm, prologue, .. }| {
            module.stack_pointer = module.stack_pointer.or((llvm && prologue).then_some(0));
            module
        })
        .collect()
}

/// Bytes of the stack that LLVM keeps in a guest's memory: it grows down from there to address 0 of the first
/// memory that an instance of the guest defines. `None` unless that is certain: one core module defines a
/// memory, only one; its stack pointer starts as a constant; and all data lies above that (`--stack-first`).
pub(crate) fn shadow_stack(bytes: &[u8]) -> Option<u64> {
    let mut walk = Walk { modules: Vec::new(), open: Vec::new(), room: MAX_IMPORTS };
    for payload in Parser::new(0).parse_all(bytes) {
        payload.and_then(|payload| walk.take(&payload)).ok()?;
    }
    let mut with_memory = walk.modules.into_iter().filter(|seen| seen.memories > 0);
    let (Some(seen), None) = (with_memory.next(), with_memory.next()) else { return None };
    let pointer = seen.module.stack_pointer.or((seen.llvm && seen.prologue).then_some(0))?;
    let defined = pointer.checked_sub(seen.imported_globals)? as usize;
    let top = seen.constants.get(defined).copied().flatten()?;
    (seen.memories == 1 && !seen.imports_memory && seen.lowest_data >= Some(top) && top > 0).then_some(top)
}

struct Walk {
    modules: Vec<Seen>,
    /// What the current place is in, outermost first: a core module by index, or a component.
    open: Vec<Option<usize>>,
    /// Bytes of imports that may still be kept.
    room: usize,
}

#[derive(Default)]
struct Seen {
    module: CoreModule,
    imported_globals: u32,
    /// Whether global 0 is as LLVM's stack pointer: defined here, mutable, an integer that starts constant.
    llvm: bool,
    /// Whether a function starts by lowering global 0.
    prologue: bool,
    /// Memories that it defines.
    memories: u32,
    imports_memory: bool,
    /// What the first globals that it defines start as, where that is a constant.
    constants: Vec<Option<u64>>,
    /// Lowest address that data is put at; `None` if there is none, or it is not known.
    lowest_data: Option<u64>,
}

/// Globals whose start is kept: the linker puts the stack pointer first.
const MAX_CONSTANTS: usize = 16;

/// A constant expression's value, if it is a plain constant.
fn constant(expression: &ConstExpr<'_>) -> wasmparser::Result<Option<u64>> {
    Ok(match expression.get_operators_reader().read()? {
        Operator::I32Const { value } => Some(u64::from(value.cast_unsigned())),
        Operator::I64Const { value } => Some(value.cast_unsigned()),
        _ => None,
    })
}

impl Walk {
    fn take(&mut self, payload: &Payload<'_>) -> wasmparser::Result<()> {
        match payload {
            Payload::Version { encoding: Encoding::Module, .. } if self.modules.len() < MAX_MODULES => {
                self.open.push(Some(self.modules.len()));
                self.modules.push(Seen::default());
                return Ok(());
            }
            Payload::Version { .. } => self.open.push(None),
            Payload::End(_) => drop(self.open.pop()),
            _ => {}
        }
        let Some(seen) = self.open.last().copied().flatten().and_then(|at| self.modules.get_mut(at)) else {
            return Ok(());
        };
        match payload {
            Payload::ImportSection(section) => {
                seen.imports(section.clone(), &mut self.room)?;
            }
            Payload::MemorySection(section) => seen.memories = section.count(),
            Payload::GlobalSection(section) => {
                for (at, global) in section.clone().into_iter().take(MAX_CONSTANTS).enumerate() {
                    let global = global?;
                    let starts = constant(&global.init_expr)?;
                    seen.constants.push(starts);
                    seen.llvm |= at == 0
                        && seen.imported_globals == 0
                        && global.ty.mutable
                        && matches!(global.ty.content_type, ValType::I32 | ValType::I64)
                        && starts.is_some();
                }
            }
            Payload::DataSection(section) => {
                seen.lowest_data = Some(u64::MAX);
                for data in section.clone() {
                    if let DataKind::Active { offset_expr, .. } = data?.kind {
                        let at = constant(&offset_expr)?;
                        seen.lowest_data = seen.lowest_data.min(at);
                    }
                }
            }
            Payload::CodeSectionEntry(body) if seen.llvm && !seen.prologue => {
                seen.prologue = lowers_stack_pointer(body)?;
            }
            Payload::CustomSection(section) => {
                if let KnownCustom::Name(names) = section.as_known() {
                    // Names are no part of what engines validate; a module without them is still one.
                    let _ = seen.names(names);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Seen {
    fn imports(&mut self, section: ImportSectionReader<'_>, room: &mut usize) -> wasmparser::Result<()> {
        for import in section.into_imports() {
            let import = import?;
            match import.ty {
                TypeRef::Func(_) | TypeRef::FuncExact(_) => {
                    // The first without room ends all: what is kept are the first indices.
                    *room = room.saturating_sub(import.module.len() + import.name.len() + OVERHEAD);
                    if *room > 0 {
                        let names = (import.module.to_owned(), import.name.to_owned());
                        self.module.imported_functions.push(names);
                    }
                }
                TypeRef::Global(_) => {
                    if import.name == STACK_POINTER {
                        self.module.stack_pointer = Some(self.imported_globals);
                    }
                    self.imported_globals += 1;
                }
                TypeRef::Memory(_) => self.imports_memory = true,
                _ => {}
            }
        }
        Ok(())
    }

    fn names(&mut self, section: NameSectionReader<'_>) -> wasmparser::Result<()> {
        for subsection in section {
            let Name::Global(globals) = subsection? else { continue };
            for naming in globals {
                let naming = naming?;
                if naming.name == STACK_POINTER {
                    self.module.stack_pointer = Some(naming.index);
                }
            }
        }
        Ok(())
    }
}

/// Whether a function starts with `global.get 0`, a constant, and a subtraction, with nothing but moves
/// through locals between them.
fn lowers_stack_pointer(body: &FunctionBody<'_>) -> wasmparser::Result<bool> {
    let mut operators = body.get_operators_reader()?.into_iter().take(PROLOGUE);
    if !matches!(operators.next().transpose()?, Some(Operator::GlobalGet { global_index: 0 })) {
        return Ok(false);
    }
    let mut constant = false;
    for operator in operators {
        match operator? {
            Operator::I32Const { .. } | Operator::I64Const { .. } => constant = true,
            Operator::LocalGet { .. } | Operator::LocalSet { .. } | Operator::LocalTee { .. } => {}
            Operator::I32Sub | Operator::I64Sub => return Ok(constant),
            _ => return Ok(false),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(wat: &str, want: Option<u32>) {
        let bytes = wat::parse_str(wat).unwrap();
        let [module] = &core_modules(&bytes)[..] else { panic!("one module") };
        assert_eq!(module.stack_pointer, want, "{wat}");
    }

    const PROLOGUES: &str = "(func (local i32)
        global.get 0 i32.const 16 i32.sub local.tee 0 global.set 0)";

    /// A name decides; without one, global 0 counts only where functions use it as LLVM's do.
    #[test]
    fn stack_pointers_are_found() {
        let llvm = "(global (mut i32) (i32.const 1048576))";
        check(&format!("(module {llvm} {PROLOGUES})"), Some(0));
        check(
            &format!(
                "(module {llvm} (func (local i32 i32) global.get 0 local.set 0 i32.const 16 local.set 1
                local.get 0 local.get 1 i32.sub drop))"
            ),
            Some(0),
        );
        check(&format!("(module {llvm} (func (drop (global.get 0))))"), None);
        check(
            "(module (global i32 (i32.const 8)) (func (drop (i32.sub (global.get 0) (i32.const 1)))))",
            None,
        );
        check(
            "(module (global $a (mut i32) (i32.const 1)) (global $__stack_pointer (mut i32) (i32.const 1)))",
            Some(1),
        );
        check(
            r#"(module (import "env" "x" (global i32)) (import "env" "__stack_pointer" (global (mut i32))))"#,
            Some(1),
        );
        check("(module)", None);
    }

    /// The size of the stack in memory is known only where nothing else can lie below its top.
    #[test]
    fn stacks_in_memory_are_found_where_they_are_certain() {
        let check = |wat: &str, want: Option<u64>| {
            assert_eq!(shadow_stack(&wat::parse_str(wat).unwrap()), want, "{wat}");
        };
        let pointer = "(global $__stack_pointer (mut i32) (i32.const 65536))";
        let above = "(data (i32.const 65536) \"x\")";
        check(&format!("(module (memory 2) {pointer} {above})"), Some(65_536));
        // Data below, data at an unknown place, another memory, no memory of its own, no stack pointer.
        check(&format!("(module (memory 2) {pointer} {above} (data (i32.const 1024) \"x\"))"), None);
        check(
            &format!(
                r#"(module (import "" "at" (global i32)) (memory 2) {pointer} (data (global.get 0) "x"))"#
            ),
            None,
        );
        check(&format!("(module (memory 2) (memory 1) {pointer} {above})"), None);
        check(&format!(r#"(module (import "" "m" (memory 2)) {pointer} {above})"#), None);
        check(&format!("(module (memory 2) {above})"), None);
        // The adapter in a component has a stack pointer too, but its memory is another module's.
        let main = format!("(core module (memory 2) {pointer} {above})");
        let adapter = r#"(core module (import "" "m" (memory 0))
            (global $__stack_pointer (mut i32) (i32.const 0)))"#;
        check(&format!("(component {main} {adapter})"), Some(65_536));
        check(&format!("(component {main} {main})"), None);
    }

    /// Components hold several; each has its own imports.
    #[test]
    fn components_are_walked() {
        let bytes = wat::parse_str(
            r#"(component
                (core module (import "a" "f" (func)) (import "a" "m" (memory 1)) (import "b" "g" (func)))
                (core module (global $__stack_pointer (mut i32) (i32.const 1))))"#,
        )
        .unwrap();
        let modules = core_modules(&bytes);
        let names = [("a".to_owned(), "f".to_owned()), ("b".to_owned(), "g".to_owned())];
        assert_eq!(modules[0], CoreModule { imported_functions: names.into(), stack_pointer: None });
        assert_eq!(modules[1].stack_pointer, Some(0));
        assert!(core_modules(&bytes[..20]).len() <= 1, "what is cut is no reason to panic");
    }

    /// A guest with more names than a sidecar has room for is known by its first imports, not refused.
    #[test]
    fn imports_are_bounded() {
        let import = |n: usize| format!(r#"(import "a" "{n}{}" (func))"#, "x".repeat(99_000));
        let wat = format!("(module {})", (0..100).map(import).collect::<String>());
        let [module] = &core_modules(&wat::parse_str(wat).unwrap())[..] else { panic!("one module") };
        let kept = &module.imported_functions;
        assert!((80..100).contains(&kept.len()), "{}", kept.len());
        assert!(kept.iter().enumerate().all(|(n, (_, name))| name.starts_with(&format!("{n}x"))));
    }
}
