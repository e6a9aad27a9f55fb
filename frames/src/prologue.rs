//! Frame sizes read from code: what a function does to the stack pointer of linear memory, which LLVM keeps in a
//! global. Where frames lie then is for readers of dumps to say.
//!
//! ```text
//! (func … global.get $sp  i32.const 32  i32.sub  local.tee 3  global.set $sp  …  local.get 3  i32.const 32  i32.add  global.set $sp)
//!         \-------------------- prologue --------------------------------/        \----------------- epilogue -------------/
//! ```
//! Unoptimized code does the same through more locals, and leaf functions with small frames leave the global alone. So
//! the code is followed with values that are known relative to the pointer at entry, not compared with a pattern.

use std::collections::HashMap;

use wasmparser::{FunctionBody, Operator};

/// How a function makes its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// In which of the ways.
    pub kind: FrameKind,
    /// Bytes below the pointer at entry, before any alignment.
    pub size: u32,
    /// The wasm local that holds the frame's base, if one does.
    pub local: Option<u32>,
    /// In bytes from the start of the body: the frame is there behind it.
    pub ready: u32,
}

/// What a function does to the stack pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// The global points to the frame while the function runs.
    Fixed,
    /// A leaf that leaves the global where it was.
    RedZone,
    /// The frame's base was rounded down: where the caller's is cannot be told from it.
    Aligned,
    /// [`FrameKind::Aligned`] in a leaf, which leaves the global where it was: rounded down to a multiple of 2^n.
    AlignedRedZone(u8),
    /// The pointer moves while the function runs, or in ways that are not understood.
    Dynamic,
}

/// What is known of a value while a function is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Unknown,
    /// Something and so many bytes.
    Above(i64),
    Constant(i64),
    /// The pointer at entry less so many bytes.
    Below(i64),
    /// [`Value::Below`] rounded down to a multiple of 2^n.
    Rounded(i64, u8),
}

/// Follows a function from its start to its end: its frame, if it has one, and where it has left it.
pub(crate) fn follow(body: &FunctionBody<'_>, pointer: u32) -> (Option<Frame>, Vec<(u32, u32)>) {
    let start = body.range().start;
    let mut follower = Follower { pointer, ..Follower::default() };
    let Ok(mut operators) = body.get_operators_reader() else { return (Some(DYNAMIC), Vec::new()) };
    while !operators.eof() {
        let Ok(operator) = operators.read() else { return (Some(DYNAMIC), Vec::new()) };
        // Bodies are parts of files below 4 GiB.
        let behind = (operators.original_position() - start) as u32;
        follower.step(&operator, behind);
    }
    let left = std::mem::take(&mut follower.left);
    (follower.finish(), left)
}

/// Nothing that can be relied on.
const DYNAMIC: Frame = Frame { kind: FrameKind::Dynamic, size: 0, local: None, ready: 0 };
/// Operands and locals that are followed; more than prologues need.
const MAX_OPERANDS: usize = 64;
const MAX_FOLLOWED: usize = 4_096;

#[derive(Default)]
struct Follower {
    pointer: u32,
    /// The top of the operand stack, as far as it is known.
    operands: Vec<Value>,
    locals: HashMap<u32, Value>,
    /// Past the first operator that can leave the straight line from the entry.
    branched: bool,
    /// The local that got the frame's base, its value, and where that was.
    base: Option<(u32, Value, u32)>,
    /// What the prologue set the global to, and where.
    frame: Option<(Value, u32)>,
    is_dynamic: bool,
    /// Behind an epilogue, where the global has its value from the entry again: where that starts, and whether
    /// anything is done there.
    restored: Option<(u32, bool)>,
    left: Vec<(u32, u32)>,
}

impl Follower {
    fn push(&mut self, value: Value) {
        if self.operands.len() >= MAX_OPERANDS {
            self.operands.clear();
        }
        self.operands.push(value);
    }

    fn pop(&mut self) -> Value {
        self.operands.pop().unwrap_or(Value::Unknown)
    }

    fn step(&mut self, operator: &Operator<'_>, behind: u32) {
        match *operator {
            Operator::GlobalGet { global_index } if global_index == self.pointer => {
                // Followed from the entry only: in a loop it might have been moved before.
                let known = !self.branched && self.frame.is_none();
                self.push(if known { Value::Below(0) } else { Value::Unknown });
            }
            Operator::GlobalSet { global_index } if global_index == self.pointer => {
                let value = self.pop();
                self.set(value, behind);
            }
            Operator::I32Const { value } => self.push(Value::Constant(value.into())),
            Operator::I64Const { value } => self.push(Value::Constant(value)),
            Operator::I32Sub | Operator::I64Sub => {
                let (right, left) = (self.pop(), self.pop());
                self.push(match (left, right) {
                    (Value::Below(by), Value::Constant(size)) => Value::Below(by.saturating_add(size)),
                    _ => Value::Unknown,
                });
            }
            Operator::I32Add | Operator::I64Add => {
                let (right, left) = (self.pop(), self.pop());
                self.push(match (left, right) {
                    (Value::Below(by), Value::Constant(size)) | (Value::Constant(size), Value::Below(by)) => {
                        Value::Below(by.saturating_sub(size))
                    }
                    (Value::Unknown, Value::Constant(size)) => Value::Above(size),
                    _ => Value::Unknown,
                });
            }
            Operator::I32And | Operator::I64And => {
                let (right, left) = (self.pop(), self.pop());
                self.push(match (left, right) {
                    (Value::Below(by), Value::Constant(mask)) | (Value::Constant(mask), Value::Below(by)) => {
                        rounding(mask).map_or(Value::Unknown, |log| Value::Rounded(by, log))
                    }
                    _ => Value::Unknown,
                });
            }
            Operator::LocalGet { local_index } => {
                self.push(self.locals.get(&local_index).copied().unwrap_or(Value::Unknown));
            }
            Operator::LocalSet { local_index } => {
                let value = self.pop();
                self.assign(local_index, value, behind);
            }
            Operator::LocalTee { local_index } => {
                let value = self.pop();
                self.push(value);
                self.assign(local_index, value, behind);
            }
            Operator::Block { .. } | Operator::Nop => {}
            ref other => {
                self.operands.clear();
                if is_control(other) {
                    self.branch();
                }
                let is_end =
                    matches!(other, Operator::End | Operator::Else | Operator::Return | Operator::Br { .. });
                match (&mut self.restored, is_end) {
                    (Some((_, is_used)), false) => *is_used = true,
                    (_, true) => self.enter_frame(behind),
                    (None, false) => {}
                }
            }
        }
    }

    fn assign(&mut self, local: u32, value: Value, behind: u32) {
        if !self.branched && self.frame.is_none() {
            match (self.base, value) {
                (None, Value::Below(1..) | Value::Rounded(..)) => self.base = Some((local, value, behind)),
                // Alignment comes after the size.
                (Some((_, Value::Below(size), _)), Value::Rounded(of, _)) if of == size => {
                    self.base = Some((local, value, behind));
                }
                _ => {}
            }
        }
        if value == Value::Unknown || self.locals.len() >= MAX_FOLLOWED {
            self.locals.remove(&local);
        } else {
            self.locals.insert(local, value);
        }
    }

    /// The global gets a value.
    fn set(&mut self, value: Value, behind: u32) {
        match self.frame {
            // Left as it was.
            None if value == Value::Below(0) => {}
            // The prologue, in the straight line from the entry.
            None if !self.branched && matches!(value, Value::Below(_) | Value::Rounded(..)) => {
                self.frame = Some((value, behind));
            }
            // An epilogue.
            Some(_) if value == Value::Below(0) => self.restored = Some((behind, false)),
            // One whose base went through a call: `memset` and others return the pointer that they got.
            Some((Value::Below(size), _)) if value == Value::Above(size) => {
                self.restored = Some((behind, false));
            }
            // A landing pad, which sets it to the frame again.
            Some((base, _)) if value == base => self.enter_frame(behind),
            _ => self.is_dynamic = true,
        }
    }

    /// What follows has its frame, as far as is known.
    fn enter_frame(&mut self, behind: u32) {
        if let Some((start, true)) = self.restored.take() {
            self.left.push((start, behind));
        }
    }

    /// Values are not followed across branches, except for those that compilers keep in a local of their own: the
    /// frame's base, and the pointer at entry.
    fn branch(&mut self) {
        self.branched = true;
        let base = self.base.map(|(local, ..)| local);
        self.locals.retain(|local, value| Some(*local) == base || *value == Value::Below(0));
    }

    fn finish(self) -> Option<Frame> {
        if self.is_dynamic {
            return Some(DYNAMIC);
        }
        let in_local = |value| self.base.filter(|(_, base, _)| *base == value).map(|(local, ..)| local);
        let (value, ready, is_written) = match (self.frame, self.base) {
            (Some((value, ready)), _) => (value, ready, true),
            (None, Some((_, value, ready))) => (value, ready, false),
            (None, None) => return None,
        };
        let (kind, size) = match value {
            Value::Below(size) if is_written => (FrameKind::Fixed, size),
            Value::Below(size) => (FrameKind::RedZone, size),
            Value::Rounded(size, _) if is_written => (FrameKind::Aligned, size),
            Value::Rounded(size, log) => (FrameKind::AlignedRedZone(log), size),
            _ => return Some(DYNAMIC),
        };
        let Ok(size) = u32::try_from(size) else { return Some(DYNAMIC) };
        Some(Frame { kind, size, local: in_local(value), ready })
    }
}

/// The n of a mask that rounds down to a multiple of 2^n.
fn rounding(mask: i64) -> Option<u8> {
    let log = mask.trailing_zeros();
    (mask < 0 && log < 32 && mask >> log == -1).then_some(log as u8)
}

fn is_control(operator: &Operator<'_>) -> bool {
    matches!(
        operator,
        Operator::Loop { .. }
            | Operator::If { .. }
            | Operator::Else
            | Operator::End
            | Operator::Br { .. }
            | Operator::BrIf { .. }
            | Operator::BrTable { .. }
            | Operator::BrOnNull { .. }
            | Operator::BrOnNonNull { .. }
            | Operator::Return
            | Operator::Unreachable
            | Operator::Call { .. }
            | Operator::CallIndirect { .. }
            | Operator::CallRef { .. }
            | Operator::ReturnCall { .. }
            | Operator::ReturnCallIndirect { .. }
            | Operator::ReturnCallRef { .. }
            | Operator::TryTable { .. }
            | Operator::Try { .. }
            | Operator::Catch { .. }
            | Operator::CatchAll
    )
}
