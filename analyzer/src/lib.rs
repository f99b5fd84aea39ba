//! Analyses of heaptape traces. Responsible for replaying a trace in bounded memory, naming its code addresses, and the
//! results that commands show; not for recording (it never sees `probe-*`), nor for arguments and exit codes.
//!
//! Read from top to bottom, this is the way of the data:
//! [`layers`] says which allocators stand on others, [`mod@replay`] turns the events into an [`Outcome`], [`symbolise`] and
//! [`names`] name its code addresses, [`wrappers`], [`site_tree`] and [`grouping`] make sites of stacks, [`metric`] and [`selection`]
//! say what is weighed; [`info`], [`stacks`], [`sites`], [`leaks`], [`mod@patterns`] with [`mod@advice`], and [`flamegraph`] are pure
//! functions of all that, [`mod@audit`] is one of their results, [`doubt`] says in words what they do not know, and [`report`] renders them as text. The result types
//! serialise to the JSON that `--json` prints.

pub mod layers;
pub mod replay;

mod function_names;
pub mod names;
pub mod symbolise;

pub mod grouping;
pub mod site_tree;
pub mod wrappers;

pub mod activations;
pub mod arenas;
pub mod lifetimes;
pub mod phases;
pub mod profile;

pub mod metric;
pub mod selection;

pub mod advice;
pub mod doubt;
pub mod flamegraph;
pub mod info;
pub mod leaks;
pub mod patterns;
pub mod sites;
pub mod stacks;
pub mod survivors;

pub mod audit;

pub mod whatif;

pub mod report;
pub mod tables;
pub mod units;

pub mod error;
pub use error::AnalysisError;
pub use names::Names;
pub use replay::{Outcome, Replay, replay};
pub use symbolise::Symboliser;
