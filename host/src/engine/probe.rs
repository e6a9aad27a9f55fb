//! A small guest that the self-tests run: it calls the host, grows its memory and waits.

use wasmtime::{Caller, Config, Engine, Func, Instance, MemoryType, Module, SharedMemory, Store};

use super::Doubt;
use super::layout::InstanceContext;

/// `call` goes through the host; `grow` and `wait` go through runtime functions. The wait's expected value
/// never matches, so it returns at once.
const GUEST: &str = r#"(module
    (import "" "host" (func $host))
    (import "" "shared" (memory $shared 1 1 shared))
    (memory $own 1 2)
    (func (export "call") (call $host))
    (func (export "grow") (result i32) (memory.grow $own (i32.const 1)))
    (func (export "wait") (result i32)
        (memory.atomic.wait32 $shared (i32.const 8) (i32.const 7) (i64.const 1000000))))"#;

/// The compiled guest.
pub(super) struct Probe {
    module: Module,
}

impl Probe {
    pub(super) fn new() -> Result<Self, Doubt> {
        let build = || {
            let mut config = Config::new();
            config.shared_memory(true).memory_reservation(1 << 20).memory_guard_size(0);
            let engine = Engine::new(&config)?;
            Module::new(&engine, wat::parse_str(GUEST)?)
        };
        build().map(|module| Self { module }).map_err(|error| refused(&error))
    }

    /// Runs `inside` from a host call of the guest, with the guest's context.
    pub(super) fn in_host<R: Send + 'static>(
        &self,
        inside: impl Fn(InstanceContext) -> R + Send + Sync + 'static,
    ) -> Result<R, Doubt> {
        let mut store = Store::new(self.module.engine(), None);
        let host = Func::wrap(&mut store, move |mut caller: Caller<'_, Option<R>>| {
            let raw = caller.get_export("call").and_then(wasmtime::Extern::into_func);
            let raw = raw.map(|call| call.to_raw(&mut caller));
            // SAFETY: the function belongs to the instance that is calling.
            let context = raw.and_then(|raw| unsafe { InstanceContext::of_function(raw) });
            *caller.data_mut() = context.map(&inside);
        });
        let instance = self.instantiate(&mut store, host).map_err(|error| refused(&error))?;
        let call = instance.get_typed_func::<(), ()>(&mut store, "call").map_err(|error| refused(&error))?;
        call.call(&mut store, ()).map_err(|error| refused(&error))?;
        store.into_data().ok_or(Doubt::Layout { what: "the magic of an instance" })
    }

    /// Results of `grow` and `wait`.
    pub(super) fn grow_and_wait(&self) -> Result<(i32, i32), Doubt> {
        let run = || {
            let mut store = Store::new(self.module.engine(), ());
            let host = Func::wrap(&mut store, || ());
            let instance = self.instantiate(&mut store, host)?;
            let mut results = [0; 2];
            for (name, result) in ["grow", "wait"].into_iter().zip(&mut results) {
                *result = instance.get_typed_func::<(), i32>(&mut store, name)?.call(&mut store, ())?;
            }
            Ok((results[0], results[1]))
        };
        run().map_err(|error: wasmtime::Error| refused(&error))
    }

    fn instantiate<T: 'static>(&self, store: &mut Store<T>, host: Func) -> wasmtime::Result<Instance> {
        let memory = SharedMemory::new(self.module.engine(), MemoryType::shared(1, 1))?;
        Instance::new(store, &self.module, &[host.into(), memory.into()])
    }

    /// Whether a call of the guest may itself run another guest on the same thread: nested activations.
    pub(super) fn nested<R: Send + 'static>(
        self: &std::sync::Arc<Self>,
        inside: impl Fn(InstanceContext) -> R + Clone + Send + Sync + 'static,
    ) -> Result<R, Doubt> {
        let inner = std::sync::Arc::clone(self);
        self.in_host(move |_| inner.in_host(inside.clone()))?
    }
}

/// Whether guests are compiled by Winch. The engine tells its compiler only in the text of its settings.
pub(crate) fn is_winch(config: &Config) -> bool {
    format!("{config:?}").contains("strategy: Some(Winch)")
}

/// What an engine's settings do to its guests. The engine does not tell these, so a guest is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traits {
    /// Bytes of native stack that it gives to a guest.
    pub stack: Option<u64>,
    /// Whether guests run in other machine code than their module's: `guest_debug` gives each store a copy.
    pub copies_code: bool,
}

/// Asks an engine; `None` if it does not run the question (because it demands fuel, say).
pub(crate) fn traits(engine: &Engine) -> Option<Traits> {
    const ASK: &str = r#"(module (import "" "" (func)) (func (export "run") (call 0)))"#;
    let module = Module::new(engine, wat::parse_str(ASK).ok()?).ok()?;
    let mut store = Store::new(engine, None);
    let text = module.text().as_ptr_range();
    let text = text.start as usize..text.end as usize;
    let ask = Func::wrap(&mut store, move |mut caller: Caller<'_, Option<Traits>>| {
        let Some(store) = super::current() else { return };
        // SAFETY: this store's guest runs on this thread, so the store is alive.
        let ((entry, limit), exit) = unsafe { (store.stack(), store.exit()) };
        // The engine counts from a few hundred bytes above the guest's entry; settings are whole pages.
        let stack = entry.checked_sub(limit).map(|size| (size as u64).next_multiple_of(4096));
        let copies_code = exit.is_some_and(|exit| !text.contains(&(exit.pc & ADDRESS)));
        *caller.data_mut() = Some(Traits { stack, copies_code });
    });
    let instance = Instance::new(&mut store, &module, &[ask.into()]).ok()?;
    instance.get_typed_func::<(), ()>(&mut store, "run").ok()?.call(&mut store, ()).ok()?;
    store.into_data()
}

/// Bits of an address of code; aarch64 may sign return addresses in those above.
const ADDRESS: usize = (1 << 48) - 1;

fn refused(error: &wasmtime::Error) -> Doubt {
    Doubt::Engine { reason: error.root_cause().to_string() }
}
