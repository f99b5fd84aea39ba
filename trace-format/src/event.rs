//! What happened, in order: the logical view of a trace's columns. Responsible for the meaning of each operation;
//! not for its bytes (see `column` and the schema).

use crate::id::{BlockId, DomainId, EntryId, ProcessId, Sequence, StackId, ThreadId};

/// One event of the total order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Position in the total order.
    pub sequence: Sequence,
    /// `CLOCK_MONOTONIC` since `Header::start_monotonic_ns`, rounded down to `Header::tick_ns`. Never steps back: an event
    /// whose clock was read before that of its predecessor (some microseconds, when a thread was preempted in between)
    /// carries its predecessor's time.
    pub time_ns: u64,
    /// The thread that caused it.
    pub thread: ThreadId,
    /// The call stack of the call; `EMPTY` where none was taken.
    pub stack: StackId,
    /// How that stack was taken, and how it continues the one before.
    pub walk: Walk,
    /// What happened.
    pub op: Op,
}

/// How a stack was taken, and how it continues the thread's stack before: that of the thread's latest earlier event, in
/// whatever chunk, whose quality is not `NotTaken`.
///
/// The activations that continue are the outermost `shared - renewed`, where `shared` is the depth of the lowest common
/// ancestor of both stack nodes (`Tables::shared_depth`), and the next one too if it has `moved`. If events between the two
/// are missing (their sequence numbers are in no chunk), nothing is known to continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walk {
    /// How the walk ended.
    pub quality: StackQuality,
    /// Of the outer frames that both stacks share by name, how many of the innermost are new activations all the same: their
    /// frame addresses differ. 0 nearly always. A damaged file may say more than there are: subtract saturating.
    pub renewed: u32,
    /// The first frame that does not continue is still the activation it was: same function, same frame address. Only the call
    /// it is in is another.
    pub moved: bool,
}

impl Walk {
    /// No stack was taken.
    pub const NONE: Self = Self { quality: StackQuality::NotTaken, renewed: 0, moved: false };
}

/// How a stack walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StackQuality {
    /// At the thread's root: the stack is whole.
    Complete,
    /// At the recorder's depth limit.
    TooDeep,
    /// At stack memory that could not be read.
    Unreadable,
    /// No walk was made: at most the return address of the call is known.
    NotTaken,
    /// At code without unwind information.
    NoRule,
    /// At code that belongs to no mapped file.
    UnknownCode,
    /// At unwind information that the recorder's tables cannot express.
    Unsupported,
    /// At a return probe that somebody else had placed.
    ForeignProbe,
    /// No walk: too many threads at once.
    NoRoom,
    /// A code this version does not know.
    Unknown(u8),
}

impl StackQuality {
    /// By code.
    const KNOWN: [(Self, &'static str); 9] = [
        (Self::Complete, "complete"),
        (Self::TooDeep, "too-deep"),
        (Self::Unreadable, "unreadable"),
        (Self::NotTaken, "not-taken"),
        (Self::NoRule, "no-rule"),
        (Self::UnknownCode, "unknown-code"),
        (Self::Unsupported, "unsupported"),
        (Self::ForeignProbe, "foreign-probe"),
        (Self::NoRoom, "no-room"),
    ];

    /// Its code in the trace.
    #[inline]
    pub const fn code(self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::TooDeep => 1,
            Self::Unreadable => 2,
            Self::NotTaken => 3,
            Self::NoRule => 4,
            Self::UnknownCode => 5,
            Self::Unsupported => 6,
            Self::ForeignProbe => 7,
            Self::NoRoom => 8,
            Self::Unknown(code) => code,
        }
    }

    /// The quality of a code.
    #[inline]
    pub fn from_code(code: u8) -> Self {
        Self::KNOWN.get(usize::from(code)).map_or(Self::Unknown(code), |(quality, _)| *quality)
    }

    /// Its stable name.
    pub fn name(self) -> &'static str {
        Self::KNOWN.get(usize::from(self.code())).map_or("unknown", |(_, name)| name)
    }

    /// Whether a walk was made and cut short.
    pub fn is_truncated(self) -> bool {
        !matches!(self, Self::Complete | Self::NotTaken)
    }
}

/// Which block a free or realloc names, as the recorder resolved it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A live block of this heap, by its birth.
    Block(BlockId),
    /// An address that the recording never saw allocated: a block from before the recording, or one whose birth was lost.
    Unknown {
        /// The address given.
        address: u64,
    },
    /// An address whose block is already dead (glibc frees each cached chunk again at thread exit).
    Dead {
        /// The address given.
        address: u64,
    },
}

/// A memory operation or a change in the life of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// A block is born: malloc, calloc, memalign…, `operator new`, `realloc(NULL, n)`. Placed at the call's return.
    Alloc {
        /// The entry point called.
        entry: EntryId,
        /// Its birth number.
        block: BlockId,
        /// Bytes requested (count × size for calloc).
        size_bytes: u64,
        /// Alignment requested, 0 where the entry point takes none.
        alignment_bytes: u64,
        /// Address of the block.
        address: u64,
        /// The domain whose call this one is part of, if another domain's allocation was pending on this thread.
        inside: Option<DomainId>,
    },
    /// A request that returned NULL. Nothing was allocated. `realloc` failures are `ReallocFailed`.
    AllocFailed {
        /// The entry point called.
        entry: EntryId,
        /// Bytes requested.
        size_bytes: u64,
    },
    /// A block dies: free, sized frees, `operator delete`, `realloc(p, 0)` that returned NULL. Placed at the call's entry.
    Free {
        /// The entry point called.
        entry: EntryId,
        /// What it named.
        target: Target,
    },
    /// First half of a realloc, at its entry: the old block dies. The thread's next `ReallocEnd`, `ReallocFailed` or
    /// `ReallocFreed` of the same entry closes it (innermost first); if none comes, the call never returned.
    ReallocBegin {
        /// The entry point called.
        entry: EntryId,
        /// The old block.
        target: Target,
        /// New size requested.
        size_bytes: u64,
    },
    /// Second half, at its return: the new block is born.
    ReallocEnd {
        /// The entry point called.
        entry: EntryId,
        /// Birth number of the new block.
        block: BlockId,
        /// New size (the same as in the begin).
        size_bytes: u64,
        /// Address of the new block.
        address: u64,
    },
    /// The realloc returned NULL for a size above 0: the old block lives on under its old birth number.
    ReallocFailed {
        /// The entry point called.
        entry: EntryId,
    },
    /// The realloc had size 0 and returned NULL: it was a free. It counts as one free and as no realloc.
    ReallocFreed {
        /// The entry point called.
        entry: EntryId,
    },
    /// The recorder saw a birth at an address that was live: the old block's death was missed. The old block dies here.
    MissedFree {
        /// The block that must have died.
        block: BlockId,
    },
    /// A process appears: launched, attached to, or forked (`Process::parent`). A forked child starts with a copy of
    /// its parent's heap unless `Process::shares_heap`.
    ProcessStart {
        /// The new process.
        process: ProcessId,
    },
    /// A process image ends by exec, exit or the end of the recording; its heap is gone unless it was shared.
    ProcessEnd {
        /// The process.
        process: ProcessId,
        /// Why.
        reason: EndReason,
    },
    /// A thread ends. Frees nothing.
    ThreadEnd,
    /// Events were lost here: after this event's predecessor and before the next event of the same CPU.
    Loss {
        /// The CPU that lost them.
        cpu: u32,
        /// Time of the first one, as `Event::time_ns`.
        first_ns: u64,
        /// Time of the last one.
        last_ns: u64,
        /// Births lost (allocs and ends of reallocs).
        alloc_count: u64,
        /// Deaths lost (frees and begins of reallocs).
        free_count: u64,
        /// All other events lost.
        other_count: u64,
    },
    /// A marked function is entered: a phase begins or ends, or a point is passed.
    Marker {
        /// Row of `Tables::markers`; `u32::MAX` for none, in traces from before that table.
        id: u32,
        /// 0 point, 1 begin, 2 end.
        kind: u8,
        /// As `Marker::value` says: 0, a number, or a row of `Tables::texts`; `u64::MAX` where it could not be read.
        value: u64,
    },
    /// An operation this version does not know. It holds its place in the order.
    Unknown {
        /// Its code.
        code: u8,
    },
}

/// Why a process image ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// It exited with this wait status (as `waitpid` gives it).
    Exit(i32),
    /// It called exec; the next image of the same pid follows.
    Exec,
    /// It was still running when the recording ended.
    Detached,
}
