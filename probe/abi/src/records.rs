//! Records of events in the ring: whole, or in fewer bytes where what they tell fits.

use crate::unwind;

/// One event in the ring, followed by `frame_count` frames, the innermost first.
///
/// A frame is told by where the call that it is in returns to, or one past the instruction that a signal interrupted: the byte before
/// belongs to the frame's function. The frames of its stack are these and behind them the outermost `kept` frames of the stack that the
/// thread's record before had. The innermost frame is the caller of the allocator: its address is `return_address`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Record {
    /// A [`crate::RecordKind`].
    pub kind: u8,
    /// log2 of the alignment plus one, 0 for none.
    pub alignment: u8,
    /// Frames that follow.
    pub frame_count: u16,
    /// Outermost frames that are those of the thread's record before.
    pub kept: u16,
    /// Domain of the call that this one is part of, 0 for none.
    pub outer_domain: u16,
    /// Process id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// `CLOCK_MONOTONIC`, ns.
    pub time_ns: u64,
    /// Row of the descriptor table.
    pub descriptor: u32,
    /// How the walk ended, an [`unwind::WalkEnd`].
    pub walk_end: u8,
    /// 1 if the outermost of the frames that follow has the CFA that the one in its place had in the record before.
    pub same_cfa: u8,
    /// Reserved, 0.
    pub reserved: [u8; 2],
    /// Where the call returns to; 0 where the first frame says it.
    pub return_address: u64,
    /// See [`crate::RecordKind`].
    pub pointer: u64,
    /// See [`crate::RecordKind`].
    pub size: u64,
}

/// A record without frames, where what it tells fits: two of these, with the ring's header, lie in a line of the cache. Both who writes and
/// who reads the ring wait for its lines longer than for anything else.
///
/// ```text
///   word 0   pointer 48, descriptor 16                                            bits, lowest first
///   word 1   return address 48, size 16 (low)
///   word 2   ticks 32, kind less one 2, thread id 22, size 8 (high)
/// ```
///
/// The process is the one that the thread's record before named; the time is known by it and by its lower ticks.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CompactRecord {
    /// See above.
    pub words: [u64; 3],
}

impl CompactRecord {
    /// log2 of the nanoseconds of a tick.
    pub const TICK_SHIFT: u32 = 9;
    /// A thread's next record is not compact after so many nanoseconds: a quarter of those that ticks tell apart, so that they may be counted
    /// from the time of any record nearby.
    pub const NEAR_NS: u64 = 1 << (32 + Self::TICK_SHIFT - 2);

    /// The record, if it fits; whoever asks knows that the thread's process and its time are.
    #[must_use]
    #[inline(always)]
    pub const fn of(record: &Record, time_ns: u64) -> Option<Self> {
        let kind = (record.kind as u64).wrapping_sub(1);
        let wide = (record.pointer | record.return_address) >> 48
            | record.size >> 24
            | (record.tid >> 22) as u64
            | (record.descriptor >> 16) as u64
            | kind >> 2
            | record.alignment as u64
            | record.outer_domain as u64;
        if wide != 0 {
            return None;
        }
        Some(Self {
            words: [
                record.pointer | (record.descriptor as u64) << 48,
                record.return_address | record.size << 48,
                (time_ns >> Self::TICK_SHIFT) as u32 as u64
                    | kind << 32
                    | (record.tid as u64) << 34
                    | record.size >> 16 << 56,
            ],
        })
    }

    /// The row of the descriptor table.
    #[must_use]
    #[inline(always)]
    pub const fn descriptor(&self) -> u32 {
        (self.words[0] >> 48) as u32
    }

    /// See [`crate::RecordKind`].
    #[must_use]
    #[inline(always)]
    pub const fn pointer(&self) -> u64 {
        self.words[0] << 16 >> 16
    }

    /// The thread.
    #[must_use]
    #[inline(always)]
    pub const fn tid(&self) -> u32 {
        (self.words[2] >> 34) as u32 & ((1 << 22) - 1)
    }

    /// The whole record, of this process and from a time near `near_ns`.
    #[must_use]
    #[inline(always)]
    pub const fn whole(&self, pid: u32, near_ns: u64) -> Record {
        let near = near_ns >> Self::TICK_SHIFT;
        let ticks = near.wrapping_add((self.words[2] as u32).wrapping_sub(near as u32) as i32 as u64);
        Record {
            kind: (self.words[2] >> 32 & 3) as u8 + 1,
            alignment: 0,
            frame_count: 0,
            kept: 0,
            outer_domain: 0,
            pid,
            tid: self.tid(),
            time_ns: ticks << Self::TICK_SHIFT,
            descriptor: self.descriptor(),
            walk_end: unwind::WalkEnd::NotTaken as u8,
            same_cfa: 0,
            reserved: [0; 2],
            return_address: self.words[1] << 16 >> 16,
            pointer: self.pointer(),
            size: self.words[1] >> 48 | self.words[2] >> 56 << 16,
        }
    }
}

/// A [`CompactRecord`] with frames, as [`Record`] has them.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WalkedRecord {
    /// [`crate::RecordKind::Walked`].
    pub kind: u8,
    /// As in [`Record`].
    pub walk_end: u8,
    /// As in [`Record`].
    pub same_cfa: u8,
    /// Reserved, 0.
    pub reserved: u8,
    /// As in [`Record`].
    pub frame_count: u16,
    /// As in [`Record`].
    pub kept: u16,
    /// The rest.
    pub compact: CompactRecord,
}

impl WalkedRecord {
    /// The whole record, of this process and from a time near `near_ns`.
    #[must_use]
    #[inline(always)]
    pub const fn whole(&self, pid: u32, near_ns: u64) -> Record {
        Record {
            frame_count: self.frame_count,
            kept: self.kept,
            walk_end: self.walk_end,
            same_cfa: self.same_cfa,
            ..self.compact.whole(pid, near_ns)
        }
    }
}
