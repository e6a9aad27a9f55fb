//! Traps of a recording: one entry per place with its first stack, and a count that follows a storm without
//! writing every trap of it.

use std::collections::HashMap;

use sandscope_model::WorkloadId;
use sandscope_proto::recording::{Trap, TrapFrame};

use crate::scope::unix_nanos;
use crate::trap::TrapReport;
use crate::workload::{Figures, trap_code};

/// Entries that were written, by workload.
#[derive(Default)]
pub(super) struct TrapLog(HashMap<WorkloadId, Vec<Trap>>);

impl TrapLog {
    /// The entry of a place: the host reports each once, and again where the flight recorder asks for it.
    pub(super) fn first(&mut self, report: &TrapReport) -> Trap {
        let frames = report.frames.iter().map(|frame| TrapFrame {
            module_id: frame.module.as_str().to_owned(),
            offset: frame.offset,
            function: frame.function,
        });
        let trap = Trap {
            version: sandscope_proto::stacks::VERSION,
            time_unix_nano: unix_nanos(report.time),
            workload: report.workload.name.to_string(),
            workload_version: report.workload.version.to_string(),
            code: report.code.clone(),
            message: report.message.clone(),
            frames: frames.collect(),
            count: 1,
        };
        let known = Trap { frames: trap.frames.iter().take(1).cloned().collect(), ..trap.clone() };
        let entries = self.0.entry(report.workload.clone()).or_default();
        if !entries.iter().any(|entry| entry.code == known.code && entry.frames == known.frames) {
            entries.push(known);
        }
        trap
    }

    /// Entries whose counts at least doubled since they were written; at the end, all that rose, and one per
    /// code for traps at places that were never told.
    pub(super) fn risen(&mut self, figures: &Figures, end: bool) -> Vec<Trap> {
        let mut out = Vec::new();
        let known = self.0.entry(figures.id().clone()).or_default();
        for trap in known.iter_mut() {
            let Some(innermost) = trap.frames.first() else { continue };
            let count = figures.places.times(&trap.code, innermost.offset);
            if count >= 2 * trap.count || (end && count > trap.count) {
                trap.count = count;
                out.push(trap.clone());
            }
        }
        for (trap, count) in figures.traps().filter(|_| end) {
            let code = trap_code(trap);
            let told: u64 = known.iter().filter(|known| known.code == code).map(|known| known.count).sum();
            if count > told {
                out.push(Trap {
                    version: sandscope_proto::stacks::VERSION,
                    time_unix_nano: unix_nanos(std::time::SystemTime::now()),
                    workload: figures.id().name.to_string(),
                    workload_version: figures.id().version.to_string(),
                    message: format!("{trap}, at places whose stacks were not kept"),
                    code,
                    frames: Vec::new(),
                    count: count - told,
                });
            }
        }
        out
    }
}
