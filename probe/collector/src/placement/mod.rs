//! Decides at which instruction of a function a probe stands. Responsible for reading machine code; knows nothing of files,
//! processes or BPF.
//!
//! # Why not simply the first instruction
//!
//! The kernel replaces the probed instruction by a breakpoint. After the probe's programs ran, it *emulates* the replaced
//! instruction where it knows how (one trap per hit, about 500 ns), and single-steps a copy of everything else (a second
//! trap, 17 to 37 µs in a virtual machine). The emulated ones are few ([`KernelRules`]), but one of them is nearly
//! always near the entry. A probe may stand there instead if nothing it reads has changed on the way:
//!
//! ```text
//!  free:  test rdi, rdi      rdi = pointer, rsp = E        single-stepped
//!         je   <return>      rdi = pointer, rsp = E        emulated, but sees free(NULL) too
//!         push rbp           rdi = pointer, rsp = E        emulated, never sees NULL     ◀── chosen
//!         lea  rsi,[rdi-16]  rdi = pointer, rsp = E - 8
//!         …
//! ```
//!
//! # What must hold at the chosen instruction
//!
//! 1. *Every call passes it, once.* It lies in the straight line from the entry, before any branch is taken: no
//!    conditional branch lies between (the branch itself may be probed), and no branch of the function, or of the cold fragments it
//!    jumps to, leads into the line. One exception: after `test p,p` + `je` on a freed pointer the line goes on at the side where
//!    it is not NULL, since freeing NULL is nothing.
//! 2. *Every argument is known.* A walk keeps, per argument, the registers and stack slots that hold it
//!    (`arguments.rs`): at the entry the System V register; `mov r, r'` and `push r` copy; every other write kills.
//! 3. *The return address is known:* `[rsp + stack_adjust_bytes]`, from counting pushes. A return probe needs more: the kernel
//!    replaces the word at `[rsp]` when the breakpoint is hit, *before* the instruction is emulated or stepped. So at a return
//!    probe's entry `rsp` must still be what it was at the function's first instruction: it may stand *on* the first push,
//!    not behind it.
//! 4. *The kernel accepts it* ([`KernelRules`]).
//!
//! Emulation of `push`, `call` and taken branches happens after the programs ran, with the registers they saw; it changes `rsp` and
//! `rip` just as the instruction would have. Nothing else differs for the program or for us.
//!
//! If no instruction is emulated, the first acceptable one of the line is used and the placement says so.

mod arguments;
mod branches;
mod exits;
mod kernel;
mod walk;

use std::fmt;

use crate::allocators::{Operation, Semantics};

pub use arguments::{ArgLocation, ArgRegister};
pub(crate) use branches::mentioned_addresses;
pub use exits::{ExitError, Reach, reach, ret_exits, thunk_target};
pub use kernel::{KernelRules, Treatment};
pub use walk::{place, place_at};

/// Longest stretch of one function that is looked at.
pub(crate) const MAX_FUNCTION_BYTES: usize = 64 << 10;
/// Length taken for functions whose symbol tells none.
pub(crate) const DEFAULT_FUNCTION_BYTES: usize = 4 << 10;

/// Machine code by link-time address.
pub trait CodeSource {
    /// Up to `size_bytes` bytes of code at `vaddr`; fewer where code ends, none where there is none.
    fn code_at(&self, vaddr: u64, size_bytes: usize) -> Vec<u8>;

    /// Past the end of the function that `vaddr` lies in, where that is known.
    fn function_end(&self, vaddr: u64) -> Option<u64>;

    /// The function of the same file whose address the dynamic linker puts into the slot at `vaddr`, where that is known.
    fn slot_target(&self, vaddr: u64) -> Option<u64>;
}

/// Code in memory, for one function and what surrounds it.
#[derive(Debug, Clone)]
pub struct CodeSlice<'a> {
    /// Address of the first byte.
    pub vaddr: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

impl CodeSource for CodeSlice<'_> {
    fn code_at(&self, vaddr: u64, size_bytes: usize) -> Vec<u8> {
        let start = vaddr.checked_sub(self.vaddr).and_then(|distance| usize::try_from(distance).ok());
        let rest = start.and_then(|start| self.bytes.get(start..)).unwrap_or_default();
        rest[..size_bytes.min(rest.len())].to_vec()
    }

    fn function_end(&self, _vaddr: u64) -> Option<u64> {
        None
    }

    fn slot_target(&self, _vaddr: u64) -> Option<u64> {
        None
    }
}

/// A function to place a probe in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Function {
    /// Its first instruction.
    pub vaddr: u64,
    /// Its size, 0 where unknown.
    pub size_bytes: u64,
}

impl Function {
    /// Bytes to look at: what its symbol says, else up to the next function.
    pub(crate) fn extent_bytes(&self, code: &dyn CodeSource) -> usize {
        let size_bytes = match self.size_bytes {
            0 => code.function_end(self.vaddr).map(|end| end.saturating_sub(self.vaddr)),
            size => Some(size),
        };
        size_bytes.map_or(DEFAULT_FUNCTION_BYTES, |size| size.min(MAX_FUNCTION_BYTES as u64) as usize)
    }
}

/// What a probe must find at its instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Positions of the arguments it reads (0 = rdi … 5 = r9).
    pub arguments: Vec<u8>,
    /// Whether a return probe will be put there.
    pub return_probe: bool,
    /// Argument whose NULL need not be seen.
    pub ignore_null: Option<u8>,
}

impl Need {
    /// What the entry probe of an allocator function needs. Functions an exception can leave get no return probe.
    pub fn of(semantics: &Semantics) -> Self {
        let is_free = semantics.operation == Operation::Free;
        Self {
            arguments: semantics.arguments(),
            return_probe: semantics.has_result() && !semantics.can_throw,
            ignore_null: if is_free { semantics.pointer } else { None },
        }
    }
}

/// A place for a probe, and what is known there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Bytes from the function's first instruction to the probed one.
    pub offset: u32,
    /// The probed instruction, in Intel syntax.
    pub instruction: String,
    /// Whether the kernel emulates it (cheap) or single-steps it (dear).
    pub emulated: bool,
    /// Where the arguments are, in the order of [`Need::arguments`].
    pub arguments: Vec<ArgLocation>,
    /// Where the caller's rbp is; `None` where the function has changed it without keeping it.
    pub caller_rbp: Option<ArgLocation>,
    /// The return address is at `rsp +` this: what the function pushed before the probe.
    pub stack_adjust_bytes: u32,
    /// Whether a call with NULL in [`Need::ignore_null`] passes the probe.
    pub sees_null: bool,
    /// A branch of the function leads back to its entry: a call can hit the probe more than once, with the same stack pointer.
    pub re_entered: bool,
    /// Why here, in words.
    pub reason: String,
}

/// Why no probe can stand in a function.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// There is no code at its address.
    #[error("no code at {vaddr:#x}")]
    NoCode {
        /// The function.
        vaddr: u64,
    },
    /// The first instruction cannot be decoded.
    #[error("the bytes at {vaddr:#x} are no instruction")]
    NotAnInstruction {
        /// The function.
        vaddr: u64,
    },
    /// An argument is passed on the stack, where none of the supported functions has one.
    #[error("argument {position} is not passed in a register")]
    NotInRegister {
        /// The position.
        position: u8,
    },
    /// The kernel would refuse every instruction before the line ends.
    #[error(
        "the kernel accepts a probe on none of the first {count} instructions ({refusal}); the line ends because {end}"
    )]
    Refused {
        /// Instructions looked at.
        count: usize,
        /// Why it refuses the first.
        refusal: &'static str,
        /// Why no further instruction can be used.
        end: LineEnd,
    },
}

/// Why the line of usable instructions ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineEnd {
    /// A branch leads to the next instruction.
    BranchTarget,
    /// The next instruction is after a branch, call or return.
    ControlFlow,
    /// An argument is overwritten.
    ArgumentLost(u8),
    /// The stack pointer moved, and a return probe cannot stand behind that.
    StackPointerMoved,
    /// The stack pointer is set to something that cannot be followed.
    StackPointerLost,
    /// The function, or what can be decoded of it, ends.
    CodeEnds,
}

impl fmt::Display for LineEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BranchTarget => f.write_str("a branch leads to the next instruction"),
            Self::ControlFlow => f.write_str("control flow divides"),
            Self::ArgumentLost(position) => write!(f, "argument {position} is overwritten"),
            Self::StackPointerMoved => f.write_str("the stack pointer moves, behind which no return probe can stand"),
            Self::StackPointerLost => f.write_str("the stack pointer can no longer be followed"),
            Self::CodeEnds => f.write_str("the code ends"),
        }
    }
}
