//! Numbers for the names of host functions, one set for the process: what is written down while a guest runs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::sites::MAX_NAME;

/// Most names; further ones are [`OTHER`].
const MAX_NAMES: usize = 4096;

/// The number that stands for no function.
pub(crate) const NONE: u16 = 0;
/// The number of functions that are not told apart.
pub(crate) const OTHER: u16 = 1;

#[derive(Default)]
struct Names {
    /// By number, from [`OTHER`].
    all: Vec<Arc<str>>,
    known: HashMap<Arc<str>, u16>,
}

fn names() -> &'static Mutex<Names> {
    static NAMES: OnceLock<Mutex<Names>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let mut names = Names::default();
        names.number("other");
        Mutex::new(names)
    })
}

impl Names {
    fn number(&mut self, name: &str) -> u16 {
        let name = &name[..name.floor_char_boundary(MAX_NAME)];
        if let Some(&known) = self.known.get(name) {
            return known;
        }
        if self.all.len() >= MAX_NAMES {
            return OTHER;
        }
        let name: Arc<str> = name.into();
        self.all.push(Arc::clone(&name));
        let number = self.all.len() as u16;
        self.known.insert(name, number);
        number
    }
}

/// The number of a name.
pub(crate) fn number(name: &str) -> u16 {
    names().lock().unwrap_or_else(PoisonError::into_inner).number(name)
}

/// The name of a number that was given out.
pub(crate) fn name(number: u16) -> Option<Arc<str>> {
    let names = names().lock().unwrap_or_else(PoisonError::into_inner);
    names.all.get(usize::from(number).checked_sub(1)?).map(Arc::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name has one number for good; names without end share one.
    #[test]
    fn names_are_bounded() {
        let one = number("host#one");
        assert_eq!((number("host#one"), name(one).as_deref()), (one, Some("host#one")));
        assert_eq!((name(NONE), name(OTHER).as_deref()), (None, Some("other")));
        let mut names = Names::default();
        names.number("other");
        let numbers: Vec<u16> = (0..MAX_NAMES).map(|i| names.number(&i.to_string())).collect();
        assert_eq!((numbers[0], numbers[MAX_NAMES - 1]), (2, OTHER));
        assert_eq!(names.number("0"), 2);
    }
}
