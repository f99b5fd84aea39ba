//! Markers: functions and places that tell, while a program runs, which phase it is in. Responsible for what a profile may
//! ask for, for finding it in the files of a process and for having probes placed there; what a phase is, and when it is
//! open, is decided by whoever reads the trace.
//!
//! ```text
//!  profile ─▶ executable's name, required symbol ─▶ rules ─▶ symbols of every module ─▶ entry probes   (`plan`)
//!                                             every module's notes of static probes ─▶ probes on nops  (`notes`)
//! ```
//!
//! Markers get entry probes and never return probes: an exception or `longjmp` can leave any function, and a phase that has
//! no end of its own ends with the activation of its function, which later stacks show.

mod notes;
mod pattern;
mod placing;
mod plan;
mod value;

use crate::CollectError;

pub(crate) use placing::{Marked, Marking};
pub use value::MarkerValue;

/// What to mark in processes of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MarkerProfile {
    /// Such as `gcc`; for messages.
    pub name: String,
    /// File names of the executables it is for; `*` stands for anything.
    pub executables: Vec<String>,
    /// A symbol that one of the process's modules must have, by its linkage name.
    pub requires: Option<String>,
    /// The markers.
    pub rules: Vec<MarkerRule>,
}

/// A marker: functions whose entry begins a phase, ends it, or is a point in time.
///
/// Functions are named by their linkage name or, where the pattern holds `::`, `*` or `<`, by their demangled path without
/// parameters and hash, in which `*` stands for anything. Fragments that compilers and BOLT split off (`.cold`, `.part.0`) are
/// never meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MarkerRule {
    /// The marker's name.
    pub name: String,
    /// Functions that begin it.
    pub begin: Vec<String>,
    /// Functions that end it; without any, it ends with the activation of the function that began it.
    pub end: Vec<String>,
    /// Functions that are points.
    pub point: Vec<String>,
    /// What is read with a begin and a point. A number is read with an end too, from the same place.
    pub value: MarkerValue,
}

/// What a marker event says; the discriminants are those of the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum MarkerKind {
    Point = 0,
    Begin = 1,
    End = 2,
}

impl MarkerKind {
    fn verb(self) -> &'static str {
        match self {
            Self::Point => "point",
            Self::Begin => "begin",
            Self::End => "end",
        }
    }
}

impl MarkerProfile {
    /// Whether everything in it can be understood.
    ///
    /// # Errors
    /// What cannot.
    pub fn check(&self) -> Result<(), CollectError> {
        plan::Compiled::new(self).map(drop)
    }
}
