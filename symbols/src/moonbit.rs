//! MoonBit's linker names, as far as their form is certain: functions, methods and implementations of traits, with type
//! arguments. There is no published grammar; this is what its compiler writes for known sources.
//!
//! ```text
//! _M0 F P 2 9sandscope 2gc 3run            @sandscope/gc.run
//! _M0 M P 2 9sandscope 2gc 5Cache 3put     @sandscope/gc.Cache::put
//! _M0 I P 0 3Own P 2 2my 3app 4Area 4area  impl @my/app.Area for Own with area
//! _M0 F P 0 4keep G i RPB5Array G s E E    keep[Int, @moonbitlang/core/builtin.Array[String]]
//!     ^ ^ ^ ^ package, then names, each with its length before it; `__` is `_`, `_2d` the character 0x2d
//!     | | number of the package's parts
//!     | P for a package, PB for moonbitlang/core/builtin, PC for one below moonbitlang/core
//!     F function, M method, I implementation
//!
//! behind a function: N5innerS9 one inside of it, C129l45 one without a name (the 129th, line 45)
//! behind all of it:  G types E, then H and a type that it raises
//! types: one letter; U types E a tuple; A type; R name, or R name G types E; W types E type a function, Q what it raises
//! ```

use crate::limits::{MAX_DEMANGLED, MAX_NAME};

/// Parts of a package's path, a single digit.
const RADIX: u32 = 10;
/// Types inside of types.
const MAX_DEPTH: usize = 32;

/// The name as MoonBit's own tools print it; `None` if it is something else or more than this knows.
pub(crate) fn demangle(name: &str) -> Option<String> {
    if name.len() > MAX_NAME {
        return None;
    }
    let mut rest = Rest(name.strip_prefix("_M0")?);
    let mut out = match rest.char()? {
        'F' => {
            let mut path = rest.path()?;
            while let Some(inner) = rest.nested()? {
                path = format!("{path}.{inner}");
            }
            path
        }
        'M' => format!("{}::{}", rest.path()?, rest.identifier()?),
        'I' => {
            let (ty, implemented) = (rest.path()?, rest.path()?);
            let method = rest.identifier()?;
            let arguments = rest.arguments(0)?;
            format!("impl {implemented} for {ty}{arguments} with {method}")
        }
        _ => return None,
    };
    out += &rest.arguments(0)?;
    if rest.take('H') {
        out += &format!(" raise {}", rest.ty(0)?);
    }
    (rest.0.is_empty() && out.len() <= MAX_DEMANGLED).then_some(out)
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

    /// Whether this comes next; if so, it is read.
    fn take(&mut self, char: char) -> bool {
        let rest = self.0.strip_prefix(char);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn number(&mut self) -> Option<&str> {
        let digits = self.0.len() - self.0.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, rest) = self.0.split_at_checked(digits)?;
        self.0 = rest;
        (!number.is_empty()).then_some(number)
    }

    /// A name in a package.
    fn path(&mut self) -> Option<String> {
        if !self.take('P') {
            return None;
        }
        let (package, name) = (self.package()?, self.identifier()?);
        Some(if package.is_empty() { name } else { format!("@{package}.{name}") })
    }

    /// A function in another one; `Some(None)` if none comes next.
    fn nested(&mut self) -> Option<Option<String>> {
        if self.take('C') {
            let number = self.number()?.to_owned();
            if self.take('l') {
                self.number()?;
            }
            return Some(Some(number));
        }
        if !self.take('N') {
            return Some(None);
        }
        let name = self.identifier()?;
        if self.take('S') {
            self.number()?;
        }
        Some(Some(name))
    }

    /// Types in brackets; nothing if none come next.
    fn arguments(&mut self, depth: usize) -> Option<String> {
        if self.take('G') { Some(format!("[{}]", self.types(depth)?)) } else { Some(String::new()) }
    }

    /// Types up to an `E`.
    fn types(&mut self, depth: usize) -> Option<String> {
        let mut types = Vec::new();
        while !self.take('E') {
            types.push(self.ty(depth)?);
        }
        Some(types.join(", "))
    }

    fn ty(&mut self, depth: usize) -> Option<String> {
        if depth > MAX_DEPTH {
            return None;
        }
        let name = match self.char()? {
            'u' => "Unit",
            'b' => "Bool",
            'c' => "Char",
            'y' => "Byte",
            'h' => "Int16",
            'k' => "UInt16",
            'i' => "Int",
            'j' => "UInt",
            'l' => "Int64",
            'm' => "UInt64",
            'f' => "Float",
            'd' => "Double",
            's' => "String",
            'A' => return Some(format!("FixedArray[{}]", self.ty(depth + 1)?)),
            'U' => return Some(format!("({})", self.types(depth + 1)?)),
            'R' => return Some(self.path()? + &self.arguments(depth + 1)?),
            'W' => {
                let (parameters, result) = (self.types(depth + 1)?, self.ty(depth + 1)?);
                let raised =
                    if self.take('Q') { format!(" raise {}", self.ty(depth + 1)?) } else { String::new() };
                return Some(format!("({parameters}) -> {result}{raised}"));
            }
            _ => return None,
        };
        Some(name.to_owned())
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
        let len = self.number()?.parse().ok()?;
        let (text, rest) = self.0.split_at_checked(len)?;
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

    /// Names that the compiler made for generic functions called with these types, for implementations of traits, and
    /// for functions in functions.
    #[test]
    fn types_read_as_written() {
        for (linker, written) in [
            ("_M0FP22my3app4bothGilE", "@my/app.both[Int, Int64]"),
            ("_M0FP22my3app4keepGUibEE", "@my/app.keep[(Int, Bool)]"),
            ("_M0FP22my3app4keepGRP22my3app4PairGiiEE", "@my/app.keep[@my/app.Pair[Int, Int]]"),
            ("_M0FP22my3app4keepGWEWiEiE", "@my/app.keep[() -> (Int) -> Int]"),
            (
                "_M0FP22my3app4keepGWibEiQRP22my3app7MyErrorE",
                "@my/app.keep[(Int, Bool) -> Int raise @my/app.MyError]",
            ),
            ("_M0MP22my3app4Pair4swapGiE", "@my/app.Pair::swap[Int]"),
            ("_M0IP22my3app3OwnP22my3app4Area4area", "impl @my/app.Area for @my/app.Own with area"),
            (
                "_M0IPC15tuple6Tuple2P22my3app4Area4areaGbE",
                "impl @my/app.Area for @moonbitlang/core/tuple.Tuple2[Bool] with area",
            ),
            ("_M0FP22my3app5outerN5innerS9", "@my/app.outer.inner"),
            ("_M0FP22my3app3runC129l45", "@my/app.run.129"),
            ("_M0FP15myapp8try__mapGiEHRP15myapp7MyError", "@myapp.try_map[Int] raise @myapp.MyError"),
            ("_M0FP15myapp7complexGARP14list4ListGiEE", "@myapp.complex[FixedArray[@list.List[Int]]]"),
        ] {
            assert_eq!(demangle(linker).as_deref(), Some(written), "{linker}");
        }
        let letters = [
            ("u", "Unit"),
            ("b", "Bool"),
            ("c", "Char"),
            ("y", "Byte"),
            ("h", "Int16"),
            ("k", "UInt16"),
            ("j", "UInt"),
            ("m", "UInt64"),
            ("f", "Float"),
            ("d", "Double"),
            ("s", "String"),
        ];
        for (letter, ty) in letters {
            assert_eq!(demangle(&format!("_M0FP03runG{letter}E")), Some(format!("run[{ty}]")));
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
            "_M0FP29sandscope2gc3runGqE",
            "_M0FP29sandscope2gc3runGi",
            "_M0FP29sandscope2gc3runC",
            "_M0FP29sandscope2gc99999999999999999999run",
            "_M0FP29sandscope2gc4ru_1",
            "_M0IP29sandscope2gc3run",
            "_M0TPB5ArrayGbE",
            "_M4main",
            "_M0FP0é",
        ] {
            assert_eq!(demangle(name), None, "{name}");
        }
        let (deep, long) = ("A".repeat(4_000), "RPB1a".repeat(1_000));
        for types in [deep, long] {
            assert_eq!(demangle(&format!("_M0FP03runG{types}iE")), None);
        }
    }
}
