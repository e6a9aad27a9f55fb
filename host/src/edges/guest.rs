//! The guests that are sampled, and the check of one stack.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sandscope_model::ModuleId;
use wasmtime::{Config, Engine, InstancePre, Linker, Module, Store};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::p2::pipe::MemoryInputPipe;

use super::graph::Graph;
use super::kinds;
use crate::code::{Artifact, Code, CodeView, instructions};
use crate::sampler::TextRange;

/// Whether return addresses are signed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Signing {
    #[cfg(target_arch = "aarch64")]
    On,
    Off,
}

/// A compiled guest and what its code can do.
pub(super) struct Guest {
    name: &'static str,
    module: Module,
    /// Linked with WASI.
    linked: InstancePre<WasiP1Ctx>,
    graph: Graph,
    view: CodeView,
    pub range: TextRange,
    /// Ends of functions in the text, and their indices, by their starts.
    functions: BTreeMap<usize, (usize, u32)>,
}

/// What was seen of a guest.
#[derive(Default)]
pub(super) struct Seen {
    pub samples: u64,
    /// Samples that found no room.
    pub dropped: u64,
    deepest: usize,
    /// Samples on each kind of instruction.
    pub kinds: BTreeMap<&'static str, u64>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/guests")
}

impl Guest {
    /// One of the sample guests.
    pub(super) fn committed(name: &'static str, signing: Signing) -> Self {
        Self::new(name, &std::fs::read(folder().join(format!("{name}.wasm"))).unwrap(), signing)
    }

    /// `main(n)` goes `n` times through tail calls from few arguments to many, to fewer, to one.
    pub(super) fn tail_calls(signing: Signing) -> Self {
        let params = |n: usize| "i64 ".repeat(n);
        let pass = |n: usize| (0..n).map(|i| format!("(local.get {}) ", i % 2)).collect::<String>();
        let wat = format!(
            r#"(module
            (type $few (func (param {few}) (result i64)))
            (table funcref (elem $few))
            (func $one (param i64) (result i64) (i64.add (call $leaf (local.get 0)) (i64.const 3)))
            (func $leaf (param i64) (result i64) (i64.mul (local.get 0) (i64.const 31)))
            (func $few (type $few) (return_call $one (i64.add (local.get 0) (local.get 11))))
            (func $many (param {many}) (result i64)
                {pass_few} (return_call_indirect (type $few) (i32.const 0)))
            (func $start (param i64 i64) (result i64) {pass_many} (return_call $many))
            (func $returns (param {few}) (result i64) (i64.xor (local.get 3) (local.get 11)))
            (func (export "main") (param $n i32) (result i64) (local $sum i64)
                (loop $again
                    (local.set $sum (i64.add
                        (call $start (local.get $sum) (i64.extend_i32_u (local.get $n)))
                        (call $returns {pass_sum})))
                    (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
                (local.get $sum)))"#,
            few = params(12),
            many = params(40),
            pass_few = pass(12),
            pass_many = pass(40),
            pass_sum = "(local.get $sum) ".repeat(12),
        );
        let name = if signing == Signing::Off { "tail-calls" } else { "tail-calls-signed" };
        Self::new(name, &wat::parse_str(wat).unwrap(), signing)
    }

    fn new(name: &'static str, wasm: &[u8], signing: Signing) -> Self {
        let module = compile(name, wasm, signing);
        let mut linker: Linker<WasiP1Ctx> = Linker::new(module.engine());
        p1::add_to_linker_sync(&mut linker, |wasi| wasi).unwrap();
        let text = module.text().as_ptr_range();
        let code = Code::new(ModuleId::of(wasm), wasm.len() as u64, Artifact::Module(module.clone()), None);
        Self {
            name,
            graph: Graph::of(wasm),
            view: CodeView::new(vec![Arc::new(code)]),
            range: TextRange { start: text.start as usize, end: text.end as usize },
            functions: module.functions().map(|f| (f.offset, (f.offset + f.len, f.index.as_u32()))).collect(),
            linked: linker.instantiate_pre(&module).unwrap(),
            module,
        }
    }

    /// Runs a WASI command to its end, whatever that is, with a small photo as standard input. `before` comes when
    /// nothing but the call itself is left to do.
    pub(super) fn command(&self, arguments: &[&str], before: impl FnOnce()) {
        let photo = std::fs::read(folder().join("data/thumbnail.jpg")).unwrap();
        let wasi = WasiCtxBuilder::new().args(arguments).stdin(MemoryInputPipe::new(photo)).build_p1();
        let mut store = Store::new(self.module.engine(), wasi);
        let instance = self.linked.instantiate(&mut store).unwrap();
        let start = instance.get_typed_func::<(), ()>(&mut store, "_start").unwrap();
        before();
        // Traps and exits are how some of them end.
        let _ = start.call(&mut store, ());
    }

    /// Calls `main`; `before` as for [`Self::command`].
    pub(super) fn main(&self, n: i32, before: impl FnOnce()) {
        let mut store = Store::new(self.module.engine(), WasiCtxBuilder::new().build_p1());
        let instance = self.linked.instantiate(&mut store).unwrap();
        let main = instance.get_typed_func::<i32, i64>(&mut store, "main").unwrap();
        before();
        main.call(&mut store, n).unwrap();
    }

    fn function(&self, pc: u64) -> Option<u32> {
        let at = (pc as usize).checked_sub(self.range.start)?;
        let (_, (end, index)) = self.functions.range(..=at).next_back()?;
        (at < *end).then_some(*index)
    }

    /// Checks a stack, leaf first: outermost comes the engine's way in, then a function that the host may
    /// call, then callees of each; at the leaf there may be the engine's way out.
    /// `in_host` says that the leaf is a return address too.
    pub(super) fn check(
        &self,
        pcs: &[u64],
        in_host: bool,
        whole: bool,
        seen: &mut Seen,
    ) -> Result<(), String> {
        let Some(&leaf) = pcs.first() else { return Ok(()) };
        seen.samples += 1;
        seen.deepest = seen.deepest.max(pcs.len());
        // SAFETY: the module keeps its text mapped and readable.
        let code = unsafe {
            std::slice::from_raw_parts(self.range.start as *const u8, self.range.end - self.range.start)
        };
        if !in_host
            && self.function(leaf).is_some()
            && let Some(kind) = kinds::kind(code, leaf as usize - self.range.start)
        {
            *seen.kinds.entry(kind).or_default() += 1;
        }
        let at: Vec<u64> = instructions(pcs, in_host).collect();
        let frames: Vec<Option<u32>> = at.iter().map(|&at| self.function(at)).collect();
        let refuse = |why: &str| Err(format!("{why}: {frames:?}, pcs {pcs:x?}, text {:x?}", self.range));
        self.view.prepare(at.iter().copied());
        for (&at, frame) in at.iter().zip(&frames) {
            let place = self.view.place(at).map(|(_, place)| place);
            let inside = |function: u32| {
                place.is_some_and(|p| {
                    p.function == function && self.graph.bodies[&function].contains(&p.offset)
                })
            };
            if !frame.is_none_or(inside) {
                return refuse("no place in the file");
            }
        }
        let mut guest = frames.as_slice();
        match guest.split_last() {
            Some((None, rest)) => guest = rest,
            _ if whole => return refuse("ends inside the guest"),
            _ => {}
        }
        if let [None, rest @ ..] = guest {
            guest = rest;
        }
        let Some(guest) = guest.iter().copied().collect::<Option<Vec<u32>>>() else {
            return refuse("engine code between functions");
        };
        if let Some(pair) = guest.windows(2).find(|pair| !self.graph.has_edge(pair[1], pair[0])) {
            return refuse(&format!("{} cannot call {}", pair[1], pair[0]));
        }
        if whole && guest.last().is_some_and(|outermost| !self.graph.entries.contains(outermost)) {
            return refuse("begins at no export");
        }
        Ok(())
    }

    /// One line for a person: how much was checked.
    #[allow(clippy::print_stdout, reason = "shown by `--nocapture`")]
    pub(super) fn report(&self, seen: &Seen) {
        println!(
            "{}: {} stacks, {} frames at most, {} dropped; {:?}",
            self.name, seen.samples, seen.deepest, seen.dropped, seen.kinds
        );
    }
}

/// Compiles a guest, or takes it from the folder of artifacts.
fn compile(name: &str, wasm: &[u8], signing: Signing) -> Module {
    let mut config = Config::new();
    if signing != Signing::Off {
        // SAFETY: signing changes how a function keeps its return address, not what it computes.
        unsafe { config.cranelift_flag_enable("sign_return_address") };
    }
    // Traps are how some guests end, again and again; their own backtraces are not what is looked at.
    config.wasm_backtrace_max_frames(None);
    // Emulators keep a record of every page, also of address space that is only reserved.
    config.memory_reservation(64 << 20).memory_guard_size(64 << 10);
    let engine = Engine::new(&config).unwrap();
    let Some(artifacts) = std::env::var_os("SANDSCOPE_ARTIFACTS") else {
        return Module::new(&engine, wasm).unwrap();
    };
    let path = Path::new(&artifacts).join(name).with_extension("cwasm");
    if !path.exists() {
        std::fs::write(&path, engine.precompile_module(wasm).unwrap()).unwrap();
    }
    // SAFETY: whoever sets the variable answers for the folder.
    unsafe { Module::deserialize_file(&engine, &path) }.unwrap()
}
