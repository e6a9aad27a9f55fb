//! CPU clocks: of the process, of a thread, and of the threads that belong to sandscope itself.

use std::time::Duration;

/// CPU time of all threads of this process.
pub fn process() -> Duration {
    read(libc::CLOCK_PROCESS_CPUTIME_ID).unwrap_or_default()
}

/// CPU time of the calling thread.
pub fn thread() -> Duration {
    read(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or_default()
}

/// CPU time of all threads of another process, which must not have been waited for yet.
pub fn of_process(process: u32) -> Duration {
    read((!process.cast_signed() << 3) | 2).unwrap_or_default()
}

/// CPU time of sandscope's own threads (aggregator, exporter), which are called `sandscope`.
pub fn sandscope() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let own = tasks.filter(|task| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "sandscope")
    });
    // A thread that has just ended has no clock any more, and did no work worth counting.
    own.filter_map(|task| read(clock_of(task.file_name().to_str()?.parse().ok()?))).sum()
}

/// The CPU clock of a thread of this process. The kernel's encoding (include/linux/posix-timers_types.h):
/// the complement of the id, then one bit for "thread" and two for the clock, 2 being the scheduler's.
fn clock_of(thread: libc::pid_t) -> libc::clockid_t {
    (!thread << 3) | 4 | 2
}

fn read(clock: libc::clockid_t) -> Option<Duration> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` lives across the call.
    let failed = unsafe { libc::clock_gettime(clock, &mut now) };
    (failed == 0).then(|| Duration::new(now.tv_sec as u64, now.tv_nsec as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The clock of a thread called `sandscope` is found and runs while that thread works.
    #[test]
    fn finds_own_threads() {
        let (go, done) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
        std::thread::scope(|threads| {
            let worker = std::thread::Builder::new().name("sandscope".to_owned());
            let work = || {
                while thread() < Duration::from_millis(5) {}
                go.wait();
                done.wait();
            };
            worker.spawn_scoped(threads, work).unwrap();
            go.wait();
            assert!(sandscope() >= Duration::from_millis(5));
            done.wait();
        });
    }
}
