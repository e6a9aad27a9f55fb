//! Host functions that no linker shows: what an embedder puts around them.

use std::future::Future;

use super::hook::{Timed, begin, ended};
use super::names;
use crate::engine;
use crate::sampler::{self, Note};

/// A host function of a component's linker, or any part of the host that a guest waits for, by a name of the
/// embedder's. What it runs is counted and timed for the workload whose call is active.
///
/// ```
/// use sandscope_host::HostFunction;
/// # let mut linker = wasmtime::component::Linker::<()>::new(&wasmtime::Engine::default());
/// let get = HostFunction::named("my:cache/store#get");
/// linker.root().func_wrap("get", move |_, (key,): (u32,)| get.call(|| Ok((u64::from(key) + 1,))))?;
/// # Ok::<(), wasmtime::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct HostFunction(u16);

impl HostFunction {
    /// By convention `package/interface#function`. To be made once, not per call; 4096 per process.
    pub fn named(name: &str) -> Self {
        Self(names::number(name))
    }

    /// Runs the function.
    ///
    /// # Errors
    /// What `call` returns.
    pub fn call<R, E>(self, call: impl FnOnce() -> Result<R, E>) -> Result<R, E> {
        let mut running = Running::new(self.0);
        let result = call();
        running.returned = result.is_ok();
        result
    }

    /// [`Self::call`] for an async function. One that is dropped before it ends has failed.
    ///
    /// # Errors
    /// What the future returns.
    pub async fn call_async<R, E>(self, call: impl Future<Output = Result<R, E>>) -> Result<R, E> {
        let mut running = Running::new(self.0);
        let result = call.await;
        running.returned = result.is_ok();
        result
    }
}

struct Running {
    number: u16,
    before: Note,
    timed: Option<Timed>,
    returned: bool,
}

impl Running {
    fn new(number: u16) -> Self {
        // SAFETY: the engine says that this store's guest runs on this thread, so the store is alive.
        let exit = engine::current().and_then(|store| unsafe { store.exit() });
        let before = sampler::calling(number, exit);
        Self { number, before, timed: begin(number), returned: false }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        ended(self.number, self.timed.take(), self.returned);
        sampler::restore(self.before);
    }
}
