//! What to call a code address. Responsible for one name per function of a frame, resolved or not, and for telling equal
//! places apart from different ones; not for finding symbols (see `symbolise`).

use std::ops::Range;

use foldhash::{HashMap, HashMapExt};
use trace_format::{FrameId, FrameSymbols, Module, Symbol, Tables};

use crate::symbolise::Symboliser;

/// A place in code: what reports can tell apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Place {
    /// Demangled function name; for an unresolved address `libfoo.so+0x1234 (build id abcd1234)`.
    pub function: String,
    /// Linkage name where it differs, else empty.
    pub linkage_name: String,
    /// Path of the module.
    pub module: String,
    /// Source file, empty where unknown.
    pub file: String,
    /// Line, 0 where unknown.
    pub line: u32,
    /// Whether a symbol was found.
    pub resolved: bool,
}

/// Index of a place in `Names`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlaceId(pub u32);

/// The names of all frames of a trace.
#[derive(Debug, Clone, Default)]
pub struct Names {
    places: Vec<Place>,
    /// Places of all frames, frame after frame, innermost first.
    flat: Vec<PlaceId>,
    of_frame: Vec<Range<u32>>,
}

impl Names {
    /// Names of a trace's frames. Frames without stored symbols are looked up in the binaries at hand.
    pub fn of(tables: &Tables) -> Self {
        let bare = tables.symbols.len() < tables.frames.len()
            || tables.symbols.iter().any(|symbols| symbols.functions.is_empty());
        if bare {
            return Self::with_symbols(tables, &Symboliser::new().complete(tables));
        }
        Self::with_symbols(tables, &tables.symbols)
    }

    /// Names from these symbols only.
    pub fn with_symbols(tables: &Tables, symbols: &[FrameSymbols]) -> Self {
        let mut names = Self::default();
        let mut known: HashMap<Place, PlaceId> = HashMap::new();
        for (at, frame) in tables.frames.iter().enumerate() {
            let module = tables.modules.get(frame.module.index());
            let path = module.map_or("", |module| &module.path);
            let from = names.flat.len() as u32;
            let functions = symbols.get(at).map_or(&[][..], |symbols| &symbols.functions);
            for symbol in functions {
                let place = Place {
                    function: symbol.name.clone(),
                    linkage_name: symbol.linkage_name.clone(),
                    module: path.to_owned(),
                    file: symbol.file.clone(),
                    line: symbol.line,
                    resolved: !is_place(&symbol.name),
                };
                names.intern(place, &mut known);
            }
            if functions.is_empty() {
                let function = unresolved(module, frame.address);
                names.intern(Place { function, module: path.to_owned(), ..Place::default() }, &mut known);
            }
            names.of_frame.push(from..names.flat.len() as u32);
        }
        names
    }

    /// The same, with a frame more for each of these functions of a module of their own.
    pub(crate) fn with_functions(&self, module: &str, functions: impl Iterator<Item = String>) -> Self {
        let mut names = self.clone();
        for function in functions {
            names.places.push(Place { function, module: module.to_owned(), resolved: true, ..Place::default() });
            names.flat.push(PlaceId(names.places.len() as u32 - 1));
            let end = names.flat.len() as u32;
            names.of_frame.push(end - 1..end);
        }
        names
    }

    fn intern(&mut self, place: Place, known: &mut HashMap<Place, PlaceId>) {
        let id = *known.entry(place).or_insert_with_key(|place| {
            self.places.push(place.clone());
            PlaceId(self.places.len() as u32 - 1)
        });
        self.flat.push(id);
    }

    /// Places of a frame, innermost inlined function first; empty for an unknown frame.
    pub fn places(&self, frame: FrameId) -> &[PlaceId] {
        let range = self.of_frame.get(frame.index()).map_or(0..0, |range| range.start as usize..range.end as usize);
        &self.flat[range]
    }

    /// The number that `functions` gives to a function of this name, if it owns any frame's code; the first, if several do.
    pub fn function_called(&self, name: &str) -> Option<u32> {
        let owns = |range: &Range<u32>| {
            let owner = self.flat[range.start as usize..range.end as usize].last();
            owner.is_some_and(|place| self.place(*place).function == name)
        };
        let at = self.of_frame.iter().position(owns)?;
        self.functions().get(at).copied()
    }

    /// A number for the function that owns each frame's code, equal for equal functions.
    pub fn functions(&self) -> Vec<u32> {
        let mut numbers: HashMap<(&str, &str), u32> = HashMap::new();
        self.of_frame
            .iter()
            .map(|range| {
                let owner = self.flat[range.start as usize..range.end as usize].last();
                let key = owner.map_or(("", ""), |place| {
                    let place = self.place(*place);
                    (place.module.as_str(), place.function.as_str())
                });
                let next = numbers.len() as u32;
                *numbers.entry(key).or_insert(next)
            })
            .collect()
    }

    /// Distinct places.
    pub fn place_count(&self) -> usize {
        self.places.len()
    }

    /// What a place is.
    pub fn place(&self, id: PlaceId) -> &Place {
        &self.places[id.0 as usize]
    }
}

/// File name of a path.
pub fn base_name(path: &str) -> &str {
    path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(path)
}

/// Names functions without a symbol by where they begin, given the start of each frame's function in its module where that
/// is known: all calls in a function then have one name.
pub fn name_by_start(tables: &Tables, starts: &[Option<u64>], symbols: &mut Vec<FrameSymbols>) {
    symbols.resize(tables.frames.len(), FrameSymbols::default());
    for ((symbols, frame), start) in symbols.iter_mut().zip(&tables.frames).zip(starts) {
        if let (true, Some(start)) = (symbols.functions.is_empty(), start) {
            let name = unresolved(tables.modules.get(frame.module.index()), *start);
            symbols.functions.push(Symbol { name, ..Symbol::default() });
        }
    }
}

/// Whether a name is a place in a file for want of a symbol.
fn is_place(name: &str) -> bool {
    name.ends_with(')') && name.contains("+0x") && name.contains(" (build id ")
}

fn unresolved(module: Option<&Module>, address: u64) -> String {
    let Some(module) = module else { return format!("[unknown module]+{address:#x}") };
    let name = if module.path.is_empty() { "[unnamed module]" } else { base_name(&module.path) };
    if name == "[anonymous]" {
        return format!("[anonymous] {address:#x}");
    }
    if module.build_id.is_empty() {
        return format!("{name}+{address:#x}");
    }
    let build_id: String = module.build_id.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{name}+{address:#x} (build id {build_id})")
}
