//! The other process: starts the one under stress, stops and continues it, and notices when it hangs or ends.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use sandscope_tests::Background;

/// Longest silence that is no hang, on a busy machine too.
const SILENCE: Duration = Duration::from_secs(120);

/// Runs `test` of this program as the process under stress, to its end.
pub fn run(test: &str) {
    let child = Command::new(std::env::current_exe().expect("the test knows its path"))
        .args([test, "--exact", "--nocapture"])
        .env(super::WORKER, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test starts itself");
    let mut child = Background(child);
    let pid = libc::pid_t::try_from(child.0.id()).expect("a process id");
    let lines = BufReader::new(child.0.stdout.take().expect("stdout is piped")).lines();
    let (tell, told) = channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));

    let (mut heard, mut last, mut pauses) = (Instant::now(), String::from("nothing"), 0u64);
    loop {
        // Uneven, so that it falls on other moments of the worker's each time.
        match told.recv_timeout(Duration::from_millis(100 + pauses * 37 % 500)) {
            Ok(line) => {
                if let Some(beat) = line.strip_prefix(super::worker::BEAT) {
                    println!("{beat}");
                    (heard, last) = (Instant::now(), line);
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                assert!(heard.elapsed() < SILENCE, "it hangs; the last it said was {last}");
                pauses += 1;
                signal(pid, libc::SIGSTOP);
                std::thread::sleep(Duration::from_millis(1 + pauses % 40));
                signal(pid, libc::SIGCONT);
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = child.0.wait().expect("its end can be waited for");
    assert!(status.success(), "{status}; the last it said was {last}");
    assert!(last.contains(super::worker::DONE), "it ended early; the last it said was {last}");
}

fn signal(process: libc::pid_t, signal: libc::c_int) {
    // SAFETY: a signal to a child that has not been waited for, so the id is still its own.
    unsafe { libc::kill(process, signal) };
}
