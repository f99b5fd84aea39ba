//! Does a profile fit a compiler. Responsible for finding which functions its names mean in binaries, and how often its phases and
//! markers fired in a trace; not for printing.

use std::path::{Path, PathBuf};

use foldhash::{HashMap, HashMapExt};
use object::{Object, ObjectSymbol, SymbolKind};
use serde::Serialize;
use trace_format::{Op, ReadError, Trace};

use super::{Profile, glob};
use crate::names::Names;
use crate::symbolise::demangle;

/// What became of a profile's names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Version of this interface.
    pub schema: u32,
    /// The profile.
    pub profile: String,
    /// Where its names were looked for.
    pub looked_in: Vec<PathBuf>,
    /// Every name of it.
    pub names: Vec<Named>,
}

/// A name of a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Named {
    /// The phase or marker.
    pub rule: String,
    /// `stack`, `begin`, `end` or `point`.
    pub part: &'static str,
    /// The name or pattern.
    pub pattern: String,
    /// Functions that it means.
    pub function_count: u64,
    /// One of them.
    pub example: Option<String>,
    /// How often it fired in a trace: events of its marker, or stacks that it is on.
    pub fired_count: Option<u64>,
}

/// Looks for a profile's names in the symbol tables of binaries; files that cannot be read are left out of `looked_in`.
pub fn check_binaries(profile: &Profile, binaries: &[PathBuf]) -> Check {
    let mut found = Found::new(profile);
    let mut looked_in = Vec::new();
    for path in binaries {
        if let Some(symbols) = symbols(path) {
            looked_in.push(path.clone());
            for symbol in symbols {
                found.symbol(&symbol);
            }
        }
    }
    found.check(profile, looked_in)
}

/// Looks for a profile's names on the stacks and among the markers of a trace, and counts them.
///
/// # Errors
/// The file became unreadable.
pub fn check_trace(profile: &Profile, trace: &Trace, names: &Names) -> Result<Check, ReadError> {
    let tables = &trace.tables;
    let mut found = Found::new(profile);
    let mut stacks_with: HashMap<u32, u64> = HashMap::new();
    for stack in &tables.stacks {
        for place in names.places(stack.frame) {
            *stacks_with.entry(place.0).or_default() += 1;
        }
    }
    for at in 0..names.place_count() as u32 {
        let place = names.place(crate::names::PlaceId(at));
        found.function(&place.function, stacks_with.get(&at).copied().unwrap_or(0));
    }
    let mut hits = vec![[0u64; 3]; tables.markers.len()];
    trace.for_each_chunk(0, |events| {
        for event in events {
            if let Op::Marker { id, kind, .. } = event.op
                && let Some(hit) = hits.get_mut(id as usize).and_then(|hits| hits.get_mut(usize::from(kind)))
            {
                *hit += 1;
            }
        }
    })?;
    for (marker, hits) in tables.markers.iter().zip(&hits) {
        found.marker(&marker.name, &marker.symbol, *hits);
    }
    Ok(found.check(profile, vec![trace.path.clone()]))
}

struct Found {
    names: Vec<Named>,
}

impl Found {
    fn new(profile: &Profile) -> Self {
        let named = |rule: &str, part, pattern: &String| Named {
            rule: rule.to_owned(),
            part,
            pattern: pattern.clone(),
            function_count: 0,
            example: None,
            fired_count: None,
        };
        let mut names = Vec::new();
        for rule in &profile.phases {
            names.extend(rule.stack.iter().map(|pattern| named(&rule.name, "stack", pattern)));
        }
        for rule in &profile.markers {
            names.extend(rule.begin.iter().map(|pattern| named(&rule.name, "begin", pattern)));
            names.extend(rule.end.iter().map(|pattern| named(&rule.name, "end", pattern)));
            names.extend(rule.point.iter().map(|pattern| named(&rule.name, "point", pattern)));
        }
        Self { names }
    }

    /// A symbol of a binary, by its linkage name.
    fn symbol(&mut self, raw: &str) {
        let readable = demangle(raw).name;
        for named in &mut self.names {
            // Stack rules go by readable names, markers by either.
            if glob(&named.pattern, &readable) || named.part != "stack" && named.pattern == raw {
                named.function_count += 1;
                named.example.get_or_insert_with(|| readable.clone());
            }
        }
    }

    /// A function on stacks of a trace.
    fn function(&mut self, name: &str, stack_count: u64) {
        for named in self.names.iter_mut().filter(|named| named.part == "stack" && glob(&named.pattern, name)) {
            named.function_count += 1;
            named.example.get_or_insert_with(|| name.to_owned());
            *named.fired_count.get_or_insert(0) += stack_count;
        }
    }

    /// A marker of a trace with its points, begins and ends.
    fn marker(&mut self, rule: &str, symbol: &str, hits: [u64; 3]) {
        let readable = demangle(symbol).name;
        for named in self.names.iter_mut().filter(|named| named.rule == rule && named.part != "stack") {
            if named.pattern == symbol || glob(&named.pattern, &readable) {
                let kind = ["point", "begin", "end"].iter().position(|part| *part == named.part).unwrap_or(0);
                named.function_count += 1;
                named.example.get_or_insert_with(|| readable.clone());
                *named.fired_count.get_or_insert(0) += hits[kind];
            }
        }
    }

    fn check(self, profile: &Profile, looked_in: Vec<PathBuf>) -> Check {
        Check { schema: 1, profile: profile.name.clone(), looked_in, names: self.names }
    }
}

/// Names of the functions of a binary.
fn symbols(path: &Path) -> Option<Vec<String>> {
    let data = std::fs::read(path).ok()?;
    let file = object::File::parse(&*data).ok()?;
    let mut names: Vec<String> = file
        .symbols()
        .chain(file.dynamic_symbols())
        .filter(|symbol| symbol.is_definition() && matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown))
        .filter_map(|symbol| symbol.name().ok().map(|name| name.split('@').next().unwrap_or(name).to_owned()))
        .collect();
    names.sort_unstable();
    names.dedup();
    Some(names)
}
