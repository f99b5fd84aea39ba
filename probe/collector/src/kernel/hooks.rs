//! What a probe runs and how it is linked. Responsible for which program of the object that is, and for the cookie by
//! which the program knows the probe.

use std::os::fd::OwnedFd;

use aya::programs::uprobe::UProbeLink;
use probe_abi::{COOKIE_PLACE_SHIFT, Place};

use super::programs::Tuning;

/// Which program a probe runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Entry of an allocator function.
    Enter,
    /// Its return, by return probe.
    Leave,
    /// Its return, by a probe on a `ret` instruction.
    LeaveAtRet,
    /// The dynamic linker's report.
    LinkMap,
    /// A marked place.
    Marker,
}

impl Hook {
    pub(super) const ALL: [Self; 5] = [Self::Enter, Self::Leave, Self::LeaveAtRet, Self::LinkMap, Self::Marker];

    /// The program to run. One program can be a return probe and another probe at a time, but for links of the kind `Perf`.
    pub(super) fn program(self, tuning: Tuning, kind: LinkKind) -> &'static str {
        let walks = tuning.max_frames > 0;
        let returns = self == Self::Leave && kind == LinkKind::Perf;
        match self {
            Self::LinkMap => "link_map",
            _ if tuning.floor => {
                if returns {
                    "empty_return"
                } else {
                    "empty"
                }
            }
            _ if returns => {
                if walks {
                    "call_return"
                } else {
                    "call_return_bare"
                }
            }
            _ => {
                if walks {
                    "call"
                } else {
                    "call_bare"
                }
            }
        }
    }

    /// What a probe's program gets to know it by.
    pub(super) fn cookie(self, row: u32) -> u64 {
        let place = match self {
            Self::Leave => Place::Return,
            Self::LeaveAtRet => Place::Ret,
            Self::Marker => Place::Marker,
            Self::Enter | Self::LinkMap => Place::Entry,
        };
        (place as u64) << COOKIE_PLACE_SHIFT | u64::from(row)
    }
}

/// One or more placed probes; dropping it removes them, which waits for a grace period of the kernel.
pub enum Link {
    /// All probes of a hook in a file.
    Multi(OwnedFd),
    /// One probe.
    Single(UProbeLink),
}

/// The kind of links in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// One link for many probes (Linux 6.6). Runs for one process, also where others share its memory.
    Multi,
    /// One perf event for each probe. Runs for whoever shares the memory of the process.
    Perf,
}

impl LinkKind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Multi => "uprobe_multi",
            Self::Perf => "perf event",
        }
    }
}

/// A probe to place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// What it runs.
    pub hook: Hook,
    /// Offset in the file.
    pub offset: u64,
    /// Row of the descriptor table.
    pub cookie: u32,
}
