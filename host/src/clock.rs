//! A monotonic clock that costs a few nanoseconds: two readings surround every call of a guest.
//!
//! # Accuracy
//! The processor's counter where the kernel itself keeps time by it (so that it is constant, runs in all
//! states and agrees between processors), at a rate that is measured once against the kernel's clock to about
//! ten millionths; the kernel's clock anywhere else.
//!
//! Beside it the clock of a thread's CPU time, which is a system call (150 to 300 ns).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use sandscope_recording::ClockAnchor;

use crate::scope::unix_nanos;

/// Nanoseconds per tick in units of 2^-32; 0 where the kernel's clock is used.
static SCALE: AtomicU64 = AtomicU64::new(0);

/// Shortest time over which the rate is measured.
const MEASURE: Duration = Duration::from_millis(4);

/// A point in time of this process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(u64);

impl Moment {
    #[inline]
    pub(crate) fn now() -> Self {
        Self(if SCALE.load(Ordering::Relaxed) == 0 { kernel_ns() } else { ticks() })
    }

    /// Nanoseconds from `earlier` to here; 0 if it is later.
    #[inline]
    pub(crate) fn ns_since(self, earlier: Self) -> u64 {
        let ticks = self.0.saturating_sub(earlier.0);
        match SCALE.load(Ordering::Relaxed) {
            0 => ticks,
            scale => ((u128::from(ticks) * u128::from(scale)) >> 32) as u64,
        }
    }

    /// Nanoseconds until now.
    #[inline]
    pub(crate) fn elapsed_ns(self) -> u64 {
        Self::now().ns_since(self)
    }
}

/// Runs `meanwhile`, and the first time measures the counter's rate over it. Before the first [`Moment`].
pub(crate) fn measured_over<R>(meanwhile: impl FnOnce() -> R) -> R {
    static MEASURED: OnceLock<()> = OnceLock::new();
    let mut meanwhile = Some(meanwhile);
    let mut out = None;
    MEASURED.get_or_init(|| {
        let start = kernel_keeps_time_by_ticks().then(reading);
        out = meanwhile.take().map(|run| run());
        let Some((from, since)) = start else { return };
        while since.elapsed() < MEASURE {
            std::hint::spin_loop();
        }
        let (to, until) = reading();
        let ns = until.duration_since(since).as_nanos();
        if to > from {
            let scale = (ns << 32) / u128::from(to - from);
            SCALE.store(u64::try_from(scale).unwrap_or(0), Ordering::Relaxed);
        }
    });
    match (out, meanwhile) {
        (Some(out), _) => out,
        (None, Some(run)) => run(),
        // `meanwhile` was taken above, and then `out` is set.
        (None, None) => unreachable!("ran without a result"),
    }
}

/// The counter and the kernel's clock at nearly the same time: the closest of a few tries.
fn reading() -> (u64, Instant) {
    let tries = (0..8).map(|_| {
        let before = ticks();
        let now = Instant::now();
        (ticks().saturating_sub(before), before, now)
    });
    let (gap, before, now) =
        tries.min_by_key(|(gap, ..)| *gap).unwrap_or_else(|| (0, ticks(), Instant::now()));
    (before + gap / 2, now)
}

/// CPU time of the calling thread in nanoseconds; `None` where the system has no such clock.
pub(crate) fn thread_cpu_ns() -> Option<u64> {
    #[cfg(unix)]
    {
        clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
    }
    #[cfg(not(unix))]
    None
}

/// Now, on the calendar's clock and on the monotonic one that other tools show; `None` where the system has no such
/// clock.
pub(crate) fn anchor() -> Option<ClockAnchor> {
    #[cfg(unix)]
    {
        let monotonic_nano = clock_ns(libc::CLOCK_MONOTONIC)?;
        Some(ClockAnchor { unix_nano: unix_nanos(SystemTime::now()), monotonic_nano })
    }
    #[cfg(not(unix))]
    None
}

#[cfg(unix)]
fn clock_ns(clock: libc::clockid_t) -> Option<u64> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` lives across the call.
    let failed = unsafe { libc::clock_gettime(clock, &mut now) };
    (failed == 0).then(|| now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

fn kernel_ns() -> u64 {
    static BASE: OnceLock<Instant> = OnceLock::new();
    u64::try_from(BASE.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has the instruction; a kernel that forbids it to programs does not keep
    // time by it, and then this is not called.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(target_arch = "aarch64")]
#[inline]
fn ticks() -> u64 {
    let ticks: u64;
    // SAFETY: reads the virtual counter, which Linux lets programs read.
    unsafe { std::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack)) };
    ticks
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn ticks() -> u64 {
    0
}

fn kernel_keeps_time_by_ticks() -> bool {
    let source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let known = if cfg!(target_arch = "x86_64") { "tsc" } else { "arch_sys_counter" };
    std::fs::read_to_string(source).is_ok_and(|source| source.trim() == known)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The clock agrees with the kernel's, before and after its rate is known.
    #[test]
    fn agrees_with_the_kernel() {
        assert_eq!(measured_over(|| 7), 7);
        assert_eq!(measured_over(|| 8), 8);
        let (ours, kernels) = (Moment::now(), Instant::now());
        std::thread::sleep(Duration::from_millis(50));
        let (ours, kernels) = (ours.elapsed_ns() as f64, kernels.elapsed().as_nanos() as f64);
        assert!((ours / kernels - 1.0).abs() < 0.01, "{ours} ns, {kernels} ns by the kernel");
        let earlier = Moment::now();
        assert_eq!(earlier.ns_since(Moment(u64::MAX)), 0);
    }
}
