//! How much of a file is believed. Each limit is far above what real modules hold and low enough that a hostile
//! one of 16 MB costs seconds and a fraction of a gigabyte; what a limit cuts is reported as a [`crate::Note`].

/// Components inside components; toolchains nest two or three deep.
pub(crate) const MAX_NESTING: usize = 32;
/// Core modules of one component.
pub(crate) const MAX_MODULES: usize = 1_024;
/// Functions of one core module: the limit that engines agreed on.
pub(crate) const MAX_FUNCTIONS: usize = 1_000_000;
/// Bytes of one name as the file spells it.
pub(crate) const MAX_NAME: usize = 8 * 1024;
/// Bytes of one name that is demangled: what that costs grows with the square of the length.
pub(crate) const MAX_MANGLED: usize = 2 * 1024;
/// Bytes of one name after demangling, which can expand without bound.
pub(crate) const MAX_DEMANGLED: usize = 16 * 1024;
/// Bytes of one directory or file name.
pub(crate) const MAX_PATH: usize = 4 * 1024;
/// Compilation units of one module.
pub(crate) const MAX_UNITS: usize = 100_000;
/// Abbreviations of one table.
pub(crate) const MAX_ABBREVIATIONS: usize = 100_000;
/// Attributes of all abbreviations of one table.
pub(crate) const MAX_TABLE_ATTRIBUTES: usize = 500_000;
/// Bytes of the abbreviation tables that several units share.
pub(crate) const MAX_KEPT_TABLES: usize = 32 << 20;
/// Attributes of one abbreviation.
pub(crate) const MAX_ATTRIBUTES: usize = 256;
/// Nesting of debugging information entries, and so of inlined calls.
pub(crate) const MAX_DIE_DEPTH: usize = 1_024;
/// Abstract origins and specifications that are followed for one name.
pub(crate) const MAX_ORIGINS: usize = 16;
/// Namespaces and types around one name.
pub(crate) const MAX_QUALIFIERS: usize = 64;
/// Bytes of names that are made again for each lookup, when the indices take all the memory that they get.
pub(crate) const MAX_UNKEPT_NAMES: usize = 16 << 20;
/// Rows of one line table.
pub(crate) const MAX_ROWS: usize = 4_000_000;
/// Files, and directories, of one line table: file numbers are kept in 16 bits.
pub(crate) const MAX_FILES: usize = 65_534;
/// Sources, and names, of one source map.
pub(crate) const MAX_SOURCES: usize = 65_536;
/// Segments of one source map.
pub(crate) const MAX_SEGMENTS: usize = 2_000_000;
/// Notes that are kept.
pub(crate) const MAX_NOTES: usize = 64;

/// Frames of a stopped stack, inlined ones included.
pub(crate) const MAX_FRAMES: usize = 16_384;
/// Bytes of text in the frames of a stopped stack.
pub(crate) const MAX_STACK_TEXT: usize = 32 << 20;
/// Instances, modules, memories, or stacks of one core dump.
pub(crate) const MAX_DUMPED: usize = 65_536;
/// Wasm locals of one core dump.
pub(crate) const MAX_LOCALS: usize = 1_000_000;
/// Entries that are read for the variables of one stack, and for those of one variable.
pub(crate) const MAX_STACK_WORK: usize = 1_000_000;
pub(crate) const MAX_VARIABLE_WORK: usize = 20_000;
/// Entries that are read to find the statics of one module.
pub(crate) const MAX_STATICS_WORK: usize = 8_000_000;
/// Variables of one frame.
pub(crate) const MAX_VARIABLES: usize = 1_024;
/// Bytes of one printed value.
pub(crate) const MAX_VALUE: usize = 4 * 1024;
/// Elements of one array that are printed.
pub(crate) const MAX_ELEMENTS: usize = 64;
/// Bytes of one string that are printed.
pub(crate) const MAX_STRING: usize = 1024;
/// Values inside values that are printed, pointers followed included.
pub(crate) const MAX_VALUE_DEPTH: usize = 12;
/// Typedefs, qualifiers and pointers around one type.
pub(crate) const MAX_TYPE_STEPS: usize = 32;
/// Operations of one DWARF expression that are executed, and values on its stack.
pub(crate) const MAX_EXPRESSION_STEPS: usize = 1_000;
pub(crate) const MAX_EXPRESSION_STACK: usize = 64;

/// Bytes that the indices of one file may hold beside its debug sections, by the file's length.
pub(crate) fn max_retained(file_len: usize) -> usize {
    (32 << 20) + file_len.saturating_mul(2)
}
