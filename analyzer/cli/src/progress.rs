//! Progress on stderr: the only file that knows indicatif. Responsible for what a waiting person sees; says nothing where
//! nobody waits (stderr is no terminal).

use std::io::IsTerminal as _;
#[cfg(feature = "recording")]
use std::{cell::Cell, time::Instant};

#[cfg(feature = "recording")]
use indicatif::{HumanBytes, HumanCount, HumanDuration};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The line that is shown while recording: events, rate, live bytes, losses, elapsed time.
#[cfg(feature = "recording")]
pub(crate) struct RecordingBar {
    bar: ProgressBar,
    began: Instant,
    last: Cell<(Instant, u64)>,
    rate: Cell<f64>,
}

#[cfg(feature = "recording")]
impl RecordingBar {
    pub(crate) fn new(quiet: bool) -> Self {
        let target = if quiet || !std::io::stderr().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr_with_hz(10)
        };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(ProgressStyle::with_template("{spinner} {wide_msg}").expect("the template is constant"));
        let now = Instant::now();
        Self { bar, began: now, last: Cell::new((now, 0)), rate: Cell::new(0.0) }
    }

    pub(crate) fn update(&self, progress: &probe_collector::Progress) {
        use std::sync::atomic::Ordering::Relaxed;
        if self.bar.is_hidden() {
            return;
        }
        let events = progress.event_count.load(Relaxed);
        let (then, before) = self.last.get();
        let seconds = then.elapsed().as_secs_f64();
        if seconds >= 0.5 {
            self.rate.set((events - before) as f64 / seconds);
            self.last.set((Instant::now(), events));
        }
        let lost = progress.lost_count.load(Relaxed);
        let losses = if lost == 0 { "nothing lost".to_owned() } else { format!("{} LOST", HumanCount(lost)) };
        let processes = progress.process_count.load(Relaxed);
        self.bar.set_message(format!(
            "recording  {} events  {}/s  {} live  {} written  {processes} process{}  {losses}  {}",
            HumanCount(events),
            HumanCount(self.rate.get() as u64),
            HumanBytes(progress.live_bytes.load(Relaxed)),
            HumanBytes(progress.file_bytes.load(Relaxed)),
            if processes == 1 { "" } else { "es" },
            HumanDuration(self.began.elapsed()),
        ));
        self.bar.tick();
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// A bar on a terminal, where it is wanted; nowhere else.
fn bar(wanted: bool, length: Option<u64>, template: &str) -> ProgressBar {
    let shown = wanted && std::io::stderr().is_terminal();
    let target = if shown { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(length, target);
    bar.set_style(ProgressStyle::with_template(template).expect("the template is constant"));
    bar
}

/// The bar that is shown while a long trace is replayed, once or several times.
pub(crate) struct ReplayBar {
    bar: ProgressBar,
    pass_events: u64,
}

impl ReplayBar {
    /// Events below which nobody waits long enough for a bar.
    const WORTH_A_BAR: u64 = 5_000_000;

    pub(crate) fn new(event_count: u64) -> Self {
        let template = "replaying {wide_bar} {human_pos}/{human_len} events  {per_sec}  {eta}";
        let bar = bar(event_count >= Self::WORTH_A_BAR, Some(event_count), template);
        Self { bar, pass_events: event_count.max(1) }
    }

    /// Events read, over all passes. The bar is as long as the passes that have begun.
    pub(crate) fn update(&self, event_count: u64) {
        let passes = event_count.div_ceil(self.pass_events);
        if passes > 1 {
            self.bar.set_length(passes * self.pass_events);
        }
        self.bar.set_position(event_count);
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// What is shown while plans are made and tried: how many passes that takes is not known before.
pub(crate) struct SearchBar(ProgressBar);

impl SearchBar {
    pub(crate) fn new(event_count: u64) -> Self {
        let template = "{spinner} trying plans: {human_pos} events read  {per_sec}  {elapsed}";
        Self(bar(event_count >= ReplayBar::WORTH_A_BAR, None, template))
    }

    pub(crate) fn advance(&self, event_count: u64) {
        self.0.inc(event_count);
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// The bar that is shown while a replay is run several times.
pub(crate) struct RunsBar(ProgressBar);

impl RunsBar {
    pub(crate) fn new(run_count: u64) -> Self {
        Self(bar(true, Some(run_count), "measuring {wide_bar} run {pos} of {len}  {eta}"))
    }

    pub(crate) fn update(&self, run_count: u64) {
        self.0.set_position(run_count);
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
