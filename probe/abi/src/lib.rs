//! Types shared by the eBPF programs and the collector: what lies in maps and in the ring, byte for byte.
//! Responsible for layout alone; the meaning of a record in a trace is decided by the collector.
#![no_std]

mod records;
pub mod unwind;

pub use records::{CompactRecord, Record, WalkedRecord};

use core::mem::{offset_of, size_of};

/// Depth of the per-thread stack of pending allocator calls.
pub const PENDING_DEPTH: usize = 8;
/// Threads that find their state by index alone: thread id modulo this. Those that collide use a hash table.
pub const THREAD_SLOTS: u32 = 1 << 13;
/// Deepest stack walk, and most frames one record can carry. A power of two.
pub const MAX_FRAMES: usize = 512;
/// Bytes of a thread's stack that a walk holds a copy of at a time. A power of two.
pub const WINDOW_BYTES: usize = 1 << 14;
/// Threads whose walks find their memory by index alone: thread id modulo this. Those that collide use a hash table.
pub const WALK_SLOTS: u32 = 1 << 7;
/// Known rules by address; a power of two.
pub const KNOWN_RULES: u32 = 1 << 16;
/// One in this many walks of a thread is timed. A power of two.
pub const TIMED_WALKS: u32 = 64;
/// Rows of the descriptor table.
pub const MAX_DESCRIPTORS: u32 = 1 << 15;
/// Threads that can be recorded at once.
pub const MAX_THREADS: u32 = 1 << 16;

/// What a probed function does; the discriminants are the ABI.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A block is born at return.
    Alloc = 1,
    /// A block dies at entry.
    Free = 2,
    /// A block dies at entry and is born at return.
    Realloc = 3,
    /// A marked place is passed: see [`Descriptor`].
    Marker = 4,
}

/// Where in a function a probe stands; the cookie holds it above [`COOKIE_PLACE_SHIFT`], the row of the descriptor below.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At its entry.
    Entry = 0,
    /// At its return: a return probe.
    Return = 1,
    /// At its return: a probe on a `ret` instruction.
    Ret = 2,
    /// At a marked place, anywhere.
    Marker = 3,
}

/// The lowest bit of a cookie that belongs to the [`Place`].
pub const COOKIE_PLACE_SHIFT: u32 = 32;

/// What a record in the ring tells; the discriminants are the ABI.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// An allocation returned: `pointer` (0: it failed), `size`.
    Alloc = 1,
    /// A free began: `pointer`.
    Free = 2,
    /// A realloc of a block began: `pointer` is the old block, `size` the new size.
    ReallocBegin = 3,
    /// A realloc of a block returned: `pointer` (0: it failed, or freed when `size` is 0), `size`.
    ReallocEnd = 4,
    /// Records were lost on this CPU since the record before: a `LossRecord`.
    Loss = 5,
    /// A marked place was passed: `pointer` is its value, [`TEXT_SENT`] where a [`TextRecord`] of the thread came just before, or
    /// [`UNREADABLE`]. Where the place is inside a function, the innermost frame is that function's.
    Marker = 6,
    /// The text of the thread's next marker: a [`TextRecord`].
    MarkerText = 7,
    /// Another one, with frames, in fewer bytes: a [`WalkedRecord`].
    Walked = 8,
}

/// Where an argument stands when the probe fires.
///
/// `0`: nowhere. `1..=16`: a register in the order of [`REGISTERS`]. `0x80 | n`: the eight bytes at `rsp + 8 n`.
pub type ArgumentAt = u8;

/// Registers an argument can stand in; the position plus one is its [`ArgumentAt`].
pub const REGISTERS: [&str; 15] =
    ["rdi", "rsi", "rdx", "rcx", "r8", "r9", "rax", "rbx", "rbp", "r10", "r11", "r12", "r13", "r14", "r15"];

/// One row of the descriptor table: the meaning of a probe, named by the lower half of the probe's cookie.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// An [`Action`].
    pub action: u8,
    /// `FLAG_*` of descriptors.
    pub flags: u8,
    /// Allocator domain within the process; calls of one domain nest into one event. Above 0.
    pub domain: u16,
    /// Bytes that `rsp` is below its value at the function's entry when the probe fires.
    pub stack_adjust: u16,
    /// The caller's rbp, which frames further out may be found by.
    pub rbp_at: ArgumentAt,
    /// Reserved, 0.
    pub reserved: u8,
    /// The size argument.
    pub size_at: ArgumentAt,
    /// A factor of the size, for calloc and reallocarray.
    pub count_at: ArgumentAt,
    /// The block freed or reallocated; for `FLAG_RESULT_BY_POINTER`, where the result goes.
    pub pointer_at: ArgumentAt,
    /// The alignment argument.
    pub alignment_at: ArgumentAt,
    /// The process's code now: a row of the map of [`unwind::Space`]s.
    pub space: u32,
    /// First address of the domain's code in the process: a nested call returns into it. For a marker, see
    /// [`Descriptor::marker`].
    pub text_start: u64,
    /// One past its last address.
    pub text_end: u64,
}

/// How a marker's value is found: `pointer_at` says where to begin, `count_at` how many of `offsets` lead on from there
/// (`value = *(value + offset)`). `size_at` is where the length of a text stands (0: it ends with a NUL), `alignment_at` the
/// size of a number in bytes.
impl Descriptor {
    /// A marker's descriptor, but for where it stands and which code is around it.
    #[must_use]
    pub const fn marker(flags: u8, pointer_at: ArgumentAt, offsets: [i32; MAX_DEREFERENCES], count: u8) -> Self {
        Self {
            action: Action::Marker as u8,
            flags,
            domain: 0,
            stack_adjust: 0,
            rbp_at: 0,
            reserved: 0,
            size_at: 0,
            count_at: count,
            pointer_at,
            alignment_at: 0,
            space: 0,
            text_start: offsets[0] as u32 as u64 | (offsets[1] as u32 as u64) << 32,
            text_end: offsets[2] as u32 as u64 | (offsets[3] as u32 as u64) << 32,
        }
    }

    /// The offsets of a marker's value.
    #[must_use]
    #[inline(always)]
    pub const fn offsets(&self) -> [i32; MAX_DEREFERENCES] {
        let (low, high) = (self.text_start, self.text_end);
        [low as i32, (low >> 32) as i32, high as i32, (high >> 32) as i32]
    }
}

/// Pointers that a marker's value can lie behind.
pub const MAX_DEREFERENCES: usize = 4;
/// Longest text of a marker that is read, bytes.
pub const MAX_TEXT_BYTES: usize = 96;

/// A marker's place begins something.
pub const FLAG_MARKER_BEGIN: u8 = 1;
/// It ends something.
pub const FLAG_MARKER_END: u8 = 2;
/// It has a value.
pub const FLAG_MARKER_VALUE: u8 = 4;
/// That value is a text.
pub const FLAG_MARKER_TEXT: u8 = 8;
/// The place is not a function's entry.
pub const FLAG_MARKER_INSIDE: u8 = 16;

/// Value of a marker record that a [`TextRecord`] belongs to.
pub const TEXT_SENT: u64 = 1;
/// Value of a marker record whose value could not be read.
pub const UNREADABLE: u64 = u64::MAX;

/// The result goes through a pointer argument and the return value is an error number (posix_memalign).
pub const FLAG_RESULT_BY_POINTER: u8 = 1;
/// The return is seen by probes on the function's `ret` instructions: its return address stays where it is.
pub const FLAG_RET_PROBES: u8 = 2;

/// Nothing that is probed is called from the domain's functions but they themselves (the C library's allocator): what an outermost
/// call returns to need not be known before it returns.
pub const FLAG_LEAF: u8 = 4;

/// A pending allocator call of a thread.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pending {
    /// Address of the return address on the stack: identifies the call.
    pub slot: u64,
    /// The return address found there before the return probe replaced it.
    pub return_address: u64,
    /// Bytes requested.
    pub size: u64,
    /// Old block (realloc) or address of the result (`FLAG_RESULT_BY_POINTER`).
    pub pointer: u64,
    /// Row of the descriptor table.
    pub descriptor: u32,
    /// The call's domain.
    pub domain: u16,
    /// Domain of the call that this one is part of, 0 for none.
    pub outer_domain: u16,
    /// log2 of the alignment requested plus one, 0 for none.
    pub alignment: u8,
    /// Whether the call is part of one of its own domain: no event.
    pub nested: u8,
    /// Whether it is a realloc that released a block at entry.
    pub released: u8,
    /// Whether probes on `ret` instructions see its return ([`FLAG_RET_PROBES`]).
    pub ret_probes: u8,
    /// Reserved, 0.
    pub reserved: [u8; 4],
}

/// What the kernel side keeps per thread.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadState {
    /// Pending calls in use.
    pub depth: u32,
    /// Records made, wrapping: how full the ring is is looked at only now and then.
    pub record_count: u32,
    /// The thread's id; 0 for a slot that nobody uses.
    pub tid: u64,
    /// Time of the thread's last record, and …
    pub last_ns: u64,
    /// … its process then; 0 before the first, and where that was lost.
    pub last_pid: u64,
    /// Calls begun.
    pub begin_count: u64,
    /// Calls that returned.
    pub return_count: u64,
    /// Calls whose frame was gone.
    pub abandoned_count: u64,
    /// Returns that no begin fits.
    pub unmatched_count: u64,
    /// Calls inside a call of their own domain.
    pub nested_count: u64,
    /// The block last freed, with no event of the thread since; 0 otherwise.
    pub last_freed: u64,
    /// Descriptor of that free.
    pub last_freed_descriptor: u64,
    /// Slot of that free.
    pub last_freed_slot: u64,
    /// The calls, outermost first.
    pub pending: [Pending; PENDING_DEPTH],
}

/// Frames of a stack that are not those of the thread's stack before, and in front of them room for the record that they
/// go to the ring with. Columns, the innermost frame first: only addresses go there.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreshFrames {
    /// The record, at the end of its room.
    pub record: [u64; size_of::<Record>() / 8],
    /// Address of each frame.
    pub addresses: [u64; MAX_FRAMES],
    /// The unwind rule of each address, an [`unwind::Rule`].
    pub rules: [u32; MAX_FRAMES],
    /// Canonical frame address of each function's frame; its callee's plus 8 where the walk ended here.
    pub cfas: [u64; MAX_FRAMES],
    /// rbp in each function.
    pub rbps: [u64; MAX_FRAMES],
}

/// The stack of a thread's record before. Columns, the outermost frame first: frames that stay keep their places.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownFrames {
    /// Where the return address of each frame stands, its CFA less 8; with [`SLOT_ASIDE`] where that word does not
    /// tell whether the next frame is what it was.
    pub slots: [u64; MAX_FRAMES],
    /// Address of each frame.
    pub addresses: [u64; MAX_FRAMES],
    /// rbp in each function; holds only where its rule says [`RULE_NEEDS_RBP`].
    pub rbps: [u64; MAX_FRAMES],
    /// The unwind rule of each address, an [`unwind::Rule`], and [`RULE_NEEDS_RBP`].
    pub rules: [u32; MAX_FRAMES],
    /// Bytes from the CFA of each frame to that of the outermost one before which no gap is wide.
    pub extents: [u32; MAX_FRAMES],
}

/// See [`KnownFrames::slots`]. User addresses have 47 bits.
pub const SLOT_ASIDE: u64 = 1 << 63;
/// The CFA of the frame, or of one further out, may come from the value that rbp has in it. A rule of a row has 24 bits.
pub const RULE_NEEDS_RBP: u32 = 1 << 31;

/// Where a stack walk is. It lies in map memory, not on the program's stack, so that the verifier has nothing to follow from
/// one frame to the next.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WalkProgress {
    /// The frame being looked at: where its call returns to, …
    pub address: u64,
    /// … an address inside of that call, which its rule is looked up by, …
    pub call: u64,
    /// … `rsp` behind that call …
    pub sp: u64,
    /// … and rbp. In a run, all of these are of its first frame.
    pub rbp: u64,
    /// First address that the window holds.
    pub window_start: u64,
    /// Bytes that it holds.
    pub window_bytes: u64,
    /// Address of the innermost frame.
    pub innermost: u64,
    /// The process's code.
    pub space: u32,
    /// Fresh frames.
    pub count: u32,
    /// How the walk ended, an [`unwind::WalkEnd`].
    pub end: u32,
    /// Known frames that have not been passed.
    pub left: u32,
    /// In a run of frames that are what they were, how many were left at its first one; 0 outside of one.
    pub run: u32,
    /// A run begins only where fewer known frames than this are left: at this one, another one ended.
    pub run_below: u32,
    /// Known frames that the stack still has.
    pub kept: u32,
    /// Most frames to walk.
    pub limit: u32,
}

/// What the kernel side keeps of a thread's stack walks.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalkState {
    /// The thread's id; 0 for a slot that nobody uses.
    pub tid: u64,
    /// Frames of the stack of the record before; 0 for none.
    pub length: u32,
    /// The process's code when that was walked.
    pub space: u32,
    /// The copy of stack memory never crosses this address, where a copy failed before; 0 for none.
    pub barrier: u64,
    /// The walk now.
    pub progress: WalkProgress,
    /// What it found.
    pub fresh: FreshFrames,
    /// The stack of the record before.
    pub known: KnownFrames,
}

/// Copy of a piece of a thread's stack.
pub type Window = [u64; WINDOW_BYTES / 8];

/// Losses of one CPU, as the ring record of kind [`RecordKind::Loss`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LossRecord {
    /// [`RecordKind::Loss`].
    pub kind: u8,
    /// Reserved, 0.
    pub reserved: [u8; 3],
    /// The CPU.
    pub cpu: u32,
    /// The losses.
    pub loss: Loss,
}

/// The text of the thread's next marker, as the ring record of kind [`RecordKind::MarkerText`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextRecord {
    /// [`RecordKind::MarkerText`].
    pub kind: u8,
    /// Bytes of text; above [`MAX_TEXT_BYTES`] where there were more.
    pub length: u8,
    /// Reserved, 0.
    pub reserved: [u8; 2],
    /// Process id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// The text; what follows its length means nothing.
    pub text: [u8; MAX_TEXT_BYTES + 4],
}

/// Lost records.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Loss {
    /// Births lost.
    pub alloc_count: u64,
    /// Deaths lost.
    pub free_count: u64,
    /// Other records lost.
    pub other_count: u64,
    /// Time of the first one, `CLOCK_MONOTONIC` ns; 0 when there is none.
    pub first_ns: u64,
    /// Time of the last one.
    pub last_ns: u64,
}

/// What the kernel side keeps per CPU.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuState {
    /// Losses not yet told in a loss record.
    pub untold: Loss,
    /// All records lost.
    pub lost_count: u64,
    /// Threads that could not be followed (table full): their calls are lost.
    pub thread_failure_count: u64,
    /// Stops sent for back-pressure.
    pub stop_count: u64,
    /// Stack walks that were timed, one in [`TIMED_WALKS`].
    pub timed_walk_count: u64,
    /// Their time, ns.
    pub timed_walk_ns: u64,
}

/// Settings the collector gives the programs; the one row of the control map.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Control {
    /// 0: every program returns at once.
    pub armed: u32,
    /// Deepest stack walk, at most [`MAX_FRAMES`]; 0 takes the return address alone.
    pub max_frames: u32,
    /// Unread ring bytes above which the thread is stopped; 0 for never.
    pub stop_bytes: u64,
    /// Whether frees carry stacks.
    pub free_stacks: u32,
    /// Set by the programs once a record was lost: from then on each CPU tells its losses.
    pub lossy: u32,
    /// The fill of the ring is looked at when a thread's `record_count & check_mask` is 0. Each thread can overshoot by
    /// that many records; a small ring takes 0.
    pub check_mask: u32,
    /// One in this many records with a stack stops its thread, to have the stack checked; 0 for none.
    pub check_every: u32,
}

/// Why a program stopped its thread; the value in the map of stops.
pub const STOP_BACKPRESSURE: u32 = 1;
/// The dynamic linker reported a change of its link map.
pub const STOP_LINK_MAP: u32 = 2;
/// The thread's stack is to be checked by an independent unwinder.
pub const STOP_CHECK: u32 = 3;

const _: () = {
    assert!(size_of::<Descriptor>() == 32);
    assert!(size_of::<Pending>() == 48);
    assert!(size_of::<ThreadState>() == 96 + 48 * PENDING_DEPTH);
    assert!(offset_of!(ThreadState, pending) == 96);
    assert!(size_of::<Record>() == 56);
    assert!(size_of::<CompactRecord>() == 24);
    assert!(size_of::<WalkedRecord>() == 32);
    assert!(size_of::<Loss>() == 40);
    assert!(size_of::<LossRecord>() == 48);
    assert!(size_of::<TextRecord>() == 112);
    assert!(size_of::<FreshFrames>() == 56 + 28 * MAX_FRAMES);
    assert!(size_of::<KnownFrames>() == 32 * MAX_FRAMES);
    assert!(
        size_of::<WalkState>() == 24 + size_of::<WalkProgress>() + size_of::<FreshFrames>() + size_of::<KnownFrames>()
    );
    // With the head of its map in pages of one allocation.
    assert!(size_of::<WalkState>() < (32 << 10) - 1024);
    assert!(size_of::<CpuState>() == 80);
    assert!(size_of::<Control>() == 32);
};
