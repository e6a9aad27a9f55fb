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
/// Notes that are kept.
pub(crate) const MAX_NOTES: usize = 64;

/// Bytes that the indices of one file may hold beside its debug sections, by the file's length.
pub(crate) fn max_retained(file_len: usize) -> usize {
    (32 << 20) + file_len.saturating_mul(2)
}
