//! Frame sizes of a guest's functions in linear memory, read from its code: what unwinding a core dump needs and debug
//! info without code does not hold. Hosts read them where the code is, readers of dumps use them; what frames hold is
//! for others to say.

mod prologue;
mod table;

pub use prologue::{Frame, FrameKind};
pub use table::{FrameTable, ModuleFrames, Space};

/// Components inside components; toolchains nest two or three deep.
const MAX_NESTING: usize = 32;
/// Core modules of one component.
const MAX_MODULES: usize = 1_024;
/// Functions of one core module: the limit that engines agreed on.
const MAX_FUNCTIONS: usize = 1_000_000;
