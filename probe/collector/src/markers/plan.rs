//! The marked functions of one file. Responsible for finding them by their symbols and for the place of each probe, once per
//! file however many processes map it; not for processes.

use std::{collections::BTreeMap, fs::File};

use trace_format::{Marker, MarkerEnd, MarkerValue as Value};

use super::{
    MarkerKind, MarkerProfile, MarkerRule,
    pattern::{Pattern, glob},
    value::Source,
};
use crate::{
    CollectError,
    elf::{ElfImage, FunctionSymbol, NameFilter},
    placement::{Function, KernelRules, Need, Placement, PlacementError, place},
};

/// A profile that is ready to be looked for.
#[derive(Debug)]
pub(super) struct Compiled {
    executables: Vec<String>,
    pub(super) requires: Option<String>,
    pub(super) wanted: Vec<Wanted>,
    /// Which names are worth a look; `None` for all.
    filter: Option<NameFilter>,
}

/// Functions to look for, and what they mean.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) pattern: Pattern,
    pub(super) kind: MarkerKind,
    pub(super) rule: String,
    pub(super) source: Option<Source>,
    ends_by: MarkerEnd,
}

impl Compiled {
    pub(super) fn new(profile: &MarkerProfile) -> Result<Self, CollectError> {
        let mut wanted = Vec::new();
        for rule in &profile.rules {
            let source = Source::of(&rule.value).map_err(|reason| CollectError::Profile {
                name: profile.name.clone(),
                reason: format!("the value of its marker `{}`: {reason}", rule.name),
            })?;
            wanted.extend(wanted_of(rule, source));
        }
        let needles = wanted.iter().map(|wanted: &Wanted| wanted.pattern.needle());
        let filter = NameFilter::new(needles.chain(profile.requires.as_deref()));
        Ok(Self { executables: profile.executables.clone(), requires: profile.requires.clone(), wanted, filter })
    }

    /// Whether it is for an executable of this file name.
    pub(super) fn is_for(&self, executable: &str) -> bool {
        self.executables.iter().any(|pattern| glob(pattern, executable))
    }
}

fn wanted_of(rule: &MarkerRule, source: Option<Source>) -> Vec<Wanted> {
    let ends_by = if rule.end.is_empty() { MarkerEnd::Activation } else { MarkerEnd::Explicit };
    let lists = [
        (MarkerKind::Begin, &rule.begin, source, ends_by),
        // What stands in the registers of an end is a number in any case; a text it may not be.
        (MarkerKind::End, &rule.end, source.filter(|source| !source.is_text), MarkerEnd::Explicit),
        (MarkerKind::Point, &rule.point, source, MarkerEnd::Explicit),
    ];
    let wanted = lists.into_iter().flat_map(|(kind, patterns, source, ends_by)| {
        patterns.iter().map(move |pattern| Wanted {
            pattern: Pattern::new(pattern),
            kind,
            rule: rule.name.clone(),
            source,
            ends_by,
        })
    });
    wanted.collect()
}

impl Wanted {
    /// The row of a function in the trace.
    pub(super) fn marker(&self, symbol: &str) -> Marker {
        Marker {
            name: self.rule.clone(),
            symbol: symbol.to_owned(),
            value: match self.source {
                None => Value::None,
                Some(source) if source.is_text => Value::Text,
                Some(_) => Value::Number,
            },
            ends_by: self.ends_by,
        }
    }
}

/// A marked function of a file.
#[derive(Debug)]
pub(super) struct Found {
    /// Index of what it was wanted for.
    pub(super) wanted: usize,
    pub(super) symbol: String,
    pub(super) vaddr: u64,
    pub(super) entry: Result<Placement, PlacementError>,
}

/// What a file has of a profile.
#[derive(Debug, Default)]
pub(super) struct FilePlan {
    pub(super) has_required: bool,
    pub(super) found: Vec<Found>,
}

impl FilePlan {
    pub(super) fn make(image: &ElfImage, file: &File, profile: &Compiled, rules: KernelRules) -> Self {
        let mut plan = Self { has_required: profile.requires.is_none(), found: Vec::new() };
        let mut functions: BTreeMap<(u64, usize), (String, u64)> = BTreeMap::new();
        let look = |symbol: FunctionSymbol<'_>| {
            let Ok(name) = std::str::from_utf8(symbol.name) else { return };
            plan.has_required |= profile.requires.as_deref() == Some(name);
            if symbol.is_ifunc || image.is_plt(symbol.vaddr) {
                return;
            }
            for (index, wanted) in profile.wanted.iter().enumerate() {
                if wanted.pattern.is_for(name, wanted.source.is_some()) {
                    let entry = functions.entry((symbol.vaddr, index)).or_insert_with(|| (name.to_owned(), 0));
                    entry.1 = entry.1.max(symbol.size_bytes);
                }
            }
        };
        let visited = match &profile.filter {
            Some(filter) => image.visit_functions_named(file, filter, look),
            None => image.visit_functions(file, look),
        };
        if visited.is_err() {
            return plan;
        }
        let code = image.code(file);
        for ((vaddr, index), (symbol, size_bytes)) in functions {
            let wanted = &profile.wanted[index];
            // Two patterns of one rule may mean the same function.
            let again = |found: &Found| {
                let other = &profile.wanted[found.wanted];
                found.vaddr == vaddr && other.kind == wanted.kind && other.rule == wanted.rule
            };
            if plan.found.iter().any(again) {
                continue;
            }
            let arguments = wanted.source.map(|source| source.arguments()).unwrap_or_default();
            let need = Need { arguments, return_probe: false, ignore_null: None };
            let entry = place(&code, Function { vaddr, size_bytes }, &need, rules);
            plan.found.push(Found { wanted: index, symbol, vaddr, entry });
        }
        plan
    }
}
