//! Frames with something to look at: values planted for readers of core dumps.
//!
//! `main` calls `trap_below(depth)`, which settles an account `depth` levels deep and
//! traps at the bottom. Every level L (the outermost is `depth`, the innermost 1) holds,
//! in the stack and heap of linear memory, at the moment of the trap:
//!
//! | local      | type           | value                                                  |
//! |------------|----------------|--------------------------------------------------------|
//! | `marker`   | `u64`          | `0xC0FF_EE00_0000_0000 + L`                             |
//! | `label`    | `String`       | `"level-L"`, three digits                               |
//! | `prices`   | `Vec<u32>`     | `[L, L * 10, L * 100]`                                  |
//! | `account`  | `Account`      | id `7_000 + L`, owner `"owner-L"`, balance `-L` cents   |
//! | `event`    | `Event`        | by L % 3: `Deposit`, `Transfer`, `Closed`               |
//! | `limits`   | `[i16; 4]`     | `[L, -L, L + 1000, -1]`                                 |
//! | `ratio`    | `f64`          | `L / 8`                                                 |
//! | `parent`   | `Option<&str>` | `None` at the outermost, else the caller's label        |

use std::arch::wasm32;
use std::hint::black_box;

const MARKER: u64 = 0xC0FF_EE00_0000_0000;

/// Who is being settled.
#[derive(Debug)]
#[expect(dead_code, reason = "only read by those who read the core dump")]
pub struct Account {
    pub id: u32,
    pub owner: String,
    pub balance_cents: i64,
    pub address: Address,
}

#[derive(Debug)]
#[expect(dead_code, reason = "only read by those who read the core dump")]
pub struct Address {
    pub city: &'static str,
    pub postcode: [u8; 5],
}

/// What happened last: one variant of each shape.
#[derive(Debug)]
#[expect(dead_code, reason = "only read by those who read the core dump")]
pub enum Event {
    Deposit { cents: u64, note: String },
    Transfer(u32, u32, Currency),
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Currency {
    Eur = 3,
    Usd = 7,
}

impl Account {
    fn at(level: u32) -> Self {
        Self {
            id: 7_000 + level,
            owner: format!("owner-{level}"),
            balance_cents: -i64::from(level),
            address: Address { city: "Bergen", postcode: *b"N5003" },
        }
    }
}

impl Event {
    fn at(level: u32) -> Self {
        match level % 3 {
            0 => Self::Deposit { cents: u64::from(level) * 250, note: format!("note {level}") },
            1 if level % 2 == 0 => Self::Transfer(level, level + 1, Currency::Eur),
            1 => Self::Transfer(level, level + 1, Currency::Usd),
            _ => Self::Closed,
        }
    }
}

/// Settles `depth` levels (at least one) and traps in the last.
pub fn trap_below(depth: u32) -> i64 {
    settle(depth.max(1), None)
}

#[inline(never)]
fn settle(level: u32, parent: Option<&str>) -> i64 {
    let marker = MARKER + u64::from(level);
    let label = format!("level-{level:03}");
    let prices = vec![level, level * 10, level * 100];
    let account = Account::at(level);
    let event = Event::at(level);
    let limits = [level as i16, -(level as i16), level as i16 + 1000, -1];
    let ratio = f64::from(level) / 8.0;
    // The optimizer has to assume that these are read and written elsewhere, so they
    // stay in memory with these values until the function is left.
    black_box((&marker, &label, &prices, &account, &event));
    black_box((&limits, &ratio, &parent));

    let below = if level > 1 { settle(level - 1, Some(&label)) } else { post(&account, &event, &prices) };

    black_box((&marker, &label, &prices, &account, &event));
    black_box((&limits, &ratio, &parent));
    below + account.balance_cents
}

/// The bottom: checks an invariant that never holds, in the way a C library would.
#[inline(never)]
fn post(account: &Account, event: &Event, prices: &[u32]) -> i64 {
    let total: u64 = prices.iter().copied().map(u64::from).sum();
    let reason = format!("account {} has no ledger", account.id);
    black_box((&total, &reason, event));
    if black_box(account.balance_cents) < 0 {
        wasm32::unreachable();
    }
    i64::try_from(total).unwrap_or(i64::MAX)
}
