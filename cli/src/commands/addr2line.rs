//! The forms of `sandscope symbolize`: everything that is known, JSON, and what addr2line prints for its flags (LLVM's,
//! which is the one that reads wasm).
//! Each answer is flushed, so that a program can ask and read in turn.

use std::io::Write;

use sandscope_model::SourceFrame;
use sandscope_model::text::visible;
use serde::Serialize;

use crate::args::AddrStyle;
use crate::report::encode;

/// How answers look.
#[derive(Clone, Copy, Debug)]
pub enum Style {
    /// One line a frame, with the source of each name.
    Everything,
    /// A list, one line an address.
    Json,
    /// What these flags of addr2line ask for.
    Addr2line(AddrStyle),
}

#[derive(Serialize)]
struct Entry<'a> {
    address: u64,
    frames: Vec<Frame<'a>>,
}

#[derive(Serialize)]
struct Frame<'a> {
    function: &'a str,
    file: Option<&'a str>,
    line: Option<u32>,
    column: Option<u32>,
    inlined: bool,
    source: &'static str,
}

/// Prints answers.
pub struct Printer<W> {
    out: W,
    style: Style,
    printed: u64,
}

impl<W: Write> Printer<W> {
    /// Nothing is printed yet.
    pub fn new(out: W, style: Style) -> Self {
        Self { out, style, printed: 0 }
    }

    /// Prints the frames of an address, innermost first; none if nothing is known.
    ///
    /// # Errors
    /// The output's.
    pub fn print(&mut self, address: u64, frames: &[SourceFrame]) -> std::io::Result<()> {
        self.printed += 1;
        match self.style {
            Style::Everything => self.everything(address, frames)?,
            Style::Json => self.json(address, frames)?,
            Style::Addr2line(style) => self.addr2line(address, frames, style)?,
        }
        self.out.flush()
    }

    /// Ends the output.
    ///
    /// # Errors
    /// The output's.
    pub fn finish(mut self) -> std::io::Result<()> {
        if matches!(self.style, Style::Json) {
            writeln!(self.out, "{}", if self.printed == 0 { "[]" } else { "]" })?;
        }
        self.out.flush()
    }

    fn json(&mut self, address: u64, frames: &[SourceFrame]) -> std::io::Result<()> {
        let frames = frames.iter().map(|frame| Frame {
            function: &frame.function,
            file: frame.file.as_deref(),
            line: frame.line,
            column: frame.column,
            inlined: frame.inlined,
            source: frame.source.as_str(),
        });
        let json = encode(&Entry { address, frames: frames.collect() })?;
        writeln!(self.out, "{}{json}", if self.printed == 1 { '[' } else { ',' })
    }

    fn everything(&mut self, address: u64, frames: &[SourceFrame]) -> std::io::Result<()> {
        if frames.is_empty() {
            writeln!(self.out, "{address:#x}: ??")?;
        }
        for (depth, frame) in frames.iter().enumerate() {
            let place = place(frame, false, "?");
            let lead = if depth == 0 { format!("{address:#x}: ") } else { " (inlined by) ".to_owned() };
            writeln!(self.out, "{lead}{} at {place} [{}]", visible(&frame.function), frame.source)?;
        }
        Ok(())
    }

    fn addr2line(&mut self, address: u64, frames: &[SourceFrame], style: AddrStyle) -> std::io::Result<()> {
        let AddrStyle { functions, demangle, inlines, addresses_too, pretty_print, basenames } = style;
        if addresses_too {
            write!(self.out, "{address:#x}{}", if pretty_print { ": " } else { "\n" })?;
        }
        if frames.is_empty() {
            let name = match (functions, pretty_print) {
                (false, _) => "",
                (true, true) => "?? at ",
                (true, false) => "??\n",
            };
            return writeln!(self.out, "{name}??:0");
        }
        let shown = if inlines { frames.len() } else { 1 };
        for (depth, frame) in frames.iter().take(shown).enumerate() {
            if pretty_print && depth > 0 {
                write!(self.out, " (inlined by) ")?;
            }
            if functions {
                let name = frame.linkage.as_ref().filter(|_| !demangle).unwrap_or(&frame.function);
                write!(self.out, "{}{}", visible(name), if pretty_print { " at " } else { "\n" })?;
            }
            writeln!(self.out, "{}", place(frame, basenames, "0"))?;
        }
        Ok(())
    }
}

/// `file:line`, with `??` and `no_line` for what is unknown.
fn place(frame: &SourceFrame, without_folder: bool, no_line: &str) -> String {
    let Some(file) = &frame.file else { return "??:0".to_owned() };
    let file = if without_folder { file.rsplit(['/', '\\']).next().unwrap_or(file) } else { file };
    let line = frame.line.map_or_else(|| no_line.to_owned(), |line| line.to_string());
    format!("{}:{line}", visible(file))
}

#[cfg(test)]
mod tests {
    use sandscope_model::NameSource;

    use super::*;

    fn frames() -> Vec<SourceFrame> {
        let inner = SourceFrame {
            function: "vec::push".into(),
            linkage: Some("_ZN3vec4pushE".into()),
            file: Some("/lib/vec.rs".into()),
            line: Some(30),
            column: Some(5),
            inlined: true,
            source: NameSource::Dwarf,
        };
        let outer = SourceFrame {
            function: "main".into(),
            linkage: None,
            line: None,
            inlined: false,
            ..inner.clone()
        };
        vec![inner, outer]
    }

    /// What flags print, for an address that is known and one that is not.
    #[track_caller]
    fn check(flags: &str, expected: &str) {
        let has = |flag| flags.contains(flag);
        let style = AddrStyle {
            functions: has('f'),
            demangle: has('C'),
            inlines: has('i'),
            addresses_too: has('a'),
            pretty_print: has('p'),
            basenames: has('s'),
        };
        assert_eq!(print(Style::Addr2line(style)), expected, "-{flags}");
    }

    fn print(style: Style) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, style);
        printer.print(0x1f3a, &frames()).unwrap();
        printer.print(7, &[]).unwrap();
        printer.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn flags_mean_what_they_mean_to_addr2line() {
        check("", "/lib/vec.rs:30\n??:0\n");
        check("f", "_ZN3vec4pushE\n/lib/vec.rs:30\n??\n??:0\n");
        check("fCis", "vec::push\nvec.rs:30\nmain\nvec.rs:0\n??\n??:0\n");
        check("a", "0x1f3a\n/lib/vec.rs:30\n0x7\n??:0\n");
        check(
            "afCip",
            "0x1f3a: vec::push at /lib/vec.rs:30\n (inlined by) main at /lib/vec.rs:0\n0x7: ?? at ??:0\n",
        );
    }

    /// Each line but the brackets is an answer of its own; addresses are numbers.
    #[test]
    fn json_comes_line_by_line() {
        let text = print(Style::Json);
        assert_eq!(text.lines().count(), 3);
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (list[0]["address"].as_u64(), list[1]["frames"].as_array().unwrap().len()),
            (Some(0x1f3a), 0)
        );
        assert_eq!(list[0]["frames"][0]["source"], "dwarf");
        assert!(list[0]["frames"][1]["line"].is_null());
        let mut out = Vec::new();
        Printer::new(&mut out, Style::Json).finish().unwrap();
        assert_eq!(out, b"[]\n");
    }
}
