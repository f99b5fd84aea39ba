//! The heaptape trace format: the only bridge between recording and analysis. Responsible for writing, reading,
//! checking and salvaging `.htape` files; knows nothing of probes, replay or printing.

mod assemble;
mod column;
mod damage;
mod decode;
mod encode;
mod envelope;
pub mod error;
pub mod event;
mod generated;
pub mod id;
mod intern;
pub mod limits;
mod message;
mod pipeline;
pub mod reader;
mod recall;
mod rows;
pub mod salvage;
mod scan;
mod shape;
mod sink;
mod survey;
mod symbol_table;
pub mod symbols;
pub mod table;
mod tail;
mod varint;
pub mod verify;
pub mod version;
pub mod writer;

use generated::trace_capnp;

pub use assemble::LOST;
pub use error::{ReadError, SalvageError, WriteError};
pub use event::{EndReason, Event, Op, StackQuality, Target, Walk};
pub use id::{BlockId, DomainId, EntryId, FrameId, ModuleId, ProcessId, Sequence, StackId, ThreadId};
pub use reader::{Completeness, Problem, Trace};
pub use salvage::{Salvaged, salvage};
pub use symbols::Symbolise;
pub use table::{
    CaptureStats, Domain, Entry, EntryKind, Frame, FrameSymbols, Header, Marker, MarkerEnd, MarkerValue, Module,
    Nesting, Origin, Probe, Process, ResultProbe, StackNode, StackSummary, Symbol, Tables, Thread,
};
pub use verify::{Report, verify};
pub use version::FormatVersion;
pub use writer::{DEFAULT_TICK_NS, TraceWriter, WriterOptions, Written};
