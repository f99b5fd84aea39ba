//! `heaptape attach`: records a process that already runs.

use std::{io::Write, process::ExitCode};

use crate::recording::{self, RecordingArgs};

/// Record a running process, all its threads, and the children it starts, until it ends or you press Ctrl-C.
///
/// What it allocated before is not known: frees of such blocks are counted as "before recording". Recording needs root.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    recording: RecordingArgs,
    /// Process id
    #[arg(value_parser = pid)]
    pid: u32,
}

impl Args {
    pub(crate) fn run(self, _out: &mut impl Write) -> anyhow::Result<ExitCode> {
        recording::attach(&self.recording, self.pid)
    }
}

fn pid(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("a process id is a number: `pidof {text}` may find it"))
}
