//! Pure types and folds that every other crate speaks: ids, frames, stacks, profiles, flame trees,
//! histograms, comparisons, and the two places where text becomes safe or readable. No I/O, no clock, no async,
//! no wire format lives here.

pub mod compare;
pub mod file_ids;
pub mod flame;
pub mod frame;
pub mod histogram;
pub mod id;
pub mod profile;
pub mod text;
pub mod units;

pub use file_ids::FileIds;
pub use flame::{FlameNode, FlameTree};
pub use frame::{NameSource, SourceFrame};
pub use histogram::{AtomicHistogram, ExpHistogram};
pub use id::{ModuleId, WorkloadId};
pub use profile::{Frame, Profile, SampleKind};
