//! The table of allocator functions: which symbol names allocate, free or resize, and where their arguments are.
//! Responsible for names and meaning only; finding the symbols in files is `elf`, deciding which of them are probed in
//! a process is `target`, and where in a function a probe stands is `placement`.
//!
//! A symbol is a *prefix* and a *base name*: `_rjem_` + `mallocx`. Functions of one module that share a prefix are one
//! allocator; so are functions whose prefixes meet at one address (`malloc` and `tc_malloc` in gperftools).
//!
//! | prefix | allocator |
//! |---|---|
//! | (none) | whatever the module calls malloc: libc, an interposed or exported allocator |
//! | `__libc_` | glibc's and musl's own names for the same functions: counted as no prefix |
//! | `je_`, `_rjem_` | jemalloc, jemalloc in Rust programs |
//! | `mi_` | mimalloc |
//! | `tc_` | gperftools' tcmalloc |
//! | `scalable_` | oneTBB |
//! | `rp` | rpmalloc |
//!
//! Argument positions count from 0 in System V order (rdi, rsi, rdx, rcx, r8, r9).

/// What a call does to the heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// A new block; its result is the address, or a status with the address behind `out_pointer`.
    Alloc,
    /// A new block of `size * count` zero bytes.
    AllocZeroed,
    /// An old block (or NULL: then as `Alloc`) becomes a new one; on failure the old one lives on.
    Realloc,
    /// A block dies; NULL is nothing.
    Free,
}

/// What a function does and where its arguments are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Semantics {
    /// What it does.
    pub operation: Operation,
    /// Position of the size, in bytes (or in elements where `count` is set). `None` for frees: what a caller of a sized free
    /// claims is nobody's business, and would only narrow the choice of places for a probe.
    pub size: Option<u8>,
    /// Position of the factor the size is multiplied with.
    pub count: Option<u8>,
    /// Position of the alignment, in bytes.
    pub alignment: Option<u8>,
    /// Position of the old block.
    pub pointer: Option<u8>,
    /// Position of the address where the new block's address is stored on success; the result is then 0 on success.
    pub out_pointer: Option<u8>,
    /// Whether an exception can leave it: a return probe on it would kill a program that catches the exception.
    pub can_throw: bool,
    /// Whether it is a C++ operator: these usually call another entry point, and are worth a probe only in allocators that inline
    /// their fast path (see [`crate::placement::reach`]).
    pub is_operator: bool,
}

/// A recognised symbol name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recognised {
    /// Prefix as domains count it: `__libc_` is none.
    pub prefix: &'static str,
    /// What the function does.
    pub semantics: Semantics,
}

const fn semantics(operation: Operation) -> Semantics {
    Semantics {
        operation,
        size: None,
        count: None,
        alignment: None,
        pointer: None,
        out_pointer: None,
        can_throw: false,
        is_operator: false,
    }
}

impl Semantics {
    const fn size(mut self, position: u8) -> Self {
        self.size = Some(position);
        self
    }
    const fn count(mut self, position: u8) -> Self {
        self.count = Some(position);
        self
    }
    const fn alignment(mut self, position: u8) -> Self {
        self.alignment = Some(position);
        self
    }
    const fn pointer(mut self, position: u8) -> Self {
        self.pointer = Some(position);
        self
    }
    const fn out_pointer(mut self, position: u8) -> Self {
        self.out_pointer = Some(position);
        self
    }
    const fn throws(mut self) -> Self {
        self.can_throw = true;
        self
    }
    const fn operator(mut self) -> Self {
        self.is_operator = true;
        self
    }

    /// Positions of all arguments a probe must read, ascending, without duplicates.
    pub fn arguments(&self) -> Vec<u8> {
        let mut positions: Vec<u8> =
            [self.size, self.count, self.alignment, self.pointer, self.out_pointer].into_iter().flatten().collect();
        positions.sort_unstable();
        positions.dedup();
        positions
    }

    /// Whether the result matters (everything but frees).
    pub fn has_result(&self) -> bool {
        self.operation != Operation::Free
    }

    /// One meaning for two names at one address (`memalign` and `aligned_alloc` in glibc 2.36, folded operators): what both agree on.
    /// `None` where they contradict each other, so that neither may be believed.
    pub fn merged(self, other: Self) -> Option<Self> {
        let same_blocks = self.operation == other.operation
            && self.pointer == other.pointer
            && self.out_pointer == other.out_pointer
            && self.size == other.size
            && self.count == other.count;
        same_blocks.then(|| Self {
            alignment: if self.alignment == other.alignment { self.alignment } else { None },
            can_throw: self.can_throw || other.can_throw,
            is_operator: self.is_operator && other.is_operator,
            ..self
        })
    }
}

const ALLOC: Semantics = semantics(Operation::Alloc);
const ZEROED: Semantics = semantics(Operation::AllocZeroed);
const REALLOC: Semantics = semantics(Operation::Realloc);
const FREE: Semantics = semantics(Operation::Free);

/// Base names that occur behind any prefix.
const BASE_NAMES: &[(&str, Semantics)] = &[
    ("malloc", ALLOC.size(0)),
    ("calloc", ZEROED.count(0).size(1)),
    ("realloc", REALLOC.pointer(0).size(1)),
    ("reallocarray", REALLOC.pointer(0).count(1).size(2)),
    ("free", FREE.pointer(0)),
    ("cfree", FREE.pointer(0)),
    ("free_sized", FREE.pointer(0)),
    ("free_aligned_sized", FREE.pointer(0)),
    ("posix_memalign", ALLOC.out_pointer(0).alignment(1).size(2)),
    ("aligned_alloc", ALLOC.alignment(0).size(1)),
    ("memalign", ALLOC.alignment(0).size(1)),
    ("valloc", ALLOC.size(0)),
    ("pvalloc", ALLOC.size(0)),
    // jemalloc's own interface; alignment and zeroing are bits of `flags`, which nobody needs. rallocx leaves the old
    // block alone on failure, like realloc. xallocx (resize in place) is not a life or death of a block.
    ("mallocx", ALLOC.size(0)),
    ("rallocx", REALLOC.pointer(0).size(1)),
    ("dallocx", FREE.pointer(0)),
    ("sdallocx", FREE.pointer(0)),
];

/// Names that belong to one allocator only, in full, with their prefix.
const OWN_NAMES: &[(&str, &str, Semantics)] = &[
    ("mi_", "mi_zalloc", ZEROED.size(0)),
    ("mi_", "mi_malloc_small", ALLOC.size(0)),
    ("mi_", "mi_zalloc_small", ZEROED.size(0)),
    ("mi_", "mi_mallocn", ALLOC.count(0).size(1)),
    ("mi_", "mi_reallocn", REALLOC.pointer(0).count(1).size(2)),
    ("mi_", "mi_malloc_aligned", ALLOC.size(0).alignment(1)),
    ("mi_", "mi_zalloc_aligned", ZEROED.size(0).alignment(1)),
    ("mi_", "mi_calloc_aligned", ZEROED.count(0).size(1).alignment(2)),
    ("mi_", "mi_realloc_aligned", REALLOC.pointer(0).size(1).alignment(2)),
    ("mi_", "mi_rezalloc", REALLOC.pointer(0).size(1)),
    ("mi_", "mi_recalloc", REALLOC.pointer(0).count(1).size(2)),
    ("mi_", "mi_rezalloc_aligned", REALLOC.pointer(0).size(1).alignment(2)),
    ("mi_", "mi_free_size", FREE.pointer(0)),
    ("mi_", "mi_free_aligned", FREE.pointer(0)),
    ("mi_", "mi_free_size_aligned", FREE.pointer(0)),
    ("mi_", "mi_heap_malloc", ALLOC.size(1)),
    ("mi_", "mi_heap_malloc_small", ALLOC.size(1)),
    ("mi_", "mi_heap_zalloc", ZEROED.size(1)),
    ("mi_", "mi_heap_calloc", ZEROED.count(1).size(2)),
    ("mi_", "mi_heap_mallocn", ALLOC.count(1).size(2)),
    ("mi_", "mi_heap_realloc", REALLOC.pointer(1).size(2)),
    ("mi_", "mi_heap_malloc_aligned", ALLOC.size(1).alignment(2)),
    ("mi_", "mi_heap_zalloc_aligned", ZEROED.size(1).alignment(2)),
    ("mi_", "mi_heap_realloc_aligned", REALLOC.pointer(1).size(2).alignment(3)),
    ("mi_", "mi_new", ALLOC.size(0).throws()),
    ("mi_", "mi_new_aligned", ALLOC.size(0).alignment(1).throws()),
    ("mi_", "mi_new_nothrow", ALLOC.size(0)),
    ("mi_", "mi_new_aligned_nothrow", ALLOC.size(0).alignment(1)),
    ("mi_", "mi_new_n", ALLOC.count(0).size(1).throws()),
    ("mi_", "mi_new_realloc", REALLOC.pointer(0).size(1).throws()),
    ("tc_", "tc_new", ALLOC.size(0).throws().operator()),
    ("tc_", "tc_newarray", ALLOC.size(0).throws().operator()),
    ("tc_", "tc_new_nothrow", ALLOC.size(0).operator()),
    ("tc_", "tc_newarray_nothrow", ALLOC.size(0).operator()),
    ("tc_", "tc_new_aligned", ALLOC.size(0).alignment(1).throws().operator()),
    ("tc_", "tc_newarray_aligned", ALLOC.size(0).alignment(1).throws().operator()),
    ("tc_", "tc_new_aligned_nothrow", ALLOC.size(0).alignment(1).operator()),
    ("tc_", "tc_newarray_aligned_nothrow", ALLOC.size(0).alignment(1).operator()),
    ("tc_", "tc_delete", FREE.pointer(0).operator()),
    ("tc_", "tc_deletearray", FREE.pointer(0).operator()),
    ("tc_", "tc_delete_nothrow", FREE.pointer(0).operator()),
    ("tc_", "tc_deletearray_nothrow", FREE.pointer(0).operator()),
    ("tc_", "tc_delete_sized", FREE.pointer(0).operator()),
    ("tc_", "tc_deletearray_sized", FREE.pointer(0).operator()),
    ("tc_", "tc_delete_aligned", FREE.pointer(0).operator()),
    ("tc_", "tc_deletearray_aligned", FREE.pointer(0).operator()),
    ("tc_", "tc_delete_sized_aligned", FREE.pointer(0).operator()),
    ("tc_", "tc_deletearray_sized_aligned", FREE.pointer(0).operator()),
    ("scalable_", "scalable_aligned_malloc", ALLOC.size(0).alignment(1)),
    ("scalable_", "scalable_aligned_realloc", REALLOC.pointer(0).size(1).alignment(2)),
    ("scalable_", "scalable_aligned_free", FREE.pointer(0)),
    ("rp", "rpaligned_calloc", ZEROED.alignment(0).count(1).size(2)),
    ("rp", "rpaligned_realloc", REALLOC.pointer(0).alignment(1).size(2)),
];

/// Mangled C++ operators: what follows `_Zn`/`_Zd`. `w`/`l` is the single form, `a` the array form, handled alike.
const OPERATORS: &[(&str, Semantics)] = &[
    ("_Zn?m", ALLOC.size(0).throws().operator()),
    ("_Zn?mRKSt9nothrow_t", ALLOC.size(0).operator()),
    ("_Zn?mSt11align_val_t", ALLOC.size(0).alignment(1).throws().operator()),
    ("_Zn?mSt11align_val_tRKSt9nothrow_t", ALLOC.size(0).alignment(1).operator()),
    ("_Zd?Pv", FREE.pointer(0).operator()),
    ("_Zd?PvRKSt9nothrow_t", FREE.pointer(0).operator()),
    ("_Zd?Pvm", FREE.pointer(0).operator()),
    ("_Zd?PvSt11align_val_t", FREE.pointer(0).operator()),
    ("_Zd?PvSt11align_val_tRKSt9nothrow_t", FREE.pointer(0).operator()),
    ("_Zd?PvmSt11align_val_t", FREE.pointer(0).operator()),
];

/// Symbol prefixes, and the prefix a domain is called by.
const PREFIXES: &[(&str, &str)] = &[
    ("__libc_", ""),
    ("_rjem_", "_rjem_"),
    ("je_", "je_"),
    ("mi_", "mi_"),
    ("tc_", "tc_"),
    ("scalable_", "scalable_"),
    ("rp", "rp"),
];

/// The longest name in the tables is shorter than this; longer names need no look.
pub const LONGEST_NAME_BYTES: usize = 40;

/// What a symbol of this name does, if it is an allocator function's.
///
/// Called for every symbol of every module, hundreds of thousands of times: almost every name is turned away after its first
/// bytes.
pub fn recognise(name: &[u8]) -> Option<Recognised> {
    let plausible = name.len() < LONGEST_NAME_BYTES
        && match name {
            [b'_', b'Z', third, ..] => *third == b'n' || *third == b'd',
            [b'_', second, ..] => *second == b'_' || *second == b'r',
            [b'm' | b'c' | b'r' | b'f' | b'p' | b'a' | b'v' | b'd' | b's' | b'j' | b't', ..] => name.len() >= 4,
            _ => false,
        };
    if !plausible {
        return None;
    }
    if name.starts_with(b"_Z") {
        return recognise_operator(name);
    }
    if let Some(semantics) = base(name) {
        return Some(Recognised { prefix: "", semantics });
    }
    let (symbol_prefix, prefix) =
        PREFIXES.iter().find(|(symbol_prefix, _)| name.starts_with(symbol_prefix.as_bytes()))?;
    let semantics = base(&name[symbol_prefix.len()..])
        .or_else(|| OWN_NAMES.iter().find(|(_, own, _)| own.as_bytes() == name).map(|(_, _, semantics)| *semantics))?;
    Some(Recognised { prefix, semantics })
}

fn base(name: &[u8]) -> Option<Semantics> {
    BASE_NAMES.iter().find(|(base, _)| base.as_bytes() == name).map(|(_, semantics)| *semantics)
}

fn recognise_operator(name: &[u8]) -> Option<Recognised> {
    let form = *name.get(3)?;
    let is_single = form == if name[2] == b'n' { b'w' } else { b'l' };
    if !is_single && form != b'a' {
        return None;
    }
    let (_, semantics) = OPERATORS.iter().find(|(pattern, _)| {
        let pattern = pattern.as_bytes();
        pattern.len() == name.len() && pattern[..3] == name[..3] && pattern[4..] == name[4..]
    })?;
    Some(Recognised { prefix: "", semantics: *semantics })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Option<(&'static str, Semantics)> {
        recognise(name.as_bytes()).map(|found| (found.prefix, found.semantics))
    }

    fn reallocarray_arguments() -> Vec<u8> {
        of("reallocarray").unwrap().1.arguments()
    }

    #[test]
    fn positions_follow_the_c_prototypes() {
        // int posix_memalign(void **memptr, size_t alignment, size_t size)
        let (_, posix) = of("posix_memalign").unwrap();
        assert_eq!((posix.out_pointer, posix.alignment, posix.size), (Some(0), Some(1), Some(2)));
        // void *reallocarray(void *ptr, size_t nmemb, size_t size)
        let (_, array) = of("reallocarray").unwrap();
        assert_eq!((array.pointer, array.count, array.size), (Some(0), Some(1), Some(2)));
        // void *_rjem_rallocx(void *ptr, size_t size, int flags)
        assert_eq!(of("_rjem_rallocx").unwrap(), ("_rjem_", REALLOC.pointer(0).size(1)));
        // void operator delete[](void *, std::size_t, std::align_val_t): the pointer is all that matters
        assert_eq!(of("_ZdaPvmSt11align_val_t").unwrap().1.arguments(), [0]);
        assert_eq!(reallocarray_arguments(), [0, 1, 2]);
        assert!(of("_Znwm").unwrap().1.can_throw && !of("_ZnamRKSt9nothrow_t").unwrap().1.can_throw);
    }

    #[test]
    fn every_table_entry_is_reachable_and_short_enough() {
        for (name, semantics) in BASE_NAMES {
            assert_eq!(of(name), Some(("", *semantics)), "{name}");
            for (symbol_prefix, prefix) in PREFIXES {
                assert_eq!(of(&format!("{symbol_prefix}{name}")), Some((*prefix, *semantics)), "{symbol_prefix}{name}");
            }
        }
        for (prefix, name, semantics) in OWN_NAMES {
            assert_eq!(of(name), Some((*prefix, *semantics)), "{name}");
        }
        for (pattern, semantics) in OPERATORS {
            let single = if pattern.starts_with("_Zn") { "w" } else { "l" };
            for form in [single, "a"] {
                assert_eq!(of(&pattern.replace('?', form)), Some(("", *semantics)), "{pattern}");
            }
        }
    }

    #[test]
    fn names_that_only_resemble_are_not_taken() {
        for name in [
            "",
            "m",
            "mallo",
            "mallocs",
            "malloc_usable_size",
            "__malloc",
            "__minimal_malloc",
            "__rtld_malloc",
            "xmalloc",
            "freelocale",
            "_Znwj",
            "_Zdlm",
            "_Znlm",
            "_ZdwPv",
            "_ZnwmPv",
            "free_default",
            "je_",
            "rp",
            "mi_collect",
            "_ZN4llvm3fooEv",
            "regfree",
        ] {
            assert_eq!(of(name), None, "{name}");
        }
    }

    #[test]
    fn aliases_merge_to_what_they_agree_on() {
        let memalign = of("memalign").unwrap().1;
        assert_eq!(memalign.merged(of("aligned_alloc").unwrap().1), Some(memalign));
        let free = of("free").unwrap().1;
        assert_eq!(
            free.merged(of("_ZdlPvm").unwrap().1),
            Some(free),
            "plain, though one of its names is an operator's"
        );
        let aligned = of("mi_malloc_aligned").unwrap().1;
        assert_eq!(
            of("malloc").unwrap().1.merged(aligned),
            of("malloc").map(|(_, malloc)| malloc),
            "an alignment only one knows of"
        );
        assert!(of("malloc").unwrap().1.merged(of("_Znwm").unwrap().1).unwrap().can_throw);
        assert_eq!(of("malloc").unwrap().1.merged(free), None);
        assert_eq!(of("malloc").unwrap().1.merged(memalign), None, "the size is in another register");
    }
}
