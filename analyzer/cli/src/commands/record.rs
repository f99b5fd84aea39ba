//! `heaptape record`: launches a command and records it.

use std::{io::Write, process::ExitCode};

use crate::recording::{self, RecordingArgs};

/// Launch a command and record every allocation it and its children make.
///
/// The command's output, input and exit status are its own; heaptape ends as the command ends. Recording needs root.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    recording: RecordingArgs,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<std::ffi::OsString>,
}

impl Args {
    pub(crate) fn run(self, _out: &mut impl Write) -> anyhow::Result<ExitCode> {
        recording::record(&self.recording, &self.command)
    }
}
