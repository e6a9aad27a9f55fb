//! A stop after every instruction, by the processor's trap flag: what timers see by luck, by certainty.

use std::cell::Cell;
use std::collections::HashSet;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sandscope_model::WorkloadId;

use super::unwind::{self, Registers};
use super::{Entry, Rate, TEXT, TextRange, enter, release, thread};
use crate::workload::Figures;

/// The bit of the flags that makes the processor trap after each instruction.
const TRAP_FLAG: i64 = 0x100;

/// Instructions to stop at, the host's among them: each costs some microseconds.
const LIMIT: usize = 300_000;

struct Steps {
    left: usize,
    stacks: HashSet<Vec<u64>>,
}

thread_local! {
    static STEPS: Cell<*mut Steps> = const { Cell::new(ptr::null_mut()) };
}

/// Calls `run`, and from when that calls what it is given on, stops at each instruction until there were
/// enough. Gives the stacks of those inside `text`, leaf first.
pub(crate) fn every_instruction(text: TextRange, run: impl FnOnce(fn())) -> HashSet<Vec<u64>> {
    // SAFETY: an all-zero sigaction is valid; the handler fits SA_SIGINFO; nothing else uses SIGTRAP.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        assert_eq!(libc::sigaction(libc::SIGTRAP, &action, ptr::null_mut()), 0);
    }
    static SCOPE: AtomicU64 = AtomicU64::new(1 << 50);
    let scope = SCOPE.fetch_add(1, Ordering::Relaxed);
    TEXT.add(text, &[]);
    let mut steps = Steps { left: LIMIT, stacks: HashSet::new() };
    {
        let (figures, unsampled) =
            (Arc::new(Figures::new(WorkloadId::new("steps", "1"), 0)), AtomicU64::new(0));
        let rate = Rate::new(0.0);
        let _active = enter(Entry {
            scope,
            rate: &rate,
            figures: &figures,
            span: 0,
            concurrent: false,
            unsampled: &unsampled,
        });
        STEPS.set(&raw mut steps);
        // SAFETY: sets the trap flag, which only the handler sees.
        run(|| unsafe { std::arch::asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") });
        STEPS.set(ptr::null_mut());
    }
    release(scope);
    TEXT.remove(text);
    steps.stacks
}

/// Notes the stack if the thread is in a guest; it then holds no lock, so this may allocate.
extern "C" fn handler(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid context.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    // SAFETY: null, or the value that `every_instruction` on this thread keeps while the guest runs; it does
    // not touch it meanwhile.
    let steps = unsafe { STEPS.get().as_mut() }.filter(|steps| steps.left > 0);
    let (Some(steps), Some(state)) = (steps, thread::active()) else {
        context.uc_mcontext.gregs[libc::REG_EFL as usize] &= !TRAP_FLAG;
        return;
    };
    steps.left -= 1;
    let registers = Registers::of(context);
    TEXT.with(&state.hazard, |table| {
        let Some(table) = table.filter(|table| table.find(registers.pc).is_some()) else { return };
        let mut stack = Vec::new();
        unwind::walk(table, registers, |pc| {
            stack.push(pc as u64);
            true
        });
        steps.stacks.insert(stack);
    });
}
