//! Timers of the kernel that signal one thread after so much of its CPU time.

use std::{mem, ptr};

use super::signal;
use super::thread::ThreadState;

/// A CPU-time timer of the thread that started it.
pub(super) struct Timer(libc::timer_t);

// SAFETY: a timer id is valid in the whole process; any thread may delete it.
unsafe impl Send for Timer {}

impl Timer {
    /// Starts a timer for the calling thread, with `cookie` as the signal's value. `None` if the kernel
    /// refuses (RLIMIT_SIGPENDING).
    pub(super) fn start(hz: f64, cookie: *const ThreadState) -> Option<Self> {
        let timer = Self(create(signal::number(), cookie).ok()?);
        timer.set(hz).then_some(timer)
    }

    /// Makes it expire so often from now on, from any thread. Whether the kernel did; not if the thread is gone.
    pub(super) fn set(&self, hz: f64) -> bool {
        let interval = (1e9 / hz).clamp(10_000.0, 1e12) as i64;
        let every = libc::timespec { tv_sec: interval / 1_000_000_000, tv_nsec: interval % 1_000_000_000 };
        let spec = libc::itimerspec { it_interval: every, it_value: every };
        // SAFETY: the timer is deleted with this value only; `spec` lives across the call.
        unsafe { libc::timer_settime(self.0, 0, &spec, ptr::null_mut()) == 0 }
    }
}

/// Whether timers may send a signal. Emulators keep real-time signals for themselves and let a handler be
/// installed for them all the same.
pub(super) fn can_send(signal: i32) -> bool {
    match create(signal, ptr::null()) {
        Ok(timer) => {
            drop(Timer(timer));
            true
        }
        // For now there are too many of them, which says nothing of the signal.
        Err(errno) => errno == libc::EAGAIN,
    }
}

/// Makes a stopped timer of the calling thread's CPU time, or says the kernel's error.
fn create(signal: i32, cookie: *const ThreadState) -> Result<libc::timer_t, i32> {
    // SAFETY: all zeroes is a valid value of plain C data.
    let mut event: libc::sigevent = unsafe { mem::zeroed() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_signo = signal;
    event.sigev_value = libc::sigval { sival_ptr: cookie.cast_mut().cast() };
    // SAFETY: gettid has no preconditions.
    event.sigev_notify_thread_id = unsafe { libc::gettid() };
    let mut timer: libc::timer_t = ptr::null_mut();
    // SAFETY: `event` and `timer` live across the call.
    match unsafe { libc::timer_create(libc::CLOCK_THREAD_CPUTIME_ID, &mut event, &mut timer) } {
        0 => Ok(timer),
        _ => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: the timer exists and is deleted once. A signal that is already queued still arrives; the
        // handler stays installed for the life of the process and its cookie is never freed.
        unsafe { libc::timer_delete(self.0) };
    }
}
