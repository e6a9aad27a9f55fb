//! Timers of the kernel that signal one thread after so much of its CPU time.

use std::mem;

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
        let interval = (1e9 / hz).clamp(10_000.0, 1e12) as i64;
        // SAFETY: both structs are plain C data for which all zeroes is a valid value.
        let (mut event, mut spec): (libc::sigevent, libc::itimerspec) = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal::number();
        event.sigev_value = libc::sigval { sival_ptr: cookie.cast_mut().cast() };
        // SAFETY: gettid has no preconditions.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        spec.it_interval.tv_sec = interval / 1_000_000_000;
        spec.it_interval.tv_nsec = interval % 1_000_000_000;
        spec.it_value = spec.it_interval;
        let mut timer: libc::timer_t = std::ptr::null_mut();
        // SAFETY: `event` and `timer` live across the call.
        if unsafe { libc::timer_create(libc::CLOCK_THREAD_CPUTIME_ID, &mut event, &mut timer) } != 0 {
            return None;
        }
        let timer = Self(timer);
        // SAFETY: the timer was just created; `spec` lives across the call.
        let set = unsafe { libc::timer_settime(timer.0, 0, &spec, std::ptr::null_mut()) };
        (set == 0).then_some(timer)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: the timer exists and is deleted once. A signal that is already queued still arrives; the
        // handler stays installed for the life of the process and its cookie is never freed.
        unsafe { libc::timer_delete(self.0) };
    }
}
