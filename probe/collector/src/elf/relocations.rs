//! Finds the slots of a module that hold the address of a named function once the dynamic linker has bound it. Responsible
//! for relocation records in the file; reading the slots from a process is `target`.

use std::fs::File;

use super::fields::u64_at;
use super::symbols::name_at;
use super::{ElfError, ElfImage, Reader, gabi};

const RELOCATION_BYTES: usize = 24;

/// A place in a module's data that holds, or will hold, the address of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Where the slot is.
    pub vaddr: u64,
}

impl ElfImage {
    /// Slots bound to one of `names`, and those an IFUNC resolver at `resolver_vaddr` of this very file fills
    /// (`R_X86_64_IRELATIVE`, the only kind in static executables).
    ///
    /// # Errors
    /// If the relocations cannot be read from `file`.
    pub fn slots(&self, file: &File, names: &[&str], resolver_vaddr: Option<u64>) -> Result<Vec<Slot>, ElfError> {
        let reader = Reader::new(file, &self.path)?;
        let mut slots = Vec::new();
        for section in &self.relocation_sections {
            let records = reader.range("a relocation section", section.file_offset, section.size_bytes)?;
            let (symbols, strings) = match section.symbols {
                Some(table) => (
                    reader.range("a symbol table", table.symbols_offset, table.symbols_bytes)?,
                    reader.range("a string table", table.strings_offset, table.strings_bytes)?,
                ),
                None => (Vec::new(), Vec::new()),
            };
            let is_wanted = |index: u32| {
                name_at(&symbols, &strings, index)
                    .is_some_and(|name| names.iter().any(|wanted| wanted.as_bytes() == name))
            };
            for record in records.chunks_exact(RELOCATION_BYTES) {
                let (Some(vaddr), Some(info), Some(addend)) =
                    (u64_at(record, 0), u64_at(record, 8), u64_at(record, 16))
                else {
                    continue;
                };
                let bound = match (info & 0xffff_ffff) as u32 {
                    gabi::R_X86_64_JUMP_SLOT | gabi::R_X86_64_GLOB_DAT => is_wanted((info >> 32) as u32),
                    gabi::R_X86_64_64 => addend == 0 && is_wanted((info >> 32) as u32),
                    gabi::R_X86_64_IRELATIVE => resolver_vaddr == Some(addend),
                    _ => false,
                };
                if bound {
                    slots.push(Slot { vaddr });
                }
            }
        }
        Ok(slots)
    }
}
