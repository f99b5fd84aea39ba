//! Gathers the allocator functions of a file: aliases and symbol versions at one address become one function with all its
//! names. Responsible for that merge; the meaning of names is `allocators`.

use std::collections::BTreeMap;

use super::Landmarks;
use super::symbols::Symbol;
use crate::allocators::{LONGEST_NAME_BYTES, Recognised, Semantics, recognise};

/// One name of an allocator function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionName {
    /// The symbol.
    pub name: String,
    /// Prefix of its allocator (see `allocators`).
    pub prefix: &'static str,
    /// Whether other modules can bind to it.
    pub exported: bool,
}

/// One allocator function: everything at one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllocatorFunction {
    /// Its address; for an IFUNC that of the resolver, not of the function.
    pub vaddr: u64,
    /// Size of its code, 0 where the file does not tell.
    pub size_bytes: u64,
    /// Whether the symbol names a function that chooses the implementation at run time.
    pub is_ifunc: bool,
    /// Its names, the one to show first: without a prefix before with one, plain C before C++ operators.
    pub names: Vec<FunctionName>,
    /// What it does; `None` if its names contradict each other (code folded by the linker), so that a probe would guess.
    pub semantics: Option<Semantics>,
}

impl AllocatorFunction {
    /// The name to show.
    pub fn name(&self) -> &str {
        self.names.first().map_or("", |name| &name.name)
    }
}

struct Found {
    name: FunctionName,
    semantics: Semantics,
    size_bytes: u64,
    is_ifunc: bool,
}

/// Collects while symbol tables are walked.
#[derive(Default)]
pub(super) struct Collector {
    by_vaddr: BTreeMap<u64, Vec<Found>>,
    landmarks: Landmarks,
}

impl Collector {
    pub(super) fn take(&mut self, symbol: Symbol<'_>, exported: bool) {
        let Some(name) = symbol.short_name(LONGEST_NAME_BYTES) else { return };
        let landmark = match name {
            b"_dl_debug_state" => Some(&mut self.landmarks.dl_debug_state),
            b"_r_debug" => Some(&mut self.landmarks.r_debug),
            b"_dl_debug_addr" => Some(&mut self.landmarks.dl_debug_addr),
            b"_rtld_global" => Some(&mut self.landmarks.rtld_global),
            _ => None,
        };
        if let Some(landmark) = landmark {
            // Static programs contain them as well, where they report nothing.
            if exported {
                landmark.get_or_insert(symbol.vaddr);
            }
            return;
        }
        if !symbol.is_function && !symbol.is_ifunc {
            return;
        }
        let Some(Recognised { prefix, semantics }) = recognise(name) else { return };
        // Recognised names are ASCII.
        let name = String::from_utf8_lossy(name).into_owned();
        let here = self.by_vaddr.entry(symbol.vaddr).or_default();
        if let Some(known) = here.iter_mut().find(|known| known.name.name == name) {
            known.size_bytes = known.size_bytes.max(symbol.size_bytes);
            return;
        }
        let name = FunctionName { name, prefix, exported };
        here.push(Found { name, semantics, size_bytes: symbol.size_bytes, is_ifunc: symbol.is_ifunc });
    }

    pub(super) fn finish(self, is_code: impl Fn(u64) -> bool) -> (Vec<AllocatorFunction>, Landmarks) {
        let functions = self.by_vaddr.into_iter().filter(|(vaddr, _)| is_code(*vaddr));
        (functions.map(|(vaddr, found)| merge(vaddr, found)).collect(), self.landmarks)
    }
}

fn merge(vaddr: u64, mut found: Vec<Found>) -> AllocatorFunction {
    found.sort_by_key(|found| {
        let name = &found.name;
        (!name.prefix.is_empty(), found.semantics.is_operator, name.name.starts_with('_'), !name.exported)
    });
    let meanings = found.iter().map(|found| found.semantics);
    let semantics = meanings.map(Some).reduce(|one, other| one.zip(other).and_then(|(one, other)| one.merged(other)));
    AllocatorFunction {
        vaddr,
        size_bytes: found.iter().map(|found| found.size_bytes).max().unwrap_or_default(),
        is_ifunc: found.iter().any(|found| found.is_ifunc),
        semantics: semantics.flatten(),
        names: found.into_iter().map(|found| found.name).collect(),
    }
}
