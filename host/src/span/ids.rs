//! Random ids: a generator per thread, seeded from the operating system, without a lock or a system call per id.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

use super::{AMBIGUOUS, NO_SPAN};

thread_local! {
    /// State of xoroshiro128++; zero until first used.
    static STATE: Cell<[u64; 2]> = const { Cell::new([0; 2]) };
}

/// A trace id; never 0.
pub(super) fn trace() -> u128 {
    (u128::from(next()) << 64) | u128::from(span())
}

/// A span id; neither [`NO_SPAN`] nor [`AMBIGUOUS`].
pub(super) fn span() -> u64 {
    loop {
        let id = next();
        if ![NO_SPAN, AMBIGUOUS].contains(&id) {
            return id;
        }
    }
}

/// xoroshiro128++ (Blackman and Vigna, 2019): a period of 2^128 - 1 and no output that tells two threads apart.
fn next() -> u64 {
    let [a, mut b] = match STATE.get() {
        [0, 0] => seed(),
        state => state,
    };
    let out = a.wrapping_add(b).rotate_left(17).wrapping_add(a);
    b ^= a;
    STATE.set([a.rotate_left(49) ^ b ^ (b << 21), b.rotate_left(28)]);
    out
}

/// The standard library's hash keys come from the operating system and differ per thread.
#[cold]
fn seed() -> [u64; 2] {
    let random = RandomState::new();
    // The one state that never leaves itself is all zeros.
    [random.hash_one(0) | 1, random.hash_one(1)]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    /// Ids of all threads differ, and every bit of them is used.
    #[test]
    fn ids_do_not_repeat() {
        let threads: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| (0..20_000).map(|_| super::trace()).collect::<Vec<_>>()))
            .collect();
        let all: Vec<u128> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 80_000);
        let spans: HashSet<u64> = all.iter().map(|id| *id as u64).collect();
        assert_eq!(spans.len(), 80_000);
        assert_eq!(all.iter().fold(0, |bits, id| bits | id), u128::MAX);
        assert_eq!(all.iter().fold(u128::MAX, |bits, id| bits & id), 0);
    }
}
