//! The signal: which one, its handler, and what the handler may do (nothing that allocates, locks or
//! blocks).

use std::cell::Cell;
use std::mem;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use super::ring::Kind;
use super::table::TEXT;
use super::{Unavailable, linux, thread, unwind};

static NUMBER: AtomicI32 = AtomicI32::new(0);

/// The signal in use; 0 before [`install`].
pub(super) fn number() -> i32 {
    NUMBER.load(Ordering::Relaxed)
}

/// Takes a real-time signal that nobody handles and installs the handler. It stays for the life of the
/// process: a signal that was queued before its timer was deleted would otherwise end the process.
pub(super) fn install() -> Result<(), Unavailable> {
    static INSTALLED: OnceLock<Result<(), Unavailable>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| {
            let mut signals = (libc::SIGRTMIN()..=libc::SIGRTMAX()).rev();
            let free = signals.find(|&signal| is_default(signal) && linux::can_send(signal));
            let signal = free.ok_or(Unavailable::NoSignal)?;
            NUMBER.store(signal, Ordering::Relaxed);
            // SAFETY: an all-zero sigaction is a valid value.
            let mut action: libc::sigaction = unsafe { mem::zeroed() };
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
            // SAFETY: `action` is fully initialized and the handler is async-signal-safe.
            if unsafe { libc::sigaction(signal, &action, ptr::null_mut()) } != 0 {
                let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
                return Err(Unavailable::Handler { errno });
            }
            Ok(())
        })
        .clone()
}

fn is_default(signal: i32) -> bool {
    // SAFETY: an all-zero sigaction is a valid value to be overwritten.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: only reads the current action into a live struct.
    let read = unsafe { libc::sigaction(signal, ptr::null(), &mut action) };
    read == 0 && action.sa_sigaction == libc::SIG_DFL
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is inside the handler. Async-signal-safe.
pub(super) fn inside() -> bool {
    INSIDE.get()
}

extern "C" fn handler(_signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    INSIDE.set(true);
    sample(info, context);
    INSIDE.set(false);
}

fn sample(info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes valid pointers to a handler that was installed with SA_SIGINFO.
    let (info, context) = unsafe { (&*info, &*context.cast::<libc::ucontext_t>()) };
    if info.si_code != libc::SI_TIMER {
        return;
    }
    let Some(state) = thread::active() else { return };
    // SAFETY: SI_TIMER signals carry a value.
    if unsafe { info.si_value() }.sival_ptr.cast_const().cast() != ptr::from_ref(state) {
        return;
    }
    let weight = 1 + overrun(info);
    let Some(mut record) = state.samples.record(Kind::Guest, weight) else { return };
    let registers = unwind::Registers::of(context);
    // Published while the table is still announced: whoever waits for the table also waits for the record.
    TEXT.with(&state.hazard, |table| {
        if let Some(table) = table {
            unwind::walk(table, registers, |pc| record.push(pc));
            if record.is_empty() {
                record.in_host();
                thread::walk_host(table, registers.sp, &mut record);
            } else {
                thread::stack_used(registers.sp);
            }
        }
        record.commit(state.label(weight), &[]);
    });
}

/// Expirations that were missed before this signal.
fn overrun(info: &libc::siginfo_t) -> u64 {
    /// The kernel's layout of a timer's siginfo (asm-generic/siginfo.h): three ints, then on 64-bit a pad,
    /// then the union that begins with the timer id and the overrun.
    #[repr(C)]
    struct TimerInfo {
        signo: i32,
        errno: i32,
        code: i32,
        pad: i32,
        timer: i32,
        overrun: i32,
    }
    // SAFETY: siginfo_t is 128 bytes and for SI_TIMER laid out as `TimerInfo`; both are aligned to 4 or more.
    let timer = unsafe { &*ptr::from_ref(info).cast::<TimerInfo>() };
    u64::try_from(timer.overrun).unwrap_or(0)
}
