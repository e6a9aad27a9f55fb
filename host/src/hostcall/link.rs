//! Putting a linker's functions under observation.

use std::cell::LazyCell;

use wasmtime::{AsContextMut, Linker};

use super::hook::host_call;
use super::names;
use super::table::{LIMIT, TABLE};
use crate::Sandscope;
use crate::aggregate::Command;
use crate::engine::{self, Callee, Doubt, Memory};

impl Sandscope {
    /// Counts and times the calls that guests make of the host functions which a linker has by now, for each
    /// workload by itself, whoever instantiates: stores and [`wasmtime::InstancePre`]s made before as well.
    /// Once per linker, or again when it got further functions; a clone of it has the same ones.
    ///
    /// `store` is one that the linker could instantiate in: it keeps a reference to each function, so one that
    /// is dropped afterwards is best. Functions that are not as expected stay as they are, with a
    /// [`Warning`](crate::Warning).
    ///
    /// # Panics
    /// If the linker is another engine's, or holds functions of another store, as when it instantiates there.
    pub fn observe_linker<T: 'static>(&self, linker: &Linker<T>, mut store: impl AsContextMut<Data = T>) {
        let functions: Vec<_> = linker
            .iter(&mut store)
            .filter_map(|(module, name, item)| Some((format!("{module}#{name}"), item.into_func()?)))
            .collect();
        let mut unobserved: Option<(usize, Doubt)> = None;
        for (name, function) in functions {
            let raw = function.to_raw(&mut store);
            // SAFETY: a function of a live store.
            if let Err(doubt) = unsafe { observe(raw, &name) } {
                let count = unobserved.map_or(0, |(count, _)| count);
                unobserved = Some((count + 1, doubt));
            }
        }
        if let Some((functions, doubt)) = unobserved {
            self.shared().tell(Command::Unobserved(functions, doubt));
        }
    }
}

/// # Safety
/// `raw` is what [`wasmtime::Func::to_raw`] gave for a function of a live store.
unsafe fn observe(raw: *mut std::ffi::c_void, name: &str) -> Result<(), Doubt> {
    if let Some(doubt) = &engine::access().builtins {
        return Err(doubt.clone());
    }
    // SAFETY: the caller's promise.
    let Some(callee) = (unsafe { Callee::behind(raw) })? else { return Ok(()) };
    // SAFETY: the function is alive with its store.
    let entry = unsafe { callee.entry() }?;
    if entry == host_call as *const () as usize {
        return Ok(());
    }
    let memory = LazyCell::new(Memory::open);
    let may_live = |context| memory.as_ref().is_none_or(|memory| memory.may_hold(context, host_call));
    let observed = TABLE.insert((callee.address(), entry, names::number(name)), may_live, || {
        // SAFETY: the function is alive, and it is in the table now: the hook calls what it called before.
        unsafe { callee.replace(host_call) };
    });
    if observed { Ok(()) } else { Err(Doubt::Room { limit: LIMIT }) }
}
