//! The allocators of one file, with the place of every probe. Responsible for what depends on the file alone, so that it is
//! worked out once however many processes map it: which functions make one allocator, which operators are mere shells, where probes
//! stand. Where the file is mapped and what IFUNCs resolved to is `discovery`.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use crate::allocators::{Operation, Semantics};
use crate::elf::{AllocatorFunction, ElfCode, ElfImage, Linkage};
use crate::placement::{
    CodeSource, ExitError, Function, KernelRules, Need, Placement, PlacementError, Reach, place, reach, ret_exits,
    thunk_target,
};

/// How the result of a call is learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResultSource {
    /// There is none (frees).
    None,
    /// By a return probe.
    ReturnProbe,
    /// By entry probes on these `ret` instructions (`vaddr`s), since an exception can leave the function.
    Exits(Vec<u64>),
    /// Not at all: an exception can leave the function, and its ends cannot all be found. It must not be probed.
    Unknown(ExitError),
}

/// An allocator function and its probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFunction {
    /// Link-time address of its first instruction; for an IFUNC that of the chosen implementation.
    pub vaddr: u64,
    /// Size of its code, 0 where unknown.
    pub size_bytes: u64,
    /// Its names, the one to show first.
    pub names: Vec<String>,
    /// Whether another module can bind to it.
    pub exported: bool,
    /// What it does.
    pub semantics: Semantics,
    /// Where its entry probe stands, or why there is none.
    pub entry: Result<Placement, PlacementError>,
    /// How its result is learned.
    pub result: ResultSource,
}

impl PlannedFunction {
    /// The name to show.
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// Link-time address of the probed instruction.
    pub fn probe_vaddr(&self) -> Option<u64> {
        self.entry.as_ref().ok().map(|placement| self.vaddr.wrapping_add(placement.offset.into()))
    }

    /// The implementations of an IFUNC; where none is bound yet, all that its resolver can choose. With a contradiction in its names,
    /// or with no candidate, there are none.
    pub(crate) fn implementations(
        code: &ElfCode<'_>,
        image: &ElfImage,
        rules: KernelRules,
        ifunc: &AllocatorFunction,
        mut bound: Vec<u64>,
    ) -> Vec<Self> {
        let Some(semantics) = ifunc.semantics else { return Vec::new() };
        if bound.is_empty() {
            let resolver = Function { vaddr: ifunc.vaddr, size_bytes: ifunc.size_bytes };
            bound = ifunc_candidates(code, image, resolver);
        }
        let function = |vaddr| Function { vaddr, size_bytes: code.function_size(vaddr) };
        bound.into_iter().map(|vaddr| Self::plan(code, rules, ifunc, semantics, function(vaddr))).collect()
    }

    fn plan(
        code: &ElfCode<'_>,
        rules: KernelRules,
        function: &AllocatorFunction,
        semantics: Semantics,
        at: Function,
    ) -> Self {
        let result = if !semantics.has_result() {
            ResultSource::None
        } else if semantics.can_throw {
            ret_exits(code, at).map_or_else(ResultSource::Unknown, ResultSource::Exits)
        } else {
            ResultSource::ReturnProbe
        };
        Self {
            vaddr: at.vaddr,
            size_bytes: at.size_bytes,
            names: function.names.iter().map(|name| name.name.clone()).collect(),
            exported: function.names.iter().any(|name| name.exported),
            semantics,
            entry: place(code, at, &Need::of(&semantics), rules),
            result,
        }
    }
}

/// Where no implementation of an IFUNC is found.
pub(crate) const UNKNOWN_IMPLEMENTATION: &str = "which implementation the program uses (IFUNC) is not known yet";

/// A function that is not probed, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Its symbol.
    pub name: String,
    /// In words.
    pub reason: String,
}

/// One allocator of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedAllocator {
    /// What its symbols start with; empty for the plain names.
    pub prefix: &'static str,
    /// Its functions, ascending.
    pub functions: Vec<PlannedFunction>,
    /// Functions whose implementation is chosen at run time.
    pub ifuncs: Vec<AllocatorFunction>,
    /// Functions that are not probed.
    pub left_out: Vec<LeftOut>,
    /// Link-time addresses of its own code, from its first function to past its last, where it is the program's own and
    /// shares its module with the program's ordinary callers; `None` where all of the module is taken for its own.
    pub own_code: Option<Range<u64>>,
}

/// Finds the allocators of a file, and the functions that make none. A prefix makes an allocator if it both allocates and frees; a lone
/// `free` is somebody's own function. The `malloc` of older glibc's `ld.so` is not counted: it serves the linker only, until libc's
/// takes over.
pub(super) fn allocators(image: &ElfImage, file: &File, rules: KernelRules) -> (Vec<PlannedAllocator>, Vec<LeftOut>) {
    let left_out = |function: &AllocatorFunction, reason: &str| LeftOut {
        name: function.name().to_owned(),
        reason: reason.to_owned(),
    };
    let is_glibc_linker = image.landmarks.rtld_global.is_some() && image.linkage == Linkage::SharedObject;
    if is_glibc_linker {
        let all = image.functions.iter().map(|function| left_out(function, "it serves the dynamic linker only"));
        return (Vec::new(), all.collect());
    }
    let code = image.code(file);
    let (mut allocators, mut others) = (Vec::new(), Vec::new());
    for (prefix, functions) in group_by_allocator(&image.functions) {
        match plan(&code, rules, prefix, &functions, image, file) {
            Some(allocator) => allocators.push(allocator),
            None => others.extend(functions.into_iter().map(|function| left_out(function, no_allocator(function)))),
        }
    }
    allocators.sort_by_key(|allocator| allocator.prefix);
    (allocators, others)
}

/// Why a function without an allocator around it is not probed.
fn no_allocator(function: &AllocatorFunction) -> &'static str {
    if function.semantics.is_some_and(|meaning| meaning.is_operator) {
        "an operator on another file's allocator"
    } else {
        "a lone function: the file does not both allocate and free by such names"
    }
}

/// Functions by prefix; prefixes that meet at one address are one allocator, called by the shorter prefix.
fn group_by_allocator(functions: &[AllocatorFunction]) -> Vec<(&'static str, Vec<&AllocatorFunction>)> {
    let mut groups: Vec<(BTreeSet<&'static str>, Vec<&AllocatorFunction>)> = Vec::new();
    for function in functions {
        let mut prefixes: BTreeSet<_> = function.names.iter().map(|name| name.prefix).collect();
        let mut members = vec![function];
        let mut index = 0;
        while index < groups.len() {
            if groups[index].0.is_disjoint(&prefixes) {
                index += 1;
            } else {
                let (other_prefixes, other_members) = groups.swap_remove(index);
                prefixes.extend(other_prefixes);
                members.extend(other_members);
                index = 0;
            }
        }
        groups.push((prefixes, members));
    }
    let named = groups.into_iter().map(|(prefixes, mut members)| {
        members.sort_by_key(|function| function.vaddr);
        (prefixes.into_iter().min_by_key(|prefix| prefix.len()).unwrap_or_default(), members)
    });
    named.collect()
}

fn plan(
    code: &ElfCode<'_>,
    rules: KernelRules,
    prefix: &'static str,
    functions: &[&AllocatorFunction],
    image: &ElfImage,
    file: &File,
) -> Option<PlannedAllocator> {
    let plain = || functions.iter().filter_map(|function| function.semantics.filter(|meaning| !meaning.is_operator));
    let allocates = plain().any(|meaning| matches!(meaning.operation, Operation::Alloc | Operation::AllocZeroed));
    let frees = plain().any(|meaning| meaning.operation == Operation::Free);
    if !allocates || !frees {
        return None;
    }
    let is_programs_own =
        image.linkage != Linkage::SharedObject && !functions.iter().any(|function| is_known(function));
    // The C allocators that are known throw nothing; what a program defines for itself may.
    let may_throw = is_programs_own && raises_exceptions(file);
    let own_code = is_programs_own.then(|| {
        let start = functions.iter().map(|function| function.vaddr).min().unwrap_or_default();
        let end = functions.iter().map(|function| function.vaddr.saturating_add(function.size_bytes)).max();
        start..end.unwrap_or_default()
    });
    let mut allocator =
        PlannedAllocator { prefix, functions: Vec::new(), ifuncs: Vec::new(), left_out: Vec::new(), own_code };
    for function in functions {
        let mut leave_out = |reason: String| {
            allocator.left_out.push(LeftOut { name: function.name().to_owned(), reason });
        };
        let at = Function { vaddr: function.vaddr, size_bytes: function.size_bytes };
        match function.semantics {
            None => {
                leave_out("its names contradict each other: the linker folded different functions into one".to_owned());
            }
            Some(_) if function.is_ifunc => allocator.ifuncs.push((*function).clone()),
            Some(meaning) => match stands_for(code, at, meaning, functions) {
                Some(inner) => leave_out(inner),
                None => {
                    let meaning = Semantics { can_throw: meaning.can_throw || may_throw, ..meaning };
                    allocator.functions.push(PlannedFunction::plan(code, rules, function, meaning, at));
                }
            },
        }
    }
    Some(allocator)
}

/// Whether a function's names are those of a widely used allocator.
fn is_known(function: &AllocatorFunction) -> bool {
    const NAMES: [&str; 3] = ["__libc_malloc", "__libc_free", "mallocx"];
    const PREFIXES: [&str; 6] = ["je_", "_rjem_", "mi_", "tc_", "scalable_", "rp"];
    function
        .names
        .iter()
        .any(|name| NAMES.contains(&name.name.as_str()) || PREFIXES.iter().any(|prefix| name.name.starts_with(prefix)))
}

/// Whether a file names the functions that raise exceptions.
fn raises_exceptions(file: &File) -> bool {
    const LARGEST_BYTES: u64 = 1 << 30;
    let size_bytes = file.metadata().map_or(0, |metadata| metadata.len());
    if size_bytes > LARGEST_BYTES {
        return true;
    }
    let mut bytes = vec![0; size_bytes as usize];
    if file.read_exact_at(&mut bytes, 0).is_err() {
        return true;
    }
    [&b"__cxa_throw"[..], b"_Unwind_RaiseException"]
        .iter()
        .any(|name| bytes.windows(name.len()).any(|window| window == *name))
}

/// If every call of a function becomes a call of another one that is probed: which, in words. Then it needs no probe, and a free must
/// not have one: where a free jumps to another, nothing at that probe tells that it is the same call.
///
/// Requested sizes are those of the outermost call, so an allocating function must hand its arguments on unchanged (`operator new[]`
/// jumping to `operator new`). C++ operators are let go if they only wrap `malloc`, as everywhere where libstdc++ has them.
fn stands_for(
    code: &ElfCode<'_>,
    at: Function,
    meaning: Semantics,
    functions: &[&AllocatorFunction],
) -> Option<String> {
    let others = || {
        functions.iter().filter_map(|other| {
            let other_meaning = other.semantics.filter(|_| other.vaddr != at.vaddr && !other.is_ifunc)?;
            (other_meaning.operation == meaning.operation).then_some((other, other_meaning))
        })
    };
    let target = thunk_target(code, at, &meaning.arguments());
    let same = |other: &Semantics| {
        Semantics { can_throw: meaning.can_throw, is_operator: meaning.is_operator, ..*other } == meaning
    };
    if let Some((other, _)) = others().find(|(other, other_meaning)| Some(other.vaddr) == target && same(other_meaning))
    {
        return Some(format!("every call of it goes on as a call of {}", other.name()));
    }
    let is_free = meaning.operation == Operation::Free;
    if !is_free && !meaning.is_operator {
        return None;
    }
    let is_inner = |vaddr: u64| others().any(|(other, _)| other.vaddr == vaddr);
    let ignore_null = if is_free { meaning.pointer } else { None };
    (reach(code, at, ignore_null, &is_inner) == Reach::Always)
        .then(|| "every call of it that matters calls another function of the same allocator".to_owned())
}

/// Addresses of code that an IFUNC resolver can return, from the addresses it mentions: used while no slot is bound yet.
/// More than the right one may come out; each is an implementation of the same function.
fn ifunc_candidates(code: &ElfCode<'_>, image: &ElfImage, resolver: Function) -> Vec<u64> {
    let is_code = |vaddr: &u64| {
        let executable = image.segments.iter().any(|segment| segment.executable && segment.holds(*vaddr));
        executable && !image.is_plt(*vaddr) && *vaddr != resolver.vaddr
    };
    let bytes = code.code_at(resolver.vaddr, resolver.extent_bytes(code).min(1024));
    let mut candidates: Vec<u64> =
        crate::placement::mentioned_addresses(code, resolver.vaddr, &bytes).into_iter().filter(is_code).collect();
    candidates.sort_unstable();
    candidates.dedup();
    candidates
}
