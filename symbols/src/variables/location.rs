//! Where a variable is: DWARF's location expressions, answered by what is known of a stopped frame. What cannot be
//! known is said, never guessed.

use std::rc::Rc;

use gimli::{Expression, Operation, Reader as _};

use super::entries::{Entries, Entry, Unit};
use super::object::{Content, Memory, Missing, Object, Part};
use super::stopped::StoppedFrame;
use super::unwind::Place;
use crate::dwarf::Slice;
use crate::limits::{MAX_EXPRESSION_STACK, MAX_EXPRESSION_STEPS};

/// What an expression may ask of a stopped frame.
pub(super) struct Context<'s, 'a> {
    pub entries: &'s Entries<'a>,
    pub memory: Memory<'s>,
    /// `None` for statics, which have no frame.
    pub frame: Option<Frame<'s, 'a>>,
}

/// A stopped frame.
pub(super) struct Frame<'s, 'a> {
    pub stopped: &'s StoppedFrame,
    pub place: Place,
    /// Where the function says that its frame is.
    pub base: Option<(Expression<Slice<'a>>, Rc<Unit<'a>>)>,
}

impl<'a> Context<'_, 'a> {
    /// Where an expression says that something is.
    pub fn locate(&self, expression: Expression<Slice<'a>>, entry: &Entry<'a>) -> Result<Object, Missing> {
        Machine::new(self, &entry.unit, false).locate(expression.0)
    }

    fn frame_base(&self) -> Result<u64, Missing> {
        let (expression, unit) =
            self.frame.as_ref().and_then(|frame| frame.base.as_ref()).ok_or(Missing::OptimizedOut)?;
        Machine::new(self, unit, true).value(expression.0)
    }

    /// A wasm local. The one that held the frame's base may hold something else by now, so that what is known of the
    /// base answers for the base alone, and comes first there.
    fn local(&self, index: u32, is_base: bool) -> Option<u64> {
        let frame = self.frame.as_ref()?;
        let base = frame.place.base.ok().flatten().filter(|_| is_base && frame.place.local == Some(index));
        base.or_else(|| frame.stopped.locals.get(index as usize).copied().flatten())
    }

    fn global(&self, index: u32) -> Option<u64> {
        if let Some((_, value)) =
            self.frame.as_ref().and_then(|frame| frame.place.pointer).filter(|(global, _)| *global == index)
        {
            return Some(value);
        }
        // Of other globals the value is that of the stop, which is not the caller's only where callees change them.
        (!self.memory.is_missing).then(|| self.memory.stopped.global(self.memory.instance, index))?
    }
}

/// One expression being executed.
struct Machine<'m, 'a> {
    context: &'m Context<'m, 'a>,
    unit: &'m Unit<'a>,
    /// Whether it says where the frame is.
    is_base: bool,
    stack: Vec<u64>,
    /// Why the value on top is none.
    missing: Option<Missing>,
}

/// What an operation left to its caller.
enum Step {
    Done,
    Jump(i16),
    /// The value on top is the object itself, not its address.
    IsValue,
    Implicit(Vec<u8>),
    Piece(u64),
}

impl<'m, 'a> Machine<'m, 'a> {
    fn new(context: &'m Context<'m, 'a>, unit: &'m Unit<'a>, is_base: bool) -> Self {
        Self { context, unit, is_base, stack: Vec::new(), missing: None }
    }

    /// Executes for a location.
    fn locate(&mut self, code: Slice<'a>) -> Result<Object, Missing> {
        let mut parts: Vec<Part> = Vec::new();
        let mut value: Option<Vec<u8>> = None;
        let mut is_empty = true;
        self.run(code, |machine, step| {
            match step {
                Step::IsValue => value = Some(machine.top().to_le_bytes().to_vec()),
                Step::Implicit(bytes) => value = Some(bytes),
                Step::Piece(len) => {
                    let content = match (machine.missing.take(), value.take()) {
                        (Some(missing), _) => Content::Missing(missing),
                        (None, Some(bytes)) => Content::Bytes(bytes),
                        (None, None) if is_empty => Content::Missing(Missing::OptimizedOut),
                        (None, None) => Content::Memory(machine.address()),
                    };
                    machine.stack.clear();
                    is_empty = true;
                    parts.push(Part { len, content });
                    return parts.len() <= MAX_EXPRESSION_STACK;
                }
                Step::Done | Step::Jump(_) => {}
            }
            is_empty = false;
            true
        })?;
        if !parts.is_empty() {
            return Ok(Object::parts(parts));
        }
        match (self.missing, value) {
            (Some(missing), _) => Err(missing),
            (None, Some(bytes)) => Ok(Object::bytes(bytes)),
            (None, None) if is_empty => Err(Missing::OptimizedOut),
            (None, None) => Ok(Object::memory(self.address())),
        }
    }

    /// Executes for the value that is left on top.
    fn value(&mut self, code: Slice<'a>) -> Result<u64, Missing> {
        self.run(code, |_, _| true)?;
        self.missing.map_or_else(|| self.stack.last().copied().ok_or(Missing::OptimizedOut), Err)
    }

    fn top(&self) -> u64 {
        self.stack.last().copied().unwrap_or(0)
    }

    /// The value on top, as wide as addresses are.
    fn address(&self) -> u64 {
        if self.unit.header.address_size() == 4 { self.top() & 0xffff_ffff } else { self.top() }
    }

    fn run(&mut self, code: Slice<'a>, mut take: impl FnMut(&mut Self, Step) -> bool) -> Result<(), Missing> {
        let mut at = code;
        for _ in 0..MAX_EXPRESSION_STEPS {
            if at.is_empty() {
                return Ok(());
            }
            if !self.context.entries.spend(1) {
                break;
            }
            let operation =
                Operation::parse(&mut at, self.unit.encoding()).map_err(|_| Missing::OptimizedOut)?;
            let step = self.execute(operation)?;
            if let Step::Jump(by) = step {
                let to = (code.len() - at.len()).checked_add_signed(isize::from(by));
                at = code;
                to.and_then(|to| at.skip(to).ok()).ok_or(Missing::OptimizedOut)?;
            }
            if !take(self, step) || self.stack.len() > MAX_EXPRESSION_STACK {
                break;
            }
        }
        // It does not end.
        Err(Missing::OptimizedOut)
    }

    fn push(&mut self, value: u64) -> Step {
        self.stack.push(value);
        Step::Done
    }

    /// A value that is not there; what is computed from it is not there either.
    fn push_or(&mut self, value: Option<u64>, missing: Missing) -> Step {
        if value.is_none() {
            self.missing = self.missing.or(Some(missing));
        }
        self.push(value.unwrap_or(0))
    }

    fn pop(&mut self) -> Result<u64, Missing> {
        self.stack.pop().ok_or(Missing::OptimizedOut)
    }

    fn unary(&mut self, compute: impl FnOnce(u64) -> u64) -> Result<Step, Missing> {
        let value = self.pop()?;
        Ok(self.push(compute(value)))
    }

    fn binary(&mut self, compute: impl FnOnce(u64, u64) -> Option<u64>) -> Result<Step, Missing> {
        let (right, left) = (self.pop()?, self.pop()?);
        // After something that is missing, a division by its stand-in means nothing.
        let result = compute(left, right);
        Ok(self.push_or(result, Missing::OptimizedOut))
    }

    fn compare(&mut self, compute: impl FnOnce(i64, i64) -> bool) -> Result<Step, Missing> {
        self.binary(|left, right| Some(u64::from(compute(left.cast_signed(), right.cast_signed()))))
    }

    fn execute(&mut self, operation: Operation<Slice<'a>>) -> Result<Step, Missing> {
        let shift = |by: u64| u32::try_from(by).unwrap_or(u32::MAX);
        Ok(match operation {
            Operation::UnsignedConstant { value } => self.push(value),
            Operation::SignedConstant { value } => self.push(value.cast_unsigned()),
            Operation::Address { address } => {
                let address = (!self.context.entries.is_relocated).then_some(address);
                self.push_or(address, Missing::NotRecorded)
            }
            Operation::AddressIndex { index } | Operation::ConstantIndex { index } => {
                let address = self.context.entries.indexed_address(self.unit, index);
                let address = address.filter(|_| !self.context.entries.is_relocated);
                self.push_or(address, Missing::OptimizedOut)
            }
            Operation::FrameOffset { offset } => match self.context.frame_base() {
                Ok(base) => self.push(base.wrapping_add_signed(offset)),
                Err(missing) => self.push_or(None, missing),
            },
            Operation::WasmLocal { index } => {
                let local = self.context.local(index, self.is_base);
                self.push_or(local, Missing::NotRecorded)
            }
            Operation::WasmGlobal { index } => {
                let global = self.context.global(index);
                self.push_or(global, Missing::NotRecorded)
            }
            Operation::WasmStack { .. } | Operation::CallFrameCFA => self.push_or(None, Missing::NotRecorded),
            Operation::TLS => {
                self.pop()?;
                self.push_or(None, Missing::NotRecorded)
            }
            Operation::Deref { size, space: false, base_type } if base_type.0 == 0 && size <= 8 => {
                let value = self.load(u64::from(size));
                self.pop()?;
                self.push_or(value, Missing::NotRecorded)
            }
            Operation::Drop => {
                self.pop()?;
                Step::Done
            }
            Operation::Pick { index } => {
                let at = self.stack.len().checked_sub(1 + usize::from(index));
                let value = at.and_then(|at| self.stack.get(at)).copied().ok_or(Missing::OptimizedOut)?;
                self.push(value)
            }
            Operation::Swap => {
                let (top, second) = (self.pop()?, self.pop()?);
                self.push(top);
                self.push(second)
            }
            Operation::Rot => {
                let (top, second, third) = (self.pop()?, self.pop()?, self.pop()?);
                self.push(top);
                self.push(third);
                self.push(second)
            }
            Operation::Abs => self.unary(|value| value.cast_signed().unsigned_abs())?,
            Operation::Neg => self.unary(u64::wrapping_neg)?,
            Operation::Not => self.unary(|value| !value)?,
            Operation::PlusConstant { value } => self.unary(|top| top.wrapping_add(value))?,
            Operation::And => self.binary(|left, right| Some(left & right))?,
            Operation::Or => self.binary(|left, right| Some(left | right))?,
            Operation::Xor => self.binary(|left, right| Some(left ^ right))?,
            Operation::Plus => self.binary(|left, right| Some(left.wrapping_add(right)))?,
            Operation::Minus => self.binary(|left, right| Some(left.wrapping_sub(right)))?,
            Operation::Mul => self.binary(|left, right| Some(left.wrapping_mul(right)))?,
            Operation::Div => self.binary(|left, right| {
                left.cast_signed().checked_div(right.cast_signed()).map(i64::cast_unsigned)
            })?,
            Operation::Mod => self.binary(u64::checked_rem)?,
            Operation::Shl => self.binary(|left, by| Some(left.checked_shl(shift(by)).unwrap_or(0)))?,
            Operation::Shr => self.binary(|left, by| Some(left.checked_shr(shift(by)).unwrap_or(0)))?,
            Operation::Shra => {
                self.binary(|left, by| Some((left.cast_signed() >> by.min(63)).cast_unsigned()))?
            }
            Operation::Eq => self.compare(|left, right| left == right)?,
            Operation::Ne => self.compare(|left, right| left != right)?,
            Operation::Ge => self.compare(|left, right| left >= right)?,
            Operation::Gt => self.compare(|left, right| left > right)?,
            Operation::Le => self.compare(|left, right| left <= right)?,
            Operation::Lt => self.compare(|left, right| left < right)?,
            Operation::Skip { target } => Step::Jump(target),
            Operation::Bra { target } => {
                let is_taken = self.pop()? != 0;
                // Which way it goes depends on what is not known.
                if let Some(missing) = self.missing {
                    return Err(missing);
                }
                if is_taken { Step::Jump(target) } else { Step::Done }
            }
            Operation::Nop | Operation::Uninitialized => Step::Done,
            Operation::Convert { base_type } | Operation::Reinterpret { base_type } => {
                let value = self.pop()?;
                let converted = self.convert(value, base_type);
                self.push_or(converted, Missing::OptimizedOut)
            }
            Operation::StackValue => Step::IsValue,
            Operation::ImplicitValue { data } => Step::Implicit(data.slice().to_vec()),
            Operation::Piece { size_in_bits, bit_offset: None | Some(0) } if size_in_bits % 8 == 0 => {
                Step::Piece(size_in_bits / 8)
            }
            // Values at a function's entry, call-site parameters, registers that wasm has not, …
            _ => return Err(Missing::OptimizedOut),
        })
    }

    /// Memory at the address on top.
    fn load(&self, size: u64) -> Option<u64> {
        if self.missing.is_some() {
            return None;
        }
        let mut bytes = [0; 8];
        let into = bytes.get_mut(..usize::try_from(size).ok()?)?;
        self.context.memory.read(self.address(), into).then(|| u64::from_le_bytes(bytes))
    }

    /// A value as wide and signed as a base type of the unit.
    fn convert(&self, value: u64, base_type: gimli::UnitOffset) -> Option<u64> {
        if base_type.0 == 0 {
            return Some(value);
        }
        let unit = self.unit.header.debug_info_offset()?.0;
        let ty = self.context.entries.read(u32::try_from(unit.checked_add(base_type.0)?).ok()?)?;
        let bits =
            8 * u32::try_from(ty.number(gimli::DW_AT_byte_size).filter(|size| (1..=8).contains(size))?)
                .ok()?;
        let unused = 64 - bits;
        match ty.value(gimli::DW_AT_encoding)? {
            gimli::AttributeValue::Encoding(gimli::DW_ATE_signed | gimli::DW_ATE_signed_char) => {
                Some(((value << unused).cast_signed() >> unused).cast_unsigned())
            }
            gimli::AttributeValue::Encoding(
                gimli::DW_ATE_unsigned
                | gimli::DW_ATE_unsigned_char
                | gimli::DW_ATE_boolean
                | gimli::DW_ATE_address,
            ) => Some(value << unused >> unused),
            // Floats would need arithmetic of their own.
            _ => None,
        }
    }
}
