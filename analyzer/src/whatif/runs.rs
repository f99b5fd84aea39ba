//! Starts the processes that measure. Responsible for a fresh process per run, for what is loaded into it, and for the order of the runs; not
//! for what is done in there (see `worker`), nor for what the figures mean (see `compare`).
//!
//! Runs take turns: first each allocator without and with the plan once, then again. What changes on the machine meanwhile
//! touches all alike.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::worker::{HeapKind, Measured, Order};
use crate::error::AnalysisError;

/// How to start a process that measures: it takes an [`Order`] in JSON as its last argument and prints [`Measured`] in JSON.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The program.
    pub program: PathBuf,
    /// Arguments before the order.
    pub arguments: Vec<OsString>,
}

impl Launcher {
    /// Has an order done in a fresh process.
    ///
    /// # Errors
    /// It could not be started, or said why it could not do it.
    pub(super) fn perform(&self, allocator: &str, order: &Order) -> Result<Measured, AnalysisError> {
        let failed = |what: String| AnalysisError::Replay { allocator: allocator.to_owned(), what };
        let text = serde_json::to_string(order).map_err(|error| failed(error.to_string()))?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).arg(text).stdin(Stdio::null());
        // Somebody else's would be measured in place of ours.
        command.env_remove("LD_PRELOAD");
        if let HeapKind::Library(path) = &order.heap {
            command.env("LD_PRELOAD", path);
        }
        let output = command.output().map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
            let last = last.strip_prefix("heaptape: error: ").unwrap_or(last);
            return Err(failed(if last.is_empty() { output.status.to_string() } else { last.to_owned() }));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))
    }
}
