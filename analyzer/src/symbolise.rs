//! Naming code addresses. Responsible for going from (module, address) to functions, files and lines with whatever
//! binaries are at hand; not for how names are shown (see `names`).
//!
//! It runs at the end of a recording, when the binaries are surely the right ones, and stores what it finds in the trace.
//! For a trace without symbols (the recorder was killed) it runs again at read time; then a binary counts only if its
//! build id, or without one its size, is the recorded one.
//!
//! Per module, frames sorted by address: `binary` maps the file, `functions` finds the symbol around each address,
//! `lines` asks DWARF for inlined functions and lines where there is any, `demangle` makes names readable. Nothing is
//! parsed of a module without frames, and DWARF only of units that frames fall into.

mod binary;
mod demangle;
mod functions;
mod lines;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use foldhash::HashMap;
use foldhash::HashMapExt;
use trace_format::{FrameId, FrameSymbols, ModuleId, Symbol, Symbolise, Tables};

pub use demangle::{Demangled, demangle};

use binary::Binary;
use functions::Functions;
use lines::{LineSections, Lines};

/// Frames in a module from which on its separate debug file is worth opening: such files are large and compressed, and a
/// handful of frames in the C library need no lines.
const WORTH_A_DEBUG_FILE: usize = 64;

/// Names code addresses from binaries.
#[derive(Debug)]
pub struct Symboliser {
    files: BTreeMap<ModuleId, File>,
    debug_root: PathBuf,
}

impl Default for Symboliser {
    fn default() -> Self {
        Self::new()
    }
}

impl Symboliser {
    /// One that opens modules by their recorded path.
    pub fn new() -> Self {
        Self { files: BTreeMap::new(), debug_root: PathBuf::from("/usr/lib/debug/.build-id") }
    }

    /// Reads this module from an open file, trusting it to be the recorded one: for files that were deleted or replaced
    /// since, or that live in another mount namespace.
    #[must_use]
    pub fn with_file(mut self, module: ModuleId, file: File) -> Self {
        self.files.insert(module, file);
        self
    }

    /// Looks for separate debug files under this `.build-id` directory.
    #[must_use]
    pub fn with_debug_root(mut self, root: impl Into<PathBuf>) -> Self {
        self.debug_root = root.into();
        self
    }

    /// Symbols of all frames: those the tables have, and for the others what the binaries at hand say.
    pub fn complete(&self, tables: &Tables) -> Vec<FrameSymbols> {
        let mut symbols = tables.symbols.clone();
        symbols.resize(tables.frames.len(), FrameSymbols::default());
        let mut missing: BTreeMap<ModuleId, Vec<(u64, FrameId)>> = BTreeMap::new();
        for (at, (frame, known)) in tables.frames.iter().zip(&symbols).enumerate() {
            if known.functions.is_empty() {
                // The frame holds a return address: the call is the instruction before it.
                missing.entry(frame.module).or_default().push((frame.address.wrapping_sub(1), FrameId::from(at)));
            }
        }
        for (module, mut wanted) in missing {
            wanted.sort_unstable();
            if let Some(binary) = self.binary(module, tables) {
                name_module(&binary, &wanted, &mut symbols);
            }
        }
        symbols
    }

    fn binary(&self, id: ModuleId, tables: &Tables) -> Option<Binary> {
        let module = tables.modules.get(id.index())?;
        if let Some(file) = self.files.get(&id) {
            return Binary::trusted(file, &self.debug_root);
        }
        Binary::matching(module, &self.debug_root)
    }
}

impl Symbolise for Symboliser {
    fn symbolise(&mut self, tables: &Tables) -> Vec<FrameSymbols> {
        self.complete(tables)
    }
}

/// Names the addresses of one module, sorted.
fn name_module(binary: &Binary, wanted: &[(u64, FrameId)], symbols: &mut [FrameSymbols]) {
    let functions = Functions::of(binary);
    let sections = LineSections::of(binary, wanted.len() >= WORTH_A_DEBUG_FILE);
    let lines = sections.as_ref().and_then(Lines::of);
    let mut readable: HashMap<Vec<u8>, Demangled> = HashMap::new();
    for &(address, frame) in wanted {
        let owner = functions.around(address);
        let found = &mut symbols[frame.index()].functions;
        if let Some(lines) = &lines {
            lines.functions_at(address, found);
        }
        match (found.last_mut(), owner) {
            // DWARF knows the place but not the name of the function that owns it.
            (Some(last), Some(owner)) if last.name.is_empty() => {
                let Demangled { name, linkage_name } = cached(&mut readable, owner);
                (last.name, last.linkage_name) = (name, linkage_name);
            }
            (None, Some(owner)) => {
                let Demangled { name, linkage_name } = cached(&mut readable, owner);
                found.push(Symbol { name, linkage_name, ..Symbol::default() });
            }
            _ => {}
        }
        found.retain(|symbol| !symbol.name.is_empty());
    }
}

fn cached(readable: &mut HashMap<Vec<u8>, Demangled>, raw: &[u8]) -> Demangled {
    if let Some(known) = readable.get(raw) {
        return known.clone();
    }
    let made = demangle(&String::from_utf8_lossy(raw));
    readable.insert(raw.to_vec(), made.clone());
    made
}
