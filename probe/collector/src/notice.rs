//! What the tracer tells the intake, and when it held. Responsible for the message types alone.
//!
//! A notice carries the ring position at which it became true: everything before that position happened before it.
//! It is sent while the threads it concerns are stopped, so that what they do next comes after it.

use std::{
    fs::File,
    sync::{Arc, OnceLock},
};

use probe_abi::ThreadState;
use trace_format::{
    event::EndReason,
    table::{EntryKind, Marker, Origin, ResultProbe},
};

/// A change in the processes that are recorded.
#[derive(Debug)]
pub(crate) struct Notice {
    /// Ring position: records before it were reserved before the change.
    pub(crate) position: u64,
    /// When, `CLOCK_MONOTONIC` ns.
    pub(crate) time_ns: u64,
    /// The change.
    pub(crate) what: What,
}

/// The change.
#[derive(Debug)]
pub(crate) enum What {
    /// A process image appears.
    Start {
        /// Its pid.
        pid: u32,
        /// The process it was forked from, or itself for an exec.
        parent: Option<u32>,
        /// How it came to be.
        origin: Origin,
        /// File name of its executable.
        name: String,
        /// Its arguments.
        command: Vec<String>,
        /// Whether it runs in its parent's memory.
        shares_heap: bool,
    },
    /// Probes were placed, or could not be.
    Plan {
        /// In this process.
        pid: u32,
        /// The probes.
        plan: Plan,
    },
    /// A thread is gone.
    ThreadEnd {
        /// Its id.
        tid: u32,
        /// Its calls, if it made any.
        state: Option<Box<ThreadState>>,
    },
    /// A process image is gone.
    End {
        /// Its pid.
        pid: u32,
        /// Why.
        reason: EndReason,
    },
    /// Something the person should know.
    Warning(String),
}

/// A mapped file.
#[derive(Debug)]
pub(crate) struct ModuleFile {
    /// Path as the process sees it.
    pub(crate) path: String,
    /// GNU build id, empty if none.
    pub(crate) build_id: Vec<u8>,
    /// File size.
    pub(crate) size_bytes: u64,
    /// The file itself, for symbols; `None` for the vdso and for regions without one.
    pub(crate) file: Option<File>,
    /// Where its functions begin (ELF virtual addresses, ascending), once its unwind table was made.
    pub(crate) functions: OnceLock<Vec<u64>>,
}

/// Where a module's code lies in a process.
#[derive(Debug, Clone)]
pub(crate) struct CodeRange {
    /// First address.
    pub(crate) start: u64,
    /// One past the last.
    pub(crate) end: u64,
    /// Address minus bias is the ELF virtual address.
    pub(crate) bias: u64,
    /// What is mapped.
    pub(crate) module: Arc<ModuleFile>,
}

/// Probes of a process, as far as they were placed in one go.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// All code of the process, replacing what was known; empty where that has not changed.
    pub(crate) ranges: Vec<CodeRange>,
    /// Descriptor rows in use from now on.
    pub(crate) rows: Vec<PlannedRow>,
    /// The report on each probe.
    pub(crate) probes: Vec<ProbeReport>,
}

/// A descriptor row and what it stands for.
#[derive(Debug, Clone)]
pub(crate) struct PlannedRow {
    /// The row.
    pub(crate) row: u32,
    /// Its code.
    pub(crate) module: Arc<ModuleFile>,
    /// The function.
    pub(crate) symbol: String,
    /// What passing it means.
    pub(crate) meaning: Meaning,
}

/// What passing a probed function means.
#[derive(Debug, Clone)]
pub(crate) enum Meaning {
    /// A call of an allocator.
    Entry {
        /// Number of the domain within the process (`Descriptor::domain`).
        local_domain: u16,
        /// Name of the domain.
        domain: String,
        /// What it does.
        kind: EntryKind,
    },
    /// A marker.
    Marker {
        /// Its row in the trace.
        marker: Marker,
        /// What its events are, in the trace's numbers.
        kind: u8,
    },
}

/// What became of one probe.
#[derive(Debug, Clone)]
pub(crate) struct ProbeReport {
    /// The file.
    pub(crate) module: Arc<ModuleFile>,
    /// The function.
    pub(crate) symbol: String,
    /// File offset of the function.
    pub(crate) function_offset: u64,
    /// Bytes from there to the probed instruction.
    pub(crate) instruction_offset: u32,
    /// That instruction.
    pub(crate) instruction: String,
    /// Whether the kernel emulates it.
    pub(crate) emulated: bool,
    /// How the result is read.
    pub(crate) result: ResultProbe,
    /// Why here, or why not.
    pub(crate) reason: String,
    /// Whether it was placed.
    pub(crate) placed: bool,
}
