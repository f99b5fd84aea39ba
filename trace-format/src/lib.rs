//! The heaptape trace format: the only bridge between recording and analysis. Responsible for writing, reading,
//! checking and salvaging `.htape` files; knows nothing of probes, replay or printing.

pub mod error;
pub mod event;
pub mod id;
pub mod reader;
pub mod salvage;
pub mod symbols;
pub mod table;
pub mod verify;
pub mod version;
pub mod writer;

pub use error::{ReadError, SalvageError, WriteError};
pub use event::{EndReason, Event, Op, Target};
pub use id::{BlockId, DomainId, EntryId, FrameId, ModuleId, ProcessId, Sequence, StackId, ThreadId};
pub use reader::{Completeness, Problem, Trace};
pub use salvage::{Salvaged, salvage};
pub use symbols::Symbolise;
pub use table::{
    CaptureStats, Domain, Entry, EntryKind, Frame, FrameSymbols, Header, Module, Nesting, Origin, Probe, Process,
    ResultProbe, StackNode, Symbol, Tables, Thread,
};
pub use verify::{Report, verify};
pub use version::FormatVersion;
pub use writer::{DEFAULT_TICK_NS, TraceWriter, WriterOptions, Written};
