//! Guests with threads over one shared memory: the host's side of `wasi`/`thread-spawn` (wasi-threads).
//!
//! Each thread is an instance of the module in a store and on a thread of its own; all import the same
//! memory. A trap in any of them ends the guest.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};
use wasmtime::{Caller, ExternType, InstancePre, Linker, Module, Result, SharedMemory, Store};

use super::Grants;
use super::command::{self, Ended, ModuleState, module_store};
use super::error::RunError;
use crate::load::{Loaded, Workload};

/// Most threads that a guest may have at once.
const MAX_THREADS: i32 = 256;

/// What a guest with threads imports.
pub(super) struct SharedGuest {
    /// Module and name of the memory's import.
    import: (String, String),
    linker: Linker<ModuleState>,
    module: Module,
}

/// Starts threads of one run.
pub(super) struct Spawner {
    pre: InstancePre<ModuleState>,
    workload: Workload,
    grants: Grants,
    next_id: AtomicI32,
    running: AtomicI32,
    /// Their ids.
    ids: Mutex<BTreeSet<i32>>,
    /// Where the end of a thread that ends the guest is told.
    ended: mpsc::Sender<Ended>,
}

impl SharedGuest {
    /// Provides the imports of a guest with threads, if it is one.
    pub(super) fn link(
        linker: &mut Linker<ModuleState>,
        module: &Loaded<Module>,
        store: &Store<ModuleState>,
    ) -> Result<Option<Self>> {
        let shared =
            module.imports().find(|import| matches!(import.ty(), ExternType::Memory(ty) if ty.is_shared()));
        let Some(import) = shared else { return Ok(None) };
        let spawn = |caller: Caller<'_, ModuleState>, arg: i32| -> i32 {
            caller.data().spawner.as_ref().map_or(-1, |spawner| spawner.spawn(arg))
        };
        linker.func_wrap("wasi", "thread-spawn", spawn)?;
        let rest = linker.clone();
        // A memory for checking imports; every run gets one of its own.
        let ty = import.ty().unwrap_memory().clone();
        let memory = SharedMemory::new(module.engine(), ty)?;
        let (from, name) = (import.module().to_owned(), import.name().to_owned());
        linker.define(store, &from, &name, memory)?;
        Ok(Some(Self { import: (from, name), linker: rest, module: (**module).clone() }))
    }

    /// Runs the guest's main thread on a thread of its own; returns when it ends or any thread traps.
    pub(super) async fn run(
        &self,
        workload: &Workload,
        grants: &Grants,
        name: &str,
    ) -> Result<Ended, RunError> {
        let link = |error: &wasmtime::Error| RunError::Link {
            name: name.to_owned(),
            message: super::error::one_line(error),
        };
        let store = module_store(self.module.engine(), workload, &Grants::default(), None)?;
        let (pre, memory) = self.instance_pre(&store).map_err(|error| link(&error))?;
        let (ended, mut other) = mpsc::channel(1);
        let spawner = Arc::new(Spawner {
            pre: pre.clone(),
            workload: workload.clone(),
            grants: grants.clone(),
            next_id: AtomicI32::new(1),
            running: AtomicI32::new(0),
            ids: Mutex::default(),
            ended,
        });
        let (done, main) = oneshot::channel();
        let (workload, name) = (workload.clone(), name.to_owned());
        on_thread("guest".to_owned(), move || async move {
            let result = match module_store(
                pre.module().engine(),
                &workload,
                &spawner.grants,
                Some(Arc::clone(&spawner)),
            ) {
                Ok(mut store) => {
                    memory.into_iter().for_each(|memory| store.data_mut().probe.share(memory));
                    command::start(&pre, &workload, &mut store, &name).await
                }
                Err(error) => Err(error),
            };
            // Nobody listens any more when a sibling's trap was first.
            let _ = done.send(result);
        })
        .map_err(RunError::Thread)?;
        tokio::select! {
            Some(ended) = other.recv() => Ok(ended),
            Ok(result) = main => result,
            else => Ok(Ended::Exit(1)),
        }
    }

    fn instance_pre(
        &self,
        store: &Store<ModuleState>,
    ) -> Result<(InstancePre<ModuleState>, Option<SharedMemory>)> {
        let (from, name) = &self.import;
        let ty = self
            .module
            .imports()
            .find(|import| import.module() == from && import.name() == name)
            .and_then(|import| import.ty().memory().cloned());
        let mut linker = self.linker.clone();
        let memory = ty.map(|ty| SharedMemory::new(self.module.engine(), ty)).transpose()?;
        if let Some(memory) = &memory {
            linker.define(store, from, name, memory.clone())?;
        }
        Ok((linker.instantiate_pre(&self.module)?, memory))
    }
}

impl Spawner {
    /// Starts a thread; its id, or -1.
    fn spawn(self: &Arc<Self>, arg: i32) -> i32 {
        if self.running.fetch_add(1, Ordering::Relaxed) >= MAX_THREADS {
            self.running.fetch_sub(1, Ordering::Relaxed);
            return -1;
        }
        // Ids are 1 to 2^29 - 1 (wasi-threads, "Design choice: thread IDs").
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        if id >= 1 << 29 {
            return -1;
        }
        let spawner = Arc::clone(self);
        let started = on_thread(name(id), move || async move {
            spawner.ids().insert(id);
            let result = spawner.workload.thread_async(spawner.thread(id, arg)).await;
            spawner.ids().remove(&id);
            spawner.running.fetch_sub(1, Ordering::Relaxed);
            if let Err(error) = result {
                // The first end is the guest's; what the others say after it is of no interest.
                let _ = spawner.ended.try_send(command::ended(&spawner.workload, &error));
            }
        });
        match started {
            Ok(()) => id,
            Err(_) => {
                self.running.fetch_sub(1, Ordering::Relaxed);
                -1
            }
        }
    }

    async fn thread(self: &Arc<Self>, id: i32, arg: i32) -> Result<()> {
        let mut store =
            module_store(self.pre.module().engine(), &self.workload, &self.grants, Some(Arc::clone(self)))
                .map_err(|error| wasmtime::Error::msg(error.to_string()))?;
        let run = async {
            let instance = self.pre.instantiate_async(&mut store).await?;
            let entry = instance.get_typed_func::<(i32, i32), ()>(&mut store, "wasi_thread_start")?;
            entry.call_async(&mut store, (id, arg)).await
        };
        let result = run.await;
        if let Err(error) = &result {
            self.workload.core_dump(&mut store, error, &name(id), &self.running_but(id));
        }
        result
    }

    fn ids(&self) -> std::sync::MutexGuard<'_, BTreeSet<i32>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names of the threads that run beside one, by their ids; 0 is the main thread.
    pub(super) fn running_but(&self, trapped: i32) -> Vec<String> {
        let ids = self.ids();
        std::iter::once(0).chain(ids.iter().copied()).filter(|id| *id != trapped).map(name).collect()
    }
}

fn name(id: i32) -> String {
    if id == 0 { "main".to_owned() } else { format!("guest-{id}") }
}

/// Runs a future on a new thread with a small runtime of its own: guests block in waits.
fn on_thread<F: Future<Output = ()>>(
    name: String,
    body: impl FnOnce() -> F + Send + 'static,
) -> std::io::Result<()> {
    std::thread::Builder::new().name(name).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let Ok(runtime) = runtime {
            runtime.block_on(body());
        }
    })?;
    Ok(())
}
