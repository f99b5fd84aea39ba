//! Walks symbol tables. Responsible for the layout of symbols and for looking names up; not for what a name means
//! (`allocators`).

use std::fs::File;

use super::fields::{string_at, u16_at, u32_at, u64_at};
use super::{ElfError, ElfImage, NameFilter, Reader, gabi};

/// Size of one ELF64 symbol.
pub(super) const SYMBOL_BYTES: usize = 24;

/// Where one symbol table and its strings are in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct SymbolTable {
    pub(super) symbols_offset: u64,
    pub(super) symbols_bytes: u64,
    pub(super) strings_offset: u64,
    pub(super) strings_bytes: u64,
    /// Whether other modules can bind to its symbols (`.dynsym`).
    pub(super) exported: bool,
}

/// A defined symbol.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol<'a> {
    /// Its name and everything behind it in the string table: finding the end of a name costs more than all else here.
    name_on: &'a [u8],
    pub(super) vaddr: u64,
    pub(super) size_bytes: u64,
    pub(super) is_function: bool,
    pub(super) is_ifunc: bool,
}

impl<'a> Symbol<'a> {
    /// Its name.
    pub(super) fn name(&self) -> &'a [u8] {
        string_at(self.name_on, 0).unwrap_or_default()
    }

    /// Whether it has this name.
    pub(super) fn name_is(&self, name: &[u8]) -> bool {
        self.name_on.get(name.len()) == Some(&0) && self.name_on.starts_with(name)
    }

    fn function(&self, exported: bool) -> FunctionSymbol<'a> {
        let Self { vaddr, size_bytes, is_ifunc, .. } = *self;
        FunctionSymbol { name: self.name(), vaddr, size_bytes, exported, is_ifunc }
    }

    /// Its name if it is shorter than `limit_bytes`.
    pub(super) fn short_name(&self, limit_bytes: usize) -> Option<&'a [u8]> {
        string_at(&self.name_on[..limit_bytes.min(self.name_on.len())], 0)
    }
}

/// Address and size of a named symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SymbolAddress {
    /// Its value.
    pub vaddr: u64,
    /// Its size, 0 where the file does not tell.
    pub size_bytes: u64,
}

/// A function symbol, as handed to the visitor of [`ElfImage::visit_functions`].
#[derive(Debug, Clone, Copy)]
pub struct FunctionSymbol<'a> {
    /// Linkage name.
    pub name: &'a [u8],
    /// Its value.
    pub vaddr: u64,
    /// Its size, 0 where the file does not tell.
    pub size_bytes: u64,
    /// Whether other modules can bind to it.
    pub exported: bool,
    /// Whether it is not the function, but chooses it at run time.
    pub is_ifunc: bool,
}

/// Calls `visit` for every defined symbol that is a function or an object.
pub(super) fn scan(
    reader: &Reader<'_>,
    table: &SymbolTable,
    mut visit: impl FnMut(Symbol<'_>),
) -> Result<(), ElfError> {
    let symbols = reader.range("a symbol table", table.symbols_offset, table.symbols_bytes)?;
    let strings = reader.range("a string table", table.strings_offset, table.strings_bytes)?;
    for raw in symbols.chunks_exact(SYMBOL_BYTES) {
        if let Some(symbol) = defined_symbol(raw, &strings) {
            visit(symbol);
        }
    }
    Ok(())
}

fn defined_symbol<'a>(raw: &[u8], strings: &'a [u8]) -> Option<Symbol<'a>> {
    let kind = raw.get(4)? & 0xf;
    let (is_function, is_ifunc) = (kind == gabi::STT_FUNC, kind == gabi::STT_GNU_IFUNC);
    if !is_function && !is_ifunc && kind != gabi::STT_OBJECT {
        return None;
    }
    // Undefined functions carry the address of a stub here, which is not the function.
    if u16_at(raw, 6)? == gabi::SHN_UNDEF {
        return None;
    }
    let name_on = strings.get(u32_at(raw, 0)? as usize..)?;
    Some(Symbol { name_on, vaddr: u64_at(raw, 8)?, size_bytes: u64_at(raw, 16)?, is_function, is_ifunc })
}

/// Name of the symbol at `index`, defined or not.
pub(super) fn name_at<'a>(symbols: &[u8], strings: &'a [u8], index: u32) -> Option<&'a [u8]> {
    let raw = symbols.chunks_exact(SYMBOL_BYTES).nth(index as usize)?;
    string_at(strings, u32_at(raw, 0)? as usize)
}

/// Address of the symbol at `index` if it is a plain function of this file.
pub(super) fn function_at(symbols: &[u8], strings: &[u8], index: u32) -> Option<u64> {
    let symbol = defined_symbol(symbols.chunks_exact(SYMBOL_BYTES).nth(index as usize)?, strings)?;
    symbol.is_function.then_some(symbol.vaddr)
}

impl ElfImage {
    /// Calls `visit` for every defined function of `.dynsym`, then of `.symtab`; most functions come twice.
    ///
    /// # Errors
    /// If the tables cannot be read from `file`.
    pub fn visit_functions(&self, file: &File, mut visit: impl FnMut(FunctionSymbol<'_>)) -> Result<(), ElfError> {
        let reader = Reader::new(file, &self.path)?;
        for table in &self.tables {
            scan(&reader, table, |symbol| {
                if symbol.is_function || symbol.is_ifunc {
                    visit(symbol.function(table.exported));
                }
            })?;
        }
        Ok(())
    }

    /// As [`ElfImage::visit_functions`], for functions whose names hold a word of `filter`, and a few others: compilers have
    /// hundreds of thousands.
    ///
    /// # Errors
    /// If the tables cannot be read from `file`.
    pub fn visit_functions_named(
        &self,
        file: &File,
        filter: &NameFilter,
        mut visit: impl FnMut(FunctionSymbol<'_>),
    ) -> Result<(), ElfError> {
        let reader = Reader::new(file, &self.path)?;
        for table in &self.tables {
            let strings = reader.range("a string table", table.strings_offset, table.strings_bytes)?;
            let interesting = filter.strings(&strings);
            if interesting.is_empty() {
                continue;
            }
            let symbols = reader.range("a symbol table", table.symbols_offset, table.symbols_bytes)?;
            for raw in symbols.chunks_exact(SYMBOL_BYTES) {
                let Some(name_at) = u32_at(raw, 0).map(|at| at as usize) else { continue };
                // A name can be the end of a longer one.
                let index = interesting.partition_point(|string| string.end <= name_at);
                if interesting.get(index).is_none_or(|string| name_at < string.start) {
                    continue;
                }
                if let Some(symbol) = defined_symbol(raw, &strings)
                    && (symbol.is_function || symbol.is_ifunc)
                {
                    visit(symbol.function(table.exported));
                }
            }
        }
        Ok(())
    }

    /// The first defined symbol of this name, exported ones first.
    ///
    /// # Errors
    /// If the tables cannot be read from `file`.
    pub fn symbol(&self, file: &File, name: &str) -> Result<Option<SymbolAddress>, ElfError> {
        let reader = Reader::new(file, &self.path)?;
        for table in &self.tables {
            let mut found = None;
            scan(&reader, table, |symbol| {
                if found.is_none() && symbol.name_is(name.as_bytes()) {
                    found = Some(SymbolAddress { vaddr: symbol.vaddr, size_bytes: symbol.size_bytes });
                }
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}
