//! Phases of a compiler. Responsible for one model of them, whatever they come from: nested, per thread, instances numbered;
//! what memory does in them is counted by `lifetimes`.

mod markers;
mod rules;
mod segments;
mod tracker;

pub use markers::Markers;
pub use rules::{Definition, PhaseId, Rules};
pub use segments::{Paths, segments};
pub use tracker::{Change, OUTSIDE, OpenPhase, PhaseSource, Row, RowId, Tracker, open_since};
