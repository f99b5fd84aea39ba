//! Phases of a compiler. Responsible for one model of them, whatever they come from: nested, per thread, instances numbered;
//! what memory does in them is counted by `lifetimes`.

mod markers;
mod rules;
mod segments;
mod spans;
mod tracker;
mod view;

pub use markers::Markers;
pub use rules::{Definition, PhaseId, Rules};
pub use segments::{Paths, segments};
pub(crate) use tracker::row_path;
pub use tracker::{Change, OUTSIDE, OpenPhase, PhaseSource, Row, RowId, Tracker, open_since};
pub use view::View;
pub(crate) use view::{IN_PHASE, MODULE as PHASES_MODULE, Weaver, first_phase, phase_of};
