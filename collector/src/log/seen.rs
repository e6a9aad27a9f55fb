//! Which requests of our hosts the log holds already. Bounded: it remembers the last 1024 sequences of 65,536 boots,
//! and what it does not remember is stored again rather than refused, since a batch twice is better than none.

use std::collections::HashMap;

use super::entry::Key;

const WORDS: usize = 16;
const WINDOW: u64 = WORDS as u64 * 64;

/// The last sequences of one boot: bit n stands for `highest - n`.
#[derive(Default)]
struct Window {
    highest: u64,
    bits: [u64; WORDS],
    /// For finding the boots that were silent the longest.
    touched: u64,
}

impl Window {
    fn bit(&self, sequence: u64) -> Option<(usize, u64)> {
        let back = self.highest.checked_sub(sequence).filter(|back| *back < WINDOW)?;
        Some(((back / 64) as usize, 1 << (back % 64)))
    }

    fn contains(&self, sequence: u64) -> bool {
        self.bit(sequence).is_some_and(|(word, bit)| self.bits.get(word).is_some_and(|bits| bits & bit != 0))
    }

    fn insert(&mut self, sequence: u64) {
        if sequence > self.highest {
            let by = sequence - self.highest;
            let mut moved = [0; WORDS];
            let (words, bits) = ((by / 64) as usize, by % 64);
            if by < WINDOW {
                for (at, word) in moved.iter_mut().enumerate() {
                    let from = |n: usize| at.checked_sub(n).and_then(|at| self.bits.get(at)).copied();
                    let carried = (64 - bits)
                        .try_into()
                        .ok()
                        .and_then(|by: u32| from(words + 1).unwrap_or(0).checked_shr(by));
                    *word = from(words).unwrap_or(0) << bits | carried.unwrap_or(0);
                }
            }
            self.bits = moved;
            self.highest = sequence;
        }
        if let Some((word, bit)) = self.bit(sequence)
            && let Some(bits) = self.bits.get_mut(word)
        {
            *bits |= bit;
        }
    }
}

/// The table.
pub(super) struct Seen {
    boots: HashMap<(Box<str>, Box<str>), Window>,
    most: usize,
    clock: u64,
}

impl Seen {
    /// Remembers so many boots.
    pub(super) fn new(most: usize) -> Self {
        Self { boots: HashMap::new(), most, clock: 0 }
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        let name = (key.host.clone(), key.boot.clone());
        self.boots.get(&name).is_some_and(|window| window.contains(key.sequence))
    }

    pub(super) fn insert(&mut self, key: &Key) {
        self.clock += 1;
        let window = self.boots.entry((key.host.clone(), key.boot.clone())).or_default();
        window.touched = self.clock;
        window.insert(key.sequence);
        if self.boots.len() > self.most {
            // An eighth at a time, so that a flood of new names does not search for every one of them.
            let mut touched: Vec<u64> = self.boots.values().map(|window| window.touched).collect();
            touched.sort_unstable();
            let until = touched.get(self.most / 8).copied().unwrap_or(0);
            self.boots.retain(|_, window| window.touched > until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(boot: &str, sequence: u64) -> Key {
        Key::new("host", boot, sequence).unwrap()
    }

    /// Sequences in any order within the window are told apart; what is older than it counts as new.
    #[test]
    fn sequences_are_remembered_in_any_order() {
        let mut seen = Seen::new(10);
        let order = [5, 3, 70, 64, 69, 200, 199, 4, 1100, 1099, 1036, 0];
        for (done, sequence) in order.into_iter().enumerate() {
            assert!(!seen.contains(&key("a", sequence)), "{sequence} is new");
            seen.insert(&key("a", sequence));
            for before in order[..=done].iter().filter(|before| 1100 - **before < WINDOW || done < 8) {
                assert!(seen.contains(&key("a", *before)), "{before} after {sequence}");
            }
        }
        assert!(!seen.contains(&key("a", 5)) && !seen.contains(&key("b", 1100)));
        seen.insert(&key("a", u64::MAX));
        assert!(seen.contains(&key("a", u64::MAX)) && !seen.contains(&key("a", 1100)));
    }

    /// A flood of boots leaves those that spoke last.
    #[test]
    fn the_table_is_bounded() {
        let mut seen = Seen::new(100);
        for boot in 0..10_000 {
            seen.insert(&key(&boot.to_string(), 1));
            assert!(seen.boots.len() <= 100);
        }
        assert!(seen.contains(&key("9999", 1)) && !seen.contains(&key("1", 1)));
    }
}
