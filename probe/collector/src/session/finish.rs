//! The end of a recording: what the kernel counted and names of frames go into the trace's tail.

use std::{sync::atomic::Ordering, time::Instant};

use trace_format::WriteError;

use super::{Recorded, Symbolise};
use crate::{
    intake::{Finished, Intake, Progress},
    kernel::Kernel,
    machine,
    tracer::Outcome,
};

/// How a recording went, beside its events.
pub(super) struct Ending<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) outcome: &'a Outcome,
    pub(super) progress: &'a Progress,
    /// Time that threads were held for back-pressure, summed.
    pub(super) held_ns: u64,
    /// Time that unwind tables took.
    pub(super) unwind_build_ns: u64,
    /// Why it ended.
    pub(super) end: &'a str,
    pub(super) began: Instant,
}

/// Finishes the trace. Tells whether it could not be written while events came, too.
pub(super) fn finish(
    mut intake: Intake,
    mut broken: Option<WriteError>,
    ending: &Ending<'_>,
    symbolise: Box<Symbolise<'_>>,
) -> (Recorded, bool) {
    let failed_on_disk = broken.is_some();
    let mut ring_failure_count = 0;
    let mut stop_count = 0;
    let mut full_table_count = 0;
    let mut timed = (0, 0);
    for (cpu, state) in ending.kernel.cpu_states().iter().enumerate() {
        ring_failure_count += state.lost_count;
        stop_count += state.stop_count;
        full_table_count += state.thread_failure_count;
        timed.0 += state.timed_walk_count;
        timed.1 += state.timed_walk_ns;
        if state.untold.first_ns != 0 && broken.is_none() {
            broken = intake.untold_loss(cpu as u32, state.untold).err();
        }
    }
    let Finished { writer, mut stats, files, starts } = intake.into_parts();
    if full_table_count > 0 {
        stats.warnings.push(format!("{full_table_count} calls came from more threads than can be recorded at once"));
    }
    let costs = ending.kernel.program_costs();
    stats.ring_failure_count = ring_failure_count;
    let tables = ending.kernel.table_totals();
    stats.unwind_sample_count = timed.0;
    stats.unwind_sample_ns = timed.1;
    stats.unwind_table_count = tables.table_count;
    stats.unwind_row_count = tables.row_count;
    stats.unwind_kernel_bytes = ending.kernel.unwind_bytes();
    stats.unwind_build_ns = ending.unwind_build_ns;
    stats.missed_run_count = costs.missed_run_count;
    stats.program_ns = costs.run_time_ns;
    stats.program_run_count = costs.run_count;
    stats.backpressure_stop_count = stop_count;
    stats.backpressure_ns = ending.held_ns;
    stats.target_cpu_ns = ending.outcome.target_cpu_ns;
    ending.end.clone_into(&mut stats.end);
    let mut recorded = Recorded {
        status: None,
        pid: 0,
        still_running: false,
        event_count: writer.event_count(),
        file_bytes: writer.written_bytes(),
        process_count: ending.progress.process_count.load(Ordering::Relaxed),
        lost_count: ring_failure_count,
        warnings: stats.warnings.clone(),
        failure: None,
    };
    match broken {
        Some(error) => recorded.failure = Some(error.into()),
        None => {
            let symbols = symbolise(writer.tables(), files, &starts);
            stats.recorder_cpu_ns = machine::own_cpu_ns();
            stats.wall_ns = ending.began.elapsed().as_nanos() as u64;
            match writer.finish(stats, symbols) {
                Ok(written) => recorded.file_bytes = written.file_bytes,
                Err(error) => recorded.failure = Some(error.into()),
            }
        }
    }
    (recorded, failed_on_disk)
}
