//! Ways to know what a run did without asking heaptape's recorder or analyzer: a preloaded counter, libunwind, the
//! kernel's own probe log, and a naive replay of a trace's events.

pub mod preload;
pub mod probe_log;
pub mod replay;
pub mod unwinder;
