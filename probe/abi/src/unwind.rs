//! How the kernel side learns to unwind: what lies in a module's table, in a process's list of mappings, and what a walk
//! can end with. Responsible for layout and encoding alone.
//!
//! **A module's table** is an array of 64-bit words, made from `.eh_frame` in terms of the file's virtual addresses:
//!
//! ```text
//!   word 0                     first page (low 32 bits) · number of pages P (high 32 bits)
//!   word 1                     first wide rule in RULES (low, filled in when the table is loaded) · number of rows (high)
//!   words 2 .. 2+P             per page of 256 bytes: index of its first row (low) · number of its rows (high)
//!   words 2+P ..               rows, two to a word, the lower half first, ascending by address over the whole table
//! ```
//!
//! The rule in force at an address is that of the last row at or before it: in the address's page, or else the row before
//! the page's first one (a page without rows has the index of the next row). Before the first row there is none.
//!
//! **A row** has 32 bits, and with its low 8 bits away it is a *rule*:
//!
//! ```text
//!   31        24 23                  10 9     8 7            0
//!  ┌────────────┬──────────────────────┬───────┬──────────────┐
//!  │ rbp slot   │ CFA offset / 8       │ kind  │ address      │
//!  └────────────┴──────────────────────┴───────┴──────────────┘
//!   kind 0   CFA = rsp + 8 × offset    ┐ return address at CFA - 8; rbp unchanged if its slot is 0,
//!   kind 1   CFA = rbp + 8 × offset    ┘ else saved at CFA - 8 × slot
//!   kind 2   special: the offset field is one of the `SPECIAL_*` codes
//!   kind 3   wide: slot and offset together (22 bits) are the index of a `WideRule`
//! ```

/// Bytes per page of a table's index, as a shift.
pub const PAGE_SHIFT: u32 = 8;
/// Words before the pages.
pub const HEADER_WORDS: u32 = 2;
/// Most rows of one page.
pub const MAX_PAGE_ROWS: u32 = 1 << PAGE_SHIFT;

/// The CFA is `rsp` plus the offset.
pub const KIND_RSP: u32 = 0;
/// The CFA is `rbp` plus the offset.
pub const KIND_RBP: u32 = 1;
/// One of the `SPECIAL_*` codes.
pub const KIND_SPECIAL: u32 = 2;
/// A [`WideRule`].
pub const KIND_WIDE: u32 = 3;

/// No unwind information covers the address.
pub const SPECIAL_NONE: u32 = 0;
/// The return address is undefined: the outermost frame of a thread.
pub const SPECIAL_ROOT: u32 = 1;
/// There is a rule, but none that a table can express.
pub const SPECIAL_UNSUPPORTED: u32 = 2;
/// The kernel's signal frame: `rsp` names a `ucontext`, which holds all registers of what was interrupted.
pub const SPECIAL_SIGNAL: u32 = 3;
/// An entry of a procedure linkage table: CFA = rsp + 8 + (rip mod 16 >= 11 ? 8 : 0).
pub const SPECIAL_PLT: u32 = 4;

/// Largest CFA offset of a row, in 8-byte words.
pub const MAX_CFA_WORDS: u32 = (1 << 14) - 1;
/// Largest rbp slot of a row.
pub const MAX_RBP_SLOT: u32 = (1 << 8) - 1;
/// Most wide rules of all modules together.
pub const MAX_WIDE_RULES: u32 = 1 << 16;

/// Offset of rbp in the kernel's `ucontext` for x86-64, bytes.
pub const UCONTEXT_RBP: u64 = 120;
/// Offset of rsp.
pub const UCONTEXT_RSP: u64 = 160;
/// Offset of rip.
pub const UCONTEXT_RIP: u64 = 168;

/// A rule: a row without its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Rule(pub u32);

impl Rule {
    /// CFA = base + 8 × `cfa_words`; rbp saved at CFA - 8 × `rbp_slot`, or unchanged (0).
    #[must_use]
    #[inline(always)]
    pub const fn plain(kind: u32, cfa_words: u32, rbp_slot: u32) -> Self {
        Self(kind | cfa_words << 2 | rbp_slot << 16)
    }

    /// One of the `SPECIAL_*` codes.
    #[must_use]
    #[inline(always)]
    pub const fn special(code: u32) -> Self {
        Self(KIND_SPECIAL | code << 2)
    }

    /// The wide rule at an index.
    #[must_use]
    #[inline(always)]
    pub const fn wide(index: u32) -> Self {
        Self(KIND_WIDE | index << 2)
    }

    /// One of the `KIND_*`.
    #[must_use]
    #[inline(always)]
    pub const fn kind(self) -> u32 {
        self.0 & 3
    }

    /// Distance of the CFA from its base, in 8-byte words; the code of a special rule.
    #[must_use]
    #[inline(always)]
    pub const fn cfa_words(self) -> u32 {
        self.0 >> 2 & MAX_CFA_WORDS
    }

    /// Where rbp is saved below the CFA, in 8-byte words; 0 where it is unchanged.
    #[must_use]
    #[inline(always)]
    pub const fn rbp_slot(self) -> u32 {
        self.0 >> 16 & MAX_RBP_SLOT
    }

    /// Index of a wide rule.
    #[must_use]
    #[inline(always)]
    pub const fn wide_index(self) -> u32 {
        self.0 >> 2
    }

    /// The row that puts this rule in force from an address on.
    #[must_use]
    #[inline(always)]
    pub const fn at(self, address: u64) -> u32 {
        self.0 << 8 | (address & 0xff) as u32
    }

    /// The rule of a row.
    #[must_use]
    #[inline(always)]
    pub const fn of_row(row: u32) -> Self {
        Self(row >> 8)
    }
}

/// What a wide rule's CFA or rbp is computed from.
pub const BASE_RSP: u8 = 0;
/// From rbp.
pub const BASE_RBP: u8 = 1;
/// From the CFA (rbp only).
pub const BASE_CFA: u8 = 2;
/// rbp is unchanged (rbp only).
pub const BASE_SAME: u8 = 3;

/// A rule that does not fit a row. Offsets are bytes.
///
/// ```text
///   a   = base + cfa_offset
///   CFA = cfa_deref ? [a] + cfa_add : a                return address at CFA - 8
///   rbp = rbp_base is SAME ? rbp : [rbp_base + rbp_offset]
/// ```
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct WideRule {
    /// `BASE_RSP` or `BASE_RBP`.
    pub cfa_base: u8,
    /// Whether the CFA is read from memory.
    pub cfa_deref: u8,
    /// Any `BASE_*`.
    pub rbp_base: u8,
    /// Reserved, 0.
    pub reserved: u8,
    /// See above.
    pub cfa_offset: i32,
    /// See above.
    pub cfa_add: i32,
    /// See above.
    pub rbp_offset: i32,
}

/// Most executable mappings of one process.
pub const MAX_MAPPINGS: usize = 512;
/// Most modules with tables.
pub const MAX_TABLES: u32 = 1 << 12;
/// The code of a mapping has no table.
pub const NO_TABLE: u32 = u32::MAX;

/// Executable memory of a process.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Address less this is the file's virtual address.
    pub bias: u64,
    /// Index of the table, or [`NO_TABLE`].
    pub table: u32,
    /// Reserved, 0.
    pub reserved: u32,
}

/// The code of an address space at one time; never changes, is replaced by one with another number.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Mappings in use.
    pub count: u32,
    /// Reserved, 0.
    pub reserved: u32,
    /// The mappings, ascending by address.
    pub mappings: [Mapping; MAX_MAPPINGS],
}

/// How a walk ended; the discriminants are the ABI.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WalkEnd {
    /// At the root: a return address that is undefined, or 0.
    Root = 0,
    /// At the depth limit.
    TooDeep = 1,
    /// At memory that could not be read.
    Unreadable = 2,
    /// No walk was made: only the return address of the call is known.
    NotTaken = 3,
    /// At code that no unwind information covers.
    NoRule = 4,
    /// At code that belongs to no mapped file (generated at run time, or mapped since).
    UnknownCode = 5,
    /// At a rule that a table cannot express.
    Unsupported = 6,
    /// At a return probe that somebody else placed.
    ForeignProbe = 7,
    /// No memory for the walk: too many threads at once.
    NoRoom = 8,
}

const _: () = {
    assert!(size_of::<WideRule>() == 16);
    assert!(size_of::<Mapping>() == 32);
    assert!(size_of::<Space>() == 8 + 32 * MAX_MAPPINGS);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_gives_back_what_went_in() {
        for (kind, words, slot) in [(KIND_RSP, 1, 0), (KIND_RBP, 2, 2), (KIND_RSP, MAX_CFA_WORDS, MAX_RBP_SLOT)] {
            let row = Rule::plain(kind, words, slot).at(0x1234_5678);
            let rule = Rule::of_row(row);
            assert_eq!((row & 0xff, rule.kind(), rule.cfa_words(), rule.rbp_slot()), (0x78, kind, words, slot));
        }
        let wide = Rule::of_row(Rule::wide((1 << 22) - 1).at(0xff));
        assert_eq!((wide.kind(), wide.wide_index()), (KIND_WIDE, (1 << 22) - 1));
        let special = Rule::of_row(Rule::special(SPECIAL_PLT).at(0));
        assert_eq!((special.kind(), special.cfa_words()), (KIND_SPECIAL, SPECIAL_PLT));
    }
}
