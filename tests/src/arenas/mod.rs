//! Programs that know their own arenas, and whether a plan of heaptape's puts each of their objects where it belongs.
//! Responsible for the truth and for the comparison; `bison` and `sources` only get programs and something for them to do. Nothing here
//! uses heaptape's analysis: the log that a program writes of itself (`workloads/arenas/log.h`) says which activations were open
//! when.
//!
//! ```text
//!   program ──▶ log ──▶ truth: for each object, the activation its arena lived with ─┐
//!      └─ recorded ─▶ heaptape arenas ──▶ plan: keys, scopes ────────────────────────┴─▶ verdict
//! ```

pub mod bison;
pub mod log;
pub mod plan;
pub mod sources;
pub mod truth;
pub mod verdict;
