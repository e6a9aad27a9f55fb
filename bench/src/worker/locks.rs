//! Two threads of one guest over one shared memory, each in a store of its own, as wasi-threads has it.

use anyhow::{Result, bail};
use wasmtime::Result as EngineResult;

use super::guest::{Guest, plain};

/// Runs `run(rounds)` on both threads at once, over a fresh memory.
pub fn run(guest: &Guest, rounds: i64) -> Result<()> {
    let memory = guest.shared_memory()?;
    let rounds = i32::try_from(rounds)?;
    std::thread::scope(|threads| {
        let started: Vec<_> = (0..2).map(|_| threads.spawn(|| thread(guest, &memory, rounds))).collect();
        for thread in started {
            match thread.join() {
                Ok(result) => result.map_err(plain)?,
                Err(_) => bail!("a guest's thread panicked"),
            }
        }
        Ok(())
    })
}

fn thread(guest: &Guest, memory: &wasmtime::SharedMemory, rounds: i32) -> EngineResult<()> {
    let mut store = guest.store();
    let mut linker = guest.linker.clone();
    linker.define(&store, "env", "memory", memory.clone())?;
    let Some(observer) = guest.observer() else {
        let instance = linker.instantiate(&mut store, guest.module())?;
        instance.get_typed_func::<i32, i32>(&mut store, "run")?.call(&mut store, rounds)?;
        return Ok(());
    };
    let instance = observer.instantiate(|| linker.instantiate(&mut store, guest.module()))?;
    let run = instance.get_typed_func::<i32, i32>(&mut store, "run")?;
    observer.call(|| run.call(&mut store, rounds))?;
    Ok(())
}
