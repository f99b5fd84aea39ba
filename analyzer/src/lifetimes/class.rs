//! What became of a block. Responsible for the classes of lifetimes and for telling which one a block is of; not for
//! counting them.
//!
//! ```text
//!   phase A                phase B                 end of the process
//!  ├──────────────────────┤├──────────────────────┤│
//!      ●────────●                                  │  scratch: dies inside the phase instance it was born in
//!      ●─────────────────────────●                 │  handed over: outlives it and dies in another phase
//!      ●─────────────────────────────────────────●─│  process-wide: outlives it and dies outside of all phases,
//!                                                  │    or was born outside of all phases
//!      ●───────────────────────────────────────────│  durable: never freed
//!      ●────────○                                  │  other thread: freed by another thread than the one it was born on
//! ```

use serde::Serialize;

/// Classes of lifetimes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Born and dead inside one phase instance.
    Scratch,
    /// Outlived the phase instance that it was born in; dead in another one.
    HandedOver,
    /// Freed, but no phase holds its birth and its death.
    ProcessWide,
    /// Freed by another thread.
    OtherThread,
    /// Dies only with the process, or lives on after the recording.
    Durable,
}

impl Class {
    /// How many there are.
    pub const COUNT: usize = 5;
    /// All, in the order of reports.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Scratch, Self::HandedOver, Self::ProcessWide, Self::OtherThread, Self::Durable];

    /// Its place in `ALL`.
    pub fn index(self) -> usize {
        self as usize
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Scratch => "scratch",
            Self::HandedOver => "handed over",
            Self::ProcessWide => "process-wide",
            Self::OtherThread => "other thread",
            Self::Durable => "durable",
        }
    }

    /// The class of a block that is freed. `open_at_birth`: phases open on its thread at its birth; `still_open`: how many of
    /// those are open at its death; `open_now`: phases open on the thread at its death.
    pub fn of_freed(same_thread: bool, open_at_birth: usize, still_open: usize, open_now: usize) -> Self {
        if !same_thread {
            Self::OtherThread
        } else if open_at_birth > 0 && still_open == open_at_birth {
            Self::Scratch
        } else if open_at_birth > 0 && open_now > 0 {
            Self::HandedOver
        } else {
            Self::ProcessWide
        }
    }
}
