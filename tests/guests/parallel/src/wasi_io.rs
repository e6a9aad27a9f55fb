//! What a command needs of WASI 0.1, by its raw calls: arguments, output, exit.

use std::panic;

pub const STDOUT: wasi::Fd = 1;
pub const STDERR: wasi::Fd = 2;

/// The arguments, the program's name included; none if the host refuses.
pub fn args() -> Vec<String> {
    // SAFETY: has no preconditions.
    let Ok((count, size)) = (unsafe { wasi::args_sizes_get() }) else { return Vec::new() };
    let mut pointers = vec![std::ptr::null_mut::<u8>(); count];
    let mut text = vec![0_u8; size];
    // SAFETY: both buffers have the sizes that were just asked for.
    if unsafe { wasi::args_get(pointers.as_mut_ptr(), text.as_mut_ptr()) }.is_err() {
        return Vec::new();
    }
    // They lie behind one another, each ended by a zero.
    text.split(|byte| *byte == 0).take(count).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect()
}

/// Writes all of it, or as much as the host takes.
pub fn print(to: wasi::Fd, text: &str) {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let piece = wasi::Ciovec { buf: rest.as_ptr(), buf_len: rest.len() };
        // SAFETY: the piece is borrowed for the call.
        match unsafe { wasi::fd_write(to, &[piece]) } {
            Ok(written @ 1..) if written <= rest.len() => rest = &rest[written..],
            _ => return,
        }
    }
}

pub fn exit(code: u32) -> ! {
    // SAFETY: does not return.
    unsafe { wasi::proc_exit(code) };
    unreachable!("proc_exit returned");
}

/// Without it a panic of this target says nothing before it traps.
pub fn report_panics() {
    panic::set_hook(Box::new(|info| print(STDERR, &format!("parallel: {info}\n"))));
}
