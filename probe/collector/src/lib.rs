//! heaptape's collector: makes a trace of a running program. Responsible for finding allocators, placing probes,
//! launching, attaching and following processes, ordering events, counting losses and writing the trace; knows nothing
//! of analysis.
//!
//! ```text
//!   target ──▶ allocators found (`target`, `elf`) ──▶ probes placed (`placement`, `kernel`)
//!                                                            │ records in a ring, in order
//!   tracer (`tracer`) ── processes, stops ──▶ intake ◀───────┘
//!                                              │ events
//!                                              ▼
//!                                         trace-format
//! ```

pub mod allocators;
pub mod elf;
pub mod error;
mod guardian;
mod intake;
pub mod kernel;
mod machine;
pub mod markers;
mod notice;
pub mod placement;
mod placer;
mod session;
mod spaces;
pub mod survey;
pub mod target;
mod tracer;
pub mod unwind;

pub use error::CollectError;
pub use intake::Progress;
pub use kernel::Tuning;
pub use markers::{MarkerProfile, MarkerRule, MarkerValue};
pub use session::{Hooks, Options, Recorded, Symbolise, attach, check, record};
pub use tracer::Following;
