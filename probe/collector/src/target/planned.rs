//! The allocators of one file, with the place of every probe. Responsible for what depends on the file alone, so that it is
//! worked out once however many processes map it: which functions make one allocator, which operators are mere shells, where probes
//! stand. Where the file is mapped and what IFUNCs resolved to is `discovery`.

use std::collections::BTreeSet;
use std::fs::File;

use crate::allocators::{Operation, Semantics};
use crate::elf::{AllocatorFunction, ElfCode, ElfImage, Linkage};
use crate::placement::{
    CodeSource, ExitError, Function, KernelRules, Need, Placement, PlacementError, place, reaches_only_through,
    ret_exits,
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

    pub(super) fn plan(
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
}

/// Finds the allocators of a file. A prefix makes an allocator if it both allocates and frees; a lone `free` is somebody's own function.
/// The `malloc` of older glibc's `ld.so` is not counted: it serves the linker only, until libc's takes over.
pub(super) fn allocators(image: &ElfImage, file: &File, rules: KernelRules) -> Vec<PlannedAllocator> {
    let is_glibc_linker = image.landmarks.rtld_global.is_some() && image.linkage == Linkage::SharedObject;
    if image.functions.is_empty() || is_glibc_linker {
        return Vec::new();
    }
    let code = image.code(file);
    let groups = group_by_allocator(&image.functions);
    let planned = groups.into_iter().filter_map(|(prefix, functions)| plan(&code, rules, prefix, &functions));
    let mut allocators: Vec<_> = planned.collect();
    allocators.sort_by_key(|allocator| allocator.prefix);
    allocators
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
) -> Option<PlannedAllocator> {
    let plain = || functions.iter().filter_map(|function| function.semantics.filter(|meaning| !meaning.is_operator));
    let allocates = plain().any(|meaning| matches!(meaning.operation, Operation::Alloc | Operation::AllocZeroed));
    let frees = plain().any(|meaning| meaning.operation == Operation::Free);
    if !allocates || !frees {
        return None;
    }
    let is_plain_function = |vaddr: u64| {
        functions
            .iter()
            .any(|function| function.vaddr == vaddr && function.semantics.is_some_and(|meaning| !meaning.is_operator))
    };
    let mut allocator = PlannedAllocator { prefix, functions: Vec::new(), ifuncs: Vec::new(), left_out: Vec::new() };
    for function in functions {
        let mut leave_out = |reason: &str| {
            allocator.left_out.push(LeftOut { name: function.name().to_owned(), reason: reason.to_owned() });
        };
        let at = Function { vaddr: function.vaddr, size_bytes: function.size_bytes };
        match function.semantics {
            None => leave_out("its names contradict each other: the linker folded different functions into one"),
            Some(_) if function.is_ifunc => allocator.ifuncs.push((*function).clone()),
            Some(meaning) if meaning.is_operator && reaches_only_through(code, at, &is_plain_function) => {
                leave_out("it only wraps another function of the same allocator, which is probed");
            }
            Some(meaning) => {
                allocator.functions.push(PlannedFunction::plan(code, rules, function, meaning, at));
            }
        }
    }
    Some(allocator)
}

/// Addresses of code that an IFUNC resolver can return, from the addresses it mentions: used while no slot is bound yet.
/// More than the right one may come out; each is an implementation of the same function.
pub(super) fn ifunc_candidates(code: &ElfCode<'_>, image: &ElfImage, resolver: Function) -> Vec<u64> {
    let is_code = |vaddr: &u64| {
        let executable = image.segments.iter().any(|segment| segment.executable && segment.holds(*vaddr));
        executable && !image.is_plt(*vaddr) && *vaddr != resolver.vaddr
    };
    let bytes = code.code_at(resolver.vaddr, resolver.extent_bytes().min(1024));
    let mut candidates: Vec<u64> =
        crate::placement::mentioned_addresses(resolver.vaddr, &bytes).into_iter().filter(is_code).collect();
    candidates.sort_unstable();
    candidates.dedup();
    candidates
}
