//! The terminal UI in a real terminal (a pseudo-terminal that Python's standard library makes).
#![allow(clippy::print_stderr, reason = "tests say what they skip")]

use std::process::Command;

use sandscope_tests::{binary, guest, output, stderr, stdout};

/// Starts the binary in a terminal of 100×30, waits for a text, does `then` and prints how the process ended.
const SCRIPT: &str = r#"
import fcntl, os, pty, select, signal, struct, sys, termios, time
want, then, args = sys.argv[1], sys.argv[2], sys.argv[3:]
pid, terminal = pty.fork()
if pid == 0:
    os.execv(args[0], args)
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
os.kill(pid, signal.SIGWINCH)
seen, deadline = b"", time.monotonic() + 60
while want.encode() not in seen:
    if time.monotonic() > deadline:
        sys.exit("never showed: " + repr(seen[-2000:]))
    if select.select([terminal], [], [], 0.1)[0]:
        seen += os.read(terminal, 65536)
if then == "hangup":
    os.close(terminal)
else:
    os.write(terminal, then.encode())
deadline = time.monotonic() + 20
while time.monotonic() < deadline:
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        print("ended", os.waitstatus_to_exitcode(status))
        sys.exit(0)
    if then != "hangup" and select.select([terminal], [], [], 0.05)[0]:
        try:
            os.read(terminal, 65536)
        except OSError:
            pass
    else:
        time.sleep(0.05)
os.kill(pid, signal.SIGKILL)
sys.exit("it never ended")
"#;

/// Runs `args` in a terminal until it shows `want`, then types `then` (or hangs up); it has to end by itself,
/// with 0 or, where nobody is left to be told, by the hangup's signal or for a terminal that fails.
#[track_caller]
fn check(want: &str, then: &str, args: &[&str]) {
    let ran = Command::new("python3").args(["-c", SCRIPT, want, then]).arg(binary()).args(args).output();
    let Ok(ran) = ran else {
        eprintln!("SKIPPED: no python3 to make a terminal with");
        return;
    };
    let ended = stdout(&ran);
    let fine = match ended.trim() {
        "ended 0" => true,
        "ended 2" | "ended -1" => then == "hangup",
        _ => false,
    };
    assert!(fine, "{ended} {}", stderr(&ran));
}

/// `q` ends it, and so does a terminal that goes away: an ssh connection that breaks must leave nothing behind.
#[test]
fn a_recording_opens_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let (path, analytics) = (path.to_str().unwrap(), guest("analytics"));
    let run = ["run", "--hz", "250", "--record", path, analytics.to_str().unwrap(), "--generate", "100000"];
    assert!(output(&run).status.success());
    check("analytics", "q", &["open", path]);
    check("analytics", "hangup", &["open", path]);
}

/// The demo's hosts and collector end with it, however it ends.
#[test]
fn a_demo_ends_when_its_terminal_does() {
    check("session", "hangup", &["demo", "--regions", "1"]);
    check("session", "q", &["demo", "--regions", "1"]);
}
