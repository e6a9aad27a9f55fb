//! An engine with one guest, as an embedder writes it: with sandscope, without, and with epochs.

use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use sandscope_host::{Loaded, Sandscope, StoreProbe, WorkloadId};
use wasmtime::{
    Config, Engine, Func, InstanceAllocationStrategy, InstancePre, Linker, Module, PoolingAllocationConfig,
    SharedMemory, Store, UpdateDeadline, Val, WasmBacktrace,
};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};

use super::Side;
use crate::layout::{self, Hole};
use crate::workloads::{self, Call, Workload};

/// Samples a second of every profiler here; sandscope's default.
const HZ: f64 = 99.0;

/// The engine, the guest, and what looks into it.
pub struct Guest {
    workload: &'static Workload,
    module: Module,
    pub(super) linker: Linker<State>,
    /// `None` for guests with threads, which import a memory of their own each run.
    pre: Option<InstancePre<State>>,
    observed: Option<(Loaded<Module>, Sandscope)>,
    epochs: bool,
    photo: Vec<u8>,
}

/// Store data.
pub struct State {
    wasi: Option<WasiP1Ctx>,
    probe: Option<StoreProbe>,
}

/// A call that is ready to be made.
pub struct Instance {
    pub(super) store: Store<State>,
    function: Func,
    results: Vec<Val>,
}

/// The engine's error, which is no `std::error::Error`, as ours.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub fn plain(error: wasmtime::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}

fn config(workload: &Workload, side: Side) -> Config {
    let mut config = Config::new();
    config.wasm_gc(true).wasm_function_references(true).wasm_exceptions(true).shared_memory(true);
    // Compiled by one thread, everything is mapped in the same order each time.
    config.parallel_compilation(false).epoch_interruption(side == Side::Epochs);
    if workload.pooled {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_core_instances(32).total_memories(32).total_tables(32).total_stacks(32).total_gc_heaps(32);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}

impl Guest {
    /// Compiles it on the last processor, after `hole` was freed. `interval`: between exports.
    pub fn new(
        workload: &'static Workload,
        side: Side,
        otlp: &str,
        interval: Duration,
        hole: Hole,
    ) -> Result<Self> {
        let mut config = config(workload, side);
        let bytes = workload.module()?;
        let photo =
            std::fs::read(workloads::folder().join("data/thumbnail.jpg")).context("read thumbnail.jpg")?;
        let scope = match side {
            Side::Observed | Side::Allocations => {
                let builder = Sandscope::builder().service("bench").hz(HZ).otlp(otlp).interval(interval);
                Some(builder.allocations(side == Side::Allocations).build()?)
            }
            Side::Bare | Side::Epochs => {
                // A stack where the aggregator's is, so that what follows lies at the same addresses.
                std::thread::Builder::new().name("idle".to_owned()).spawn(std::thread::park)?;
                None
            }
        };
        if !matches!(workload.call, Call::Threads(_)) {
            layout::pin();
        }
        drop(hole);
        let (engine, module, observed) = match scope {
            Some(scope) => {
                scope.configure(&mut config);
                let engine = Engine::new(&config).map_err(plain)?;
                let id = WorkloadId::new(workload.name, "1");
                let loaded = scope.load_module(&engine, &bytes, &id, workload.name).map_err(plain)?;
                (engine, (*loaded).clone(), Some((loaded, scope)))
            }
            None => {
                let engine = Engine::new(&config).map_err(plain)?;
                let module = Module::new(&engine, &bytes).map_err(plain)?;
                (engine, module, None)
            }
        };
        let mut linker: Linker<State> = Linker::new(&engine);
        p1::add_to_linker_async(&mut linker, |state: &mut State| {
            state.wasi.as_mut().expect("commands have WASI")
        })
        .map_err(plain)?;
        linker.func_wrap("bench", "tick", |x: i32| x).map_err(plain)?;
        if let Some((_, scope)) = &observed {
            scope.observe_linker(&linker, Store::new(&engine, State { wasi: None, probe: None }));
        }
        let pre = match workload.call {
            Call::Threads(_) => None,
            _ => Some(linker.instantiate_pre(&module).map_err(plain)?),
        };
        if side == Side::Epochs {
            tick(&engine)?;
        }
        Ok(Self { workload, module, linker, pre, observed, epochs: side == Side::Epochs, photo })
    }

    /// A hash of the machine code, and its address.
    pub fn text(&self) -> (u64, usize) {
        let mut hasher = DefaultHasher::new();
        hasher.write(self.module.text());
        (hasher.finish(), self.module.text().as_ptr() as usize)
    }

    /// The engine.
    pub(super) fn engine(&self) -> &Engine {
        self.module.engine()
    }

    /// Who marks calls, if anybody.
    pub(super) fn observer(&self) -> Option<&sandscope_host::Workload> {
        self.observed.as_ref().map(|(loaded, _)| loaded.workload())
    }

    /// A store, with what each side puts into it.
    pub(super) fn store(&self) -> Store<State> {
        let wasi = match self.workload.call {
            Call::Command(args) => Some(self.wasi(args)),
            _ => None,
        };
        let probe = self.observer().map(sandscope_host::Workload::store_probe);
        let mut store = Store::new(self.engine(), State { wasi, probe });
        if self.observed.is_some() {
            store.limiter(|state| state.probe.as_mut().expect("observed stores have a probe"));
        }
        if self.epochs {
            store.set_epoch_deadline(1);
            let seen = Arc::new(AtomicUsize::new(0));
            store.epoch_deadline_callback(move |store| {
                seen.fetch_add(WasmBacktrace::force_capture(&store).frames().len(), Ordering::Relaxed);
                Ok(UpdateDeadline::Continue(1))
            });
        }
        store
    }

    fn wasi(&self, args: &[&str]) -> WasiP1Ctx {
        let mut wasi = WasiCtxBuilder::new();
        wasi.arg(self.workload.name).args(args);
        wasi.stdin(MemoryInputPipe::new(self.photo.clone()));
        wasi.stdout(MemoryOutputPipe::new(4 << 20)).stderr(MemoryOutputPipe::new(4 << 20));
        wasi.build_p1()
    }

    /// A store and an instance in it.
    pub async fn start(&self) -> Result<Instance> {
        let pre = self.pre.as_ref().context("a guest with threads is started otherwise")?;
        let mut store = self.store();
        let instantiation = pre.instantiate_async(&mut store);
        let instance = match self.observer() {
            Some(observer) => observer.instantiate_async(instantiation).await,
            None => instantiation.await,
        }
        .map_err(plain)?;
        let (name, results) = match self.workload.call {
            Call::Command(_) => ("_start", vec![]),
            _ => ("run", vec![Val::I32(0)]),
        };
        let function = instance.get_func(&mut store, name).with_context(|| format!("no export {name}"))?;
        Ok(Instance { store, function, results })
    }

    /// So many calls, one after the other.
    pub async fn calls(&self, count: u32) -> Result<()> {
        let args: Vec<Val> = match self.workload.call {
            Call::Run(args) => args.iter().map(|&arg| Val::I32(arg)).collect(),
            _ => Vec::new(),
        };
        let mut instance = self.start().await?;
        for done in 1..=count {
            let call = instance.function.call_async(&mut instance.store, &args, &mut instance.results);
            match self.observer() {
                Some(observer) => observer.call_async(call).await,
                None => call.await,
            }
            .map_err(plain)?;
            if self.workload.store_per_call && done < count {
                // The old one first: a pool has its slot back, and memory is not held twice.
                drop(instance);
                instance = self.start().await?;
            }
        }
        Ok(())
    }

    /// A shared memory of one page.
    pub(super) fn shared_memory(&self) -> Result<SharedMemory> {
        SharedMemory::new(self.engine(), wasmtime::MemoryType::shared(1, 1)).map_err(plain)
    }

    /// The module.
    pub(super) fn module(&self) -> &Module {
        &self.module
    }
}

/// Increments the engine's epoch [`HZ`] times a second for the life of the process.
fn tick(engine: &Engine) -> Result<()> {
    let engine = engine.clone();
    std::thread::Builder::new().name("epochs".to_owned()).spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs_f64(1.0 / HZ));
            engine.increment_epoch();
        }
    })?;
    Ok(())
}
