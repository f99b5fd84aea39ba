//! The heaptape command: records a running compiler's allocations and answers from the trace. Responsible for starting;
//! `commands` chooses and says what an outcome means.

mod commands;
#[cfg(feature = "recording")]
mod markers;
mod output;
mod progress;
#[cfg(feature = "recording")]
mod recording;
mod samples;
mod terminal;

fn main() -> std::process::ExitCode {
    commands::run()
}
