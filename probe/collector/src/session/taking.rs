//! The intake's thread: takes records and notices in one order, writes, rests. Responsible for its pace and for ending when
//! nothing more can come.

use std::{
    collections::VecDeque,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};

use trace_format::WriteError;

use crate::{intake::Intake, kernel::Ring, notice::Notice, tracer::Signals};

/// How often a trace is brought to disk although its chunk is not full.
const FLUSH_EVERY: Duration = Duration::from_millis(500);

/// Reads ring and inbox in one order until the tracer is gone and the ring is empty.
pub(super) fn take_in(
    mut intake: Intake,
    mut ring: Ring,
    inbox: &Receiver<Notice>,
    signals: &Signals,
    drained: &AtomicBool,
) -> (Intake, Option<WriteError>) {
    let gauge = ring.gauge();
    let mut pace = Pace::new(ring.size_bytes());
    let mut waiting: VecDeque<Notice> = VecDeque::new();
    let mut flushed = Instant::now();
    let mut broken: Option<WriteError> = None;
    let mut tracing = true;
    loop {
        // The end first, the inbox second: what a record depends on was sent before the record was reserved.
        let end = gauge.position();
        while tracing {
            match inbox.try_recv() {
                Ok(notice) => waiting.push_back(notice),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => tracing = false,
            }
        }
        let before = ring.position();
        while let Some(notice) = waiting.front() {
            let position = notice.position.min(end);
            if !read_records(&mut ring, position, &mut intake, &mut broken) || notice.position > end {
                break;
            }
            let notice = waiting.pop_front().expect("it was at the front");
            if broken.is_none() {
                broken = intake.notice(notice.what, notice.time_ns).err();
            }
        }
        if waiting.is_empty() {
            read_records(&mut ring, end, &mut intake, &mut broken);
        }
        if broken.is_some() && !drained.swap(true, Ordering::AcqRel) {
            signals.broken.store(true, Ordering::Release);
            signals.stop();
        }
        intake.report();
        if !tracing && waiting.is_empty() && ring.position() == gauge.position() {
            return (intake, broken);
        }
        if broken.is_none() && flushed.elapsed() >= FLUSH_EVERY {
            flushed = Instant::now();
            broken = intake.flush().err();
        }
        if tracing {
            pace.rest(ring.position() - before);
        }
    }
}

/// How long the intake rests between two passes. Nobody wakes it: a wake-up for each event would cost more than the
/// event. A pass that found little is followed by a rest in which a busy target fills a fraction of the ring at most.
struct Pace {
    ring_bytes: u64,
    shortest: Duration,
    next: Duration,
}

impl Pace {
    /// Bytes that a busy target writes per millisecond, about.
    const BUSY_BYTES_PER_MS: u64 = 150_000;
    const LONGEST: Duration = Duration::from_millis(20);

    fn new(ring_bytes: u64) -> Self {
        let millis = (ring_bytes / 4) as f64 / Self::BUSY_BYTES_PER_MS as f64;
        let shortest =
            Duration::from_secs_f64(millis / 1000.0).clamp(Duration::from_micros(100), Duration::from_millis(8));
        Self { ring_bytes, shortest, next: shortest }
    }

    /// Rests after a pass over `read_bytes`.
    fn rest(&mut self, read_bytes: u64) {
        if read_bytes >= self.ring_bytes / 4 {
            self.next = self.shortest;
            return;
        }
        self.next = if read_bytes == 0 { (self.next * 2).min(Self::LONGEST) } else { self.shortest };
        thread::sleep(self.next);
    }
}

fn read_records(ring: &mut Ring, end: u64, intake: &mut Intake, broken: &mut Option<WriteError>) -> bool {
    ring.read_until(end, intake, Intake::foresee, |intake, bytes| {
        if broken.is_none()
            && let Err(error) = intake.record(bytes)
        {
            *broken = Some(error);
        }
    })
}
