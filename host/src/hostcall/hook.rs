//! What compiled code calls in place of a host function: count, call the engine's own, measure.

use std::mem::transmute;

use super::figures::Function;
use super::table::TABLE;
use crate::clock::Moment;
use crate::engine::{ArrayCall, exit_of};
use crate::hooks::{ALWAYS_NS, chosen};
use crate::sampler::{self, Kind};
use crate::workload::Figures;

/// Stands before every observed function.
///
/// # Safety
/// Called by compiled code, or as it does, with the context of a function that is in the table.
pub(super) unsafe extern "C" fn host_call(
    callee: usize,
    caller: usize,
    arguments: usize,
    length: usize,
) -> bool {
    let (original, number) = TABLE.find(callee);
    // SAFETY: what the engine put where this function stands now, which has this signature.
    let original: ArrayCall = unsafe { transmute(original) };
    // SAFETY: the context of the guest that is calling.
    let before = sampler::calling(number, unsafe { exit_of(caller) });
    let timed = begin(number);
    // SAFETY: the arguments that compiled code passed, unchanged.
    let returned = unsafe { original(callee, caller, arguments, length) };
    if timed.is_some() || !returned {
        ended(number, timed, returned);
    }
    sampler::restore(before);
    returned
}

/// A call that is timed: since when, and for how many it stands.
pub(super) struct Timed {
    since: Moment,
    stands_for: u64,
}

/// Counts a call of the running workload.
#[inline]
pub(super) fn begin(number: u16) -> Option<Timed> {
    let stands_for = sampler::figures(|figures: &Figures| figures.host_calls.function(number).called())??;
    Some(Timed { since: Moment::now(), stands_for })
}

/// Counts the end of a call that was timed or failed. The workload is looked up again: a function that waits
/// may go on elsewhere, even within another call.
#[inline(never)] // thread-locals must be looked up after the call
pub(super) fn ended(number: u16, timed: Option<Timed>, returned: bool) {
    let ns = timed.as_ref().map(|timed| timed.since.elapsed_ns());
    let stood_for = sampler::figures(|figures: &Figures| {
        let function: &Function = figures.host_calls.function(number);
        if !returned {
            function.failed();
        }
        let stood_for = ns.zip(timed).map(|(ns, timed)| function.took(ns, timed.stands_for));
        (stood_for, figures.host_calls.all_in_profile)
    });
    if let (Some((Some(stood_for), all)), Some(ns)) = (stood_for, ns) {
        let stands_for_ns = ns.saturating_mul(stood_for);
        if ns >= ALWAYS_NS || (all && chosen(stands_for_ns)) {
            sampler::event(Kind::Call, &[stands_for_ns, u64::from(number)]);
        }
    }
}
