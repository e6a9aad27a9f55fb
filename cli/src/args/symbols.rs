//! The flags of `sandscope symbolize` and `sandscope symbols`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Reach;

#[derive(Debug, Args)]
pub struct SymbolizeArgs {
    /// The module or component.
    #[arg(short, long, short_alias = 'e', alias = "exe", value_name = "FILE")]
    pub module: PathBuf,
    /// More files about it: its debug file, .dwo or .dwp files, its source map. By default those beside it that it
    /// names, then its debug file in the local store.
    #[arg(long, value_name = "FILE")]
    pub debug: Vec<PathBuf>,
    /// JSON for scripts instead of text.
    #[arg(long)]
    pub json: bool,
    /// Addresses count from the content of the Code section, as llvm-symbolizer has them.
    #[arg(long)]
    pub section_relative: bool,
    #[command(flatten)]
    pub style: AddrStyle,
    /// Whole-file byte offsets, decimal or 0x-hexadecimal; from stdin, one a line, if none is given.
    pub addresses: Vec<String>,
}

/// What addr2line is told to print.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct AddrStyle {
    /// As addr2line: function names.
    #[arg(short, long)]
    pub functions: bool,
    /// As addr2line: names as people wrote them, not as linkers see them.
    #[arg(short = 'C', long)]
    pub demangle: bool,
    /// As addr2line: the calls that inlined code was called by.
    #[arg(short, long, alias = "inlining")]
    pub inlines: bool,
    /// As addr2line: the address before each answer.
    #[arg(short, long = "show-addresses", alias = "addresses")]
    pub addresses_too: bool,
    /// As addr2line: a line for each frame.
    #[arg(short, long)]
    pub pretty_print: bool,
    /// As addr2line: files without their folders.
    #[arg(short = 's', long)]
    pub basenames: bool,
}

impl AddrStyle {
    /// Whether anything was asked for.
    pub fn is_any(self) -> bool {
        let Self { functions, demangle, inlines, addresses_too, pretty_print, basenames } = self;
        functions || demangle || inlines || addresses_too || pretty_print || basenames
    }
}

#[derive(Debug, Args)]
pub struct SymbolsArgs {
    #[command(subcommand)]
    pub command: SymbolsCommand,
}

#[derive(Debug, Subcommand)]
pub enum SymbolsCommand {
    /// Keep debug info of modules under their ids; the last file of an id counts. Code and data are left out.
    Push {
        /// Modules or debug files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// A directory or a collector's HTTP address; by default sandscope/symbols in XDG_DATA_HOME or ~/.local/share.
        #[arg(long, value_name = "DIR|URL")]
        to: Option<String>,
        /// Keep code and data too.
        #[arg(long)]
        with_code: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// What is kept: id and size in bytes.
    List {
        /// A directory or a collector's HTTP address.
        #[arg(long, value_name = "DIR|URL")]
        from: Option<String>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Get debug info back.
    Fetch {
        /// A build id, or another id that `list` or `report` prints.
        id: String,
        /// Where to write it; by default the first 12 digits of the id and `.wasm`.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// A directory or a collector's HTTP address.
        #[arg(long, value_name = "DIR|URL")]
        from: Option<String>,
        #[command(flatten)]
        reach: Reach,
    },
}
