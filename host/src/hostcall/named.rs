//! Host functions that no linker shows: what an embedder puts around them.

use std::future::{Future, poll_fn};
use std::pin::pin;

use super::hook::{Timed, begin, ended};
use super::names;
use crate::engine;
use crate::sampler::{self, Note, Parked};

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
        let _noted = Noted(leave(self.0));
        let result = call();
        running.returned = result.is_ok();
        result
    }

    /// [`Self::call`] for an async function, concurrent or not. One that is dropped before it ends has failed.
    ///
    /// # Errors
    /// What the future returns.
    pub async fn call_async<R, E>(self, call: impl Future<Output = Result<R, E>>) -> Result<R, E> {
        let mut running = Running::new(self.0);
        let mut waiting = Waiting::default();
        let mut call = pin!(call);
        let result = poll_fn(|context| {
            let _noted = waiting.resume(self.0);
            let polled = call.as_mut().poll(context);
            if polled.is_pending() {
                waiting.park();
            }
            polled
        });
        let result = result.await;
        running.returned = result.is_ok();
        result
    }
}

struct Running {
    number: u16,
    timed: Option<Timed>,
    returned: bool,
}

impl Running {
    fn new(number: u16) -> Self {
        Self { number, timed: begin(number), returned: false }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        ended(self.number, self.timed.take(), self.returned);
    }
}

/// Notes a call of the running guest; what was noted before.
fn leave(number: u16) -> Note {
    // SAFETY: the engine says that this store's guest runs on this thread, so the store is alive.
    let exit = engine::current().and_then(|store| unsafe { store.exit() });
    sampler::calling(number, exit)
}

/// What was noted before a call or one of its polls, and is again after it.
struct Noted(Note);

impl Drop for Noted {
    fn drop(&mut self) {
        sampler::restore(self.0);
    }
}

/// Where the call is noted between its polls: in a place of its own, since other calls of the same guest may begin
/// and end meanwhile, in any order.
#[derive(Default)]
struct Waiting {
    note: Note,
    parked: Option<Parked>,
}

impl Waiting {
    #[inline(never)] // thread-locals must be looked up in each poll
    fn resume(&mut self, number: u16) -> Noted {
        if let Some(parked) = &self.parked {
            parked.set(Note::default());
        }
        if self.note == Note::default() {
            let before = leave(number);
            self.note = sampler::noted();
            Noted(before)
        } else {
            let before = sampler::noted();
            sampler::restore(self.note);
            Noted(before)
        }
    }

    #[inline(never)] // as above
    fn park(&mut self) {
        if self.note != Note::default() {
            self.parked = self.parked.take().or_else(Parked::of_active);
        }
        if let Some(parked) = &self.parked {
            parked.set(self.note);
        }
    }
}
