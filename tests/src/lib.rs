//! What heaptape's end-to-end tests stand on: programs with planted truth, oracles that know nothing of heaptape,
//! inputs for compilers, and the driving of the `heaptape` command. Responsible for telling what a recording should
//! have been; the tests in `tests/` and the benchmarks in `benches/` say what they expect of heaptape.
//!
//! This is test code: where its own machinery fails (a compiler missing, a file unreadable) it panics with a sentence,
//! which fails the test that needed it.

pub mod arenas;
pub mod bench;
pub mod command;
pub mod expected;
pub mod inputs;
pub mod live;
pub mod observed;
pub mod oracle;
pub mod process;
pub mod recorder;
pub mod requirements;
pub mod scenario;
pub mod terminal;
pub mod toolchain;
pub mod truth;
pub mod workload;
