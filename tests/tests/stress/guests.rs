//! The guests under stress, and the host functions that they import.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

use sandscope_host::{Loaded, Sandscope, StoreProbe, WorkloadId};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, Linker, Module, PoolingAllocationConfig, Result, Store,
};

/// Versions of the module that comes and goes: their functions lie at different offsets.
pub const VERSIONS: usize = 6;

/// Text of a version of the maze.
pub fn maze(version: usize) -> Vec<u8> {
    let padding = "(func (result i32) (i32.const 1))".repeat(version);
    wat::parse_str(include_str!("maze.wat").replace("(; padding ;)", &padding)).expect("maze.wat is valid")
}

/// Text of the guest that makes garbage.
pub fn heap() -> Vec<u8> {
    wat::parse_str(include_str!("heap.wat")).expect("heap.wat is valid")
}

/// An engine, pooling or not.
pub fn engine(scope: &Sandscope, pooled: bool) -> Engine {
    let mut config = Config::new();
    scope.configure(&mut config);
    config.wasm_gc(true).wasm_function_references(true).wasm_tail_call(true);
    if pooled {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_core_instances(64).total_memories(64).total_tables(64).total_stacks(64).total_gc_heaps(64);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    Engine::new(&config).expect("an engine")
}

/// A guest with its imports, for blocking and for async calls.
pub struct Guest {
    /// The guest.
    pub loaded: Loaded<Module>,
    /// Of blocking calls.
    pub blocking: Linker<StoreProbe>,
    /// Of async calls: pauses give way.
    pub tasks: Linker<StoreProbe>,
}

impl Guest {
    /// Loads a guest as the workload called `name`. `inner`: the guest that it enters from a host call.
    pub fn load(
        scope: &Sandscope,
        engine: &Engine,
        bytes: &[u8],
        name: &str,
        inner: Option<Arc<Self>>,
    ) -> Result<Self> {
        let loaded = scope.load_module(engine, bytes, &WorkloadId::new(name, "1"), name)?;
        let mut tasks = Linker::new(engine);
        tasks.func_wrap("stress", "spawn", spawn)?.func_wrap("stress", "enter", || ())?;
        let mut blocking = tasks.clone();
        blocking.func_wrap("stress", "pause", || ())?.allow_shadowing(true);
        if let Some(inner) = inner {
            blocking.func_wrap("stress", "enter", move || inner.call("calls", 10_000))?;
        }
        tasks.func_wrap_async("stress", "pause", |_, (): ()| Box::new(tokio::task::yield_now()))?;
        Ok(Self { loaded, blocking, tasks })
    }

    /// A store.
    pub fn store(&self) -> Store<StoreProbe> {
        let mut store = Store::new(self.loaded.engine(), self.loaded.workload().store_probe());
        store.limiter(|probe| probe);
        store
    }

    /// A blocking call of an export in a store of its own.
    pub fn call<Args: wasmtime::WasmParams>(&self, name: &str, args: Args) -> Result<()> {
        let mut store = self.store();
        let workload = self.loaded.workload();
        let instance = workload.instantiate(|| self.blocking.instantiate(&mut store, &self.loaded))?;
        let function = instance.get_typed_func::<Args, ()>(&mut store, name)?;
        workload.call(|| function.call(&mut store, args))
    }

    /// An async call of an export in a store of its own.
    pub async fn call_async<Args: wasmtime::WasmParams + Sync>(&self, name: &str, args: Args) -> Result<()> {
        let mut store = self.store();
        let workload = self.loaded.workload();
        let instantiate = self.tasks.instantiate_async(&mut store, &self.loaded);
        let instance = workload.instantiate_async(instantiate).await?;
        let function = instance.get_typed_func::<Args, ()>(&mut store, name)?;
        workload.call_async(function.call_async(&mut store, args)).await
    }
}

/// Starts a program from inside a guest's call, by fork and exec rather than the vfork of the library.
fn spawn() -> Result<()> {
    let mut command = Command::new("true");
    // SAFETY: the closure does nothing; that it is there makes the library fork.
    unsafe { command.pre_exec(|| Ok(())) };
    let status = command.stdin(Stdio::null()).status()?;
    if !status.success() {
        return Err(wasmtime::Error::msg(format!("true: {status}")));
    }
    Ok(())
}
