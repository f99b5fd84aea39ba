//! Inlined functions, files and lines. Responsible for asking DWARF, in the binary or in its separate debug file; not for
//! binaries without it, of which it says nothing.

use std::borrow::Cow;

use addr2line::Context;
use addr2line::gimli::{DwarfSections, EndianSlice, LittleEndian};
use object::{Object, ObjectSection};
use trace_format::Symbol;

use super::binary::{Binary, Elf};
use super::demangle::demangle;

/// The DWARF sections of a binary, decompressed where needed.
pub(super) struct LineSections<'data>(DwarfSections<Cow<'data, [u8]>>);

impl<'data> LineSections<'data> {
    /// Sections of the binary, else of its separate debug file where that is wanted; none without DWARF.
    pub(super) fn of(binary: &'data Binary, separate: bool) -> Option<Self> {
        let own = binary.elf().and_then(|elf| load(&elf));
        if own.is_some() || !separate { own } else { binary.debug_elf().and_then(|elf| load(&elf)) }
    }
}

fn load<'data>(elf: &Elf<'data>) -> Option<LineSections<'data>> {
    elf.section_by_name(".debug_info").filter(|section| section.size() > 0)?;
    let sections = DwarfSections::load(|id| {
        let data = elf.section_by_name(id.name()).and_then(|section| section.uncompressed_data().ok());
        Ok::<_, ()>(data.unwrap_or_default())
    });
    sections.ok().map(LineSections)
}

/// The line information of a binary.
pub(super) struct Lines<'sections>(Context<EndianSlice<'sections, LittleEndian>>);

impl<'sections> Lines<'sections> {
    /// Indexes the units; their contents are parsed when an address falls into one.
    pub(super) fn of(sections: &'sections LineSections<'_>) -> Option<Self> {
        let dwarf = sections.0.borrow(|section| EndianSlice::new(section, LittleEndian));
        Context::from_dwarf(dwarf).ok().map(Self)
    }

    /// Appends the functions at an address, innermost inlined one first. A function without a name keeps its place with
    /// an empty one.
    pub(super) fn functions_at(&self, address: u64, found: &mut Vec<Symbol>) {
        let Ok(mut frames) = self.0.find_frames(address).skip_all_loads() else { return };
        while let Ok(Some(frame)) = frames.next() {
            let mut symbol = Symbol::default();
            if let Some(raw) = frame.function.as_ref().and_then(|function| function.raw_name().ok()) {
                let demangled = demangle(&raw);
                (symbol.name, symbol.linkage_name) = (demangled.name, demangled.linkage_name);
            }
            if let Some(location) = frame.location {
                symbol.file = location.file.unwrap_or_default().to_owned();
                symbol.line = location.line.unwrap_or_default();
            }
            found.push(symbol);
        }
    }
}
