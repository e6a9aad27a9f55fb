//! MoonBit's linker names, as far as their form is certain: functions and methods without type arguments. There is
//! no published grammar; this is what its compiler writes for known sources.
//!
//! ```text
//! _M0 F P 2 9sandscope 2gc 3run            @sandscope/gc.run
//! _M0 M P 2 9sandscope 2gc 5Cache 3put     @sandscope/gc.Cache::put
//! _M0 F P 0 17____moonbit__init            __moonbit_init
//!     ^ ^ ^ ^ package, then names, each with its length before it; `__` is `_`, `_2d` the character 0x2d
//!     | | number of the package's parts
//!     | P for a package, PB for moonbitlang/core/builtin, PC for one below moonbitlang/core
//!     F function, M method
//! ```

use crate::limits::MAX_NAME;

/// Parts of a package's path, a single digit.
const RADIX: u32 = 10;

/// The name as MoonBit's own tools print it; `None` if it is something else or more than this knows.
pub(crate) fn demangle(name: &str) -> Option<String> {
    if name.len() > MAX_NAME {
        return None;
    }
    let mut rest = Rest(name.strip_prefix("_M0")?);
    let kind = rest.char()?;
    if rest.char()? != 'P' {
        return None;
    }
    let package = rest.package()?;
    let first = rest.identifier()?;
    let path = match kind {
        'F' => first,
        'M' => format!("{first}::{}", rest.identifier()?),
        _ => return None,
    };
    if !rest.0.is_empty() {
        return None;
    }
    Some(if package.is_empty() { path } else { format!("@{package}.{path}") })
}

/// What is still to be read.
struct Rest<'a>(&'a str);

impl Rest<'_> {
    fn char(&mut self) -> Option<char> {
        let mut chars = self.0.chars();
        let first = chars.next()?;
        self.0 = chars.as_str();
        Some(first)
    }

    fn package(&mut self) -> Option<String> {
        let (core, parts) = match self.char()? {
            'B' => return Some("moonbitlang/core/builtin".to_owned()),
            'C' => (Some("moonbitlang/core".to_owned()), self.char()?),
            digit => (None, digit),
        };
        let parts = (0..parts.to_digit(RADIX)?).map(|_| self.identifier());
        let parts: Vec<String> = core.map(Some).into_iter().chain(parts).collect::<Option<_>>()?;
        Some(parts.join("/"))
    }

    /// A length in decimal, and a name of that many bytes.
    fn identifier(&mut self) -> Option<String> {
        let digits = self.0.len() - self.0.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (len, rest) = self.0.split_at_checked(digits)?;
        let (text, rest) = rest.split_at_checked(len.parse().ok()?)?;
        self.0 = rest;
        unescape(text).filter(|text| !text.is_empty())
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once('_') {
        out.push_str(plain);
        if let Some(after) = escaped.strip_prefix('_') {
            out.push('_');
            rest = after;
            continue;
        }
        let (code, after) = escaped.split_at_checked(2)?;
        let code = u8::from_str_radix(code, 16).ok().filter(u8::is_ascii_graphic)?;
        out.push(char::from(code));
        rest = after;
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of the guest `gc`, and of packages on mooncakes.io.
    #[test]
    fn functions_and_methods_read_as_written() {
        for (linker, written) in [
            ("_M0FP29sandscope2gc3run", "@sandscope/gc.run"),
            ("_M0FP29sandscope2gc13weigh__fields", "@sandscope/gc.weigh_fields"),
            ("_M0MP29sandscope2gc5Cache7enqueue", "@sandscope/gc.Cache::enqueue"),
            ("_M0FP017____moonbit__init", "__moonbit_init"),
            ("_M0FP28re_2dmbt2re4test", "@re-mbt/re.test"),
            ("_M0FPB12random__seed", "@moonbitlang/core/builtin.random_seed"),
            ("_M0MPC16string10StringView4iter", "@moonbitlang/core/string.StringView::iter"),
        ] {
            assert_eq!(demangle(linker).as_deref(), Some(written), "{linker}");
        }
    }

    /// What is not understood to its end stays as it is.
    #[test]
    fn the_rest_is_left_alone() {
        for name in [
            "",
            "_M0",
            "_M0F",
            "_M0FP",
            "_M0FP9",
            "_M0FP29sandscope2gc",
            "_M0FP29sandscope2gc3runGiE",
            "_M0FP29sandscope2gc99999999999999999999run",
            "_M0FP29sandscope2gc4ru_1",
            "_M0IP29sandscope2gc3run",
            "_M0TPB5ArrayGbE",
            "_M4main",
            "_M0FP0é",
        ] {
            assert_eq!(demangle(name), None, "{name}");
        }
    }
}
