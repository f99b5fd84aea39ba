//! Replaying a trace. Responsible for the state that events change and for what is counted; not for what the counts mean
//! to a person (see the analyses) nor for names.
//!
//! One pass, in order, over a stream. What it keeps grows with live blocks (`blocks`), with distinct allocating stacks
//! per process (`cells`), and with the tables of the trace; never with the number of events.
//!
//! ```text
//!  event ─▶ engine ─┬─▶ blocks   per heap: BlockId → size, cell, birth     who is alive
//!                   ├─▶ reallocs per thread: open begins                   begin … end
//!                   ├─▶ level    total, per domain, per process            live now and at the peak
//!                   ├─▶ cells    per process × stack × entry               who allocated, alive at the peak, at the end
//!                   └─▶ counts, losses, anomalies                          what happened, what is missing, what cannot be
//! ```

mod anomaly;
mod blocks;
mod cells;
mod counts;
mod engine;
mod heap;
mod level;
mod loss;
mod observer;
mod outcome;
mod pages;
mod reallocs;

pub use anomaly::{Anomaly, AnomalyKind};
pub use blocks::{Block, LiveBlocks};
pub use cells::{Amount, Cell, CellId};
pub use counts::Counts;
pub use engine::Replay;
pub use level::{Level, Peak};
pub use loss::{Loss, Losses};
pub use observer::Observer;
pub use outcome::{Account, Inherited, Outcome, ProcessOutcome};

use trace_format::{ReadError, Trace};

/// Replays a whole trace on the calling thread, decoding on `decoders` threads, and reports after each chunk how many
/// events are done.
///
/// # Errors
/// The file became unreadable. Damage that reading survives is in `Trace::completeness` instead.
pub fn replay(trace: &Trace, decoders: usize, progress: impl FnMut(u64)) -> Result<Outcome, ReadError> {
    Ok(replay_with(trace, (), decoders, progress)?.0)
}

/// For a progress that is told of events over several passes: each pass tells from its own begin, or goes on from the one before.
pub(crate) fn over_all_passes(mut progress: impl FnMut(u64)) -> impl FnMut(u64) {
    let (mut before, mut latest) = (0, 0);
    move |done| {
        if done <= latest {
            before += latest;
        }
        latest = done;
        progress(before + done);
    }
}

/// Replays a whole trace as `replay` does, with an observer.
///
/// # Errors
/// The file became unreadable.
pub fn replay_with<O: Observer>(
    trace: &Trace,
    observer: O,
    decoders: usize,
    mut progress: impl FnMut(u64),
) -> Result<(Outcome, O), ReadError> {
    let mut engine = Replay::observed(&trace.tables, observer);
    let mut done = 0;
    trace.for_each_chunk(decoders, |events| {
        engine.events(events);
        done += events.len() as u64;
        progress(done);
    })?;
    Ok(engine.finish_observed())
}
