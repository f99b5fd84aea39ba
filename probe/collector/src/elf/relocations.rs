//! Finds the slots of a module that hold the address of a named function once the dynamic linker has bound it. Responsible
//! for relocation records in the file; reading the slots from a process is `target`.

use std::collections::HashMap;
use std::fs::File;

use super::fields::u64_at;
use super::symbols::{function_at, name_at};
use super::{ElfError, ElfImage, Reader, gabi};

const RELOCATION_BYTES: usize = 24;

/// A place in a module's data that holds, or will hold, the address of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Where the slot is.
    pub vaddr: u64,
}

/// A relocation that binds a slot to a symbol or to what an IFUNC resolver returns.
struct Binding<'a> {
    slot_vaddr: u64,
    symbol: u32,
    kind: u32,
    addend: u64,
    symbols: &'a [u8],
    strings: &'a [u8],
}

impl ElfImage {
    /// Slots bound to one of `names`, and those an IFUNC resolver at `resolver_vaddr` of this very file fills
    /// (`R_X86_64_IRELATIVE`, the only kind in static executables).
    ///
    /// # Errors
    /// If the relocations cannot be read from `file`.
    pub fn slots(&self, file: &File, names: &[&str], resolver_vaddr: Option<u64>) -> Result<Vec<Slot>, ElfError> {
        let mut slots = Vec::new();
        self.visit_bindings(file, |binding| {
            let bound = if binding.kind == gabi::R_X86_64_IRELATIVE {
                resolver_vaddr == Some(binding.addend)
            } else {
                name_at(binding.symbols, binding.strings, binding.symbol)
                    .is_some_and(|name| names.iter().any(|wanted| wanted.as_bytes() == name))
            };
            if bound {
                slots.push(Slot { vaddr: binding.slot_vaddr });
            }
        })?;
        Ok(slots)
    }

    /// Slots bound to functions that this file itself defines, with the functions' addresses.
    pub(super) fn own_bindings(&self, file: &File) -> Result<HashMap<u64, u64>, ElfError> {
        let mut own = HashMap::new();
        self.visit_bindings(file, |binding| {
            let function = match binding.kind {
                gabi::R_X86_64_IRELATIVE => None,
                _ => function_at(binding.symbols, binding.strings, binding.symbol),
            };
            if let Some(vaddr) = function {
                own.insert(binding.slot_vaddr, vaddr);
            }
        })?;
        Ok(own)
    }

    fn visit_bindings(&self, file: &File, mut visit: impl FnMut(Binding<'_>)) -> Result<(), ElfError> {
        let reader = Reader::new(file, &self.path)?;
        for section in &self.relocation_sections {
            let records = reader.range("a relocation section", section.file_offset, section.size_bytes)?;
            let (symbols, strings) = match section.symbols {
                Some(table) => (
                    reader.range("a symbol table", table.symbols_offset, table.symbols_bytes)?,
                    reader.range("a string table", table.strings_offset, table.strings_bytes)?,
                ),
                None => (Vec::new(), Vec::new()),
            };
            for record in records.chunks_exact(RELOCATION_BYTES) {
                let (Some(slot_vaddr), Some(info), Some(addend)) =
                    (u64_at(record, 0), u64_at(record, 8), u64_at(record, 16))
                else {
                    continue;
                };
                let (kind, symbol) = ((info & 0xffff_ffff) as u32, (info >> 32) as u32);
                let holds_address = match kind {
                    gabi::R_X86_64_JUMP_SLOT | gabi::R_X86_64_GLOB_DAT | gabi::R_X86_64_IRELATIVE => true,
                    gabi::R_X86_64_64 => addend == 0,
                    _ => false,
                };
                if holds_address {
                    visit(Binding { slot_vaddr, symbol, kind, addend, symbols: &symbols, strings: &strings });
                }
            }
        }
        Ok(())
    }
}
