//! Functions of a symbol table by address. Responsible for saying which symbol an address belongs to, and for saying
//! nothing where none does; not for inlined functions (see `lines`).
//!
//! A stripped library exports few of its functions, so the nearest symbol below an address is often the wrong one. A
//! symbol with a size owns its range and, for padding and hand-written tails, a few bytes more; one without a size owns
//! everything up to the next symbol.

use object::elf::{FileHeader64, STB_GLOBAL, STB_WEAK, STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE};
use object::endian::LittleEndian;
use object::read::elf::{FileHeader, Sym, SymbolTable};

use super::binary::{Binary, Elf};

/// Bytes past its end that a symbol with a size still owns, if no other symbol does.
const GAP_BYTES: u64 = 16;
/// Symbols looked at below the nearest one for one that reaches over it.
const LOOK_BACK: usize = 8;

/// One function.
#[derive(Debug, Clone, Copy)]
struct Function<'data> {
    start: u64,
    size: u64,
    /// Lower is better among symbols of one address.
    rank: u8,
    name: &'data [u8],
}

/// Where a function starts and where its symbol is. A compiler has hundreds of thousands of these and a trace asks for
/// few, so all else is read when it is asked for: the names alone are tens of megabytes.
#[derive(Debug, Clone, Copy)]
struct Row {
    start: u64,
    table: u32,
    symbol: u32,
}

/// All functions of a binary, sorted by address.
#[derive(Debug, Default)]
pub(super) struct Functions<'data> {
    tables: Vec<SymbolTable<'data, FileHeader64<LittleEndian>>>,
    rows: Vec<Row>,
}

impl<'data> Functions<'data> {
    /// Functions of the binary, or of its separate debug file where the binary is stripped.
    pub(super) fn of(binary: &'data Binary) -> Self {
        let mut functions = Self::default();
        let Some(elf) = binary.elf() else { return functions };
        let full = functions.collect(&elf);
        if !full && let Some(debug) = binary.debug_elf() {
            functions.collect(&debug);
        }
        functions.rows.sort_unstable_by_key(|row| row.start);
        functions
    }

    /// The name of the function that owns an address.
    pub(super) fn around(&self, address: u64) -> Option<&'data [u8]> {
        owner(&self.rows, address, |row| self.function(row))
    }

    /// What a symbol says; nothing where it has no name.
    fn function(&self, row: &Row) -> Option<Function<'data>> {
        let table = self.tables.get(row.table as usize)?;
        let symbol = table.symbol(object::SymbolIndex(row.symbol as usize)).ok()?;
        let name = table.symbol_name(LittleEndian, symbol).ok().filter(|name| !name.is_empty())?;
        let rank = match symbol.st_bind() {
            STB_GLOBAL => 0,
            STB_WEAK => 1,
            _ => 2,
        };
        Some(Function { start: row.start, size: symbol.st_size(LittleEndian), rank, name })
    }

    /// Adds the functions of `.symtab` and `.dynsym`; says whether there was a `.symtab`.
    fn collect(&mut self, elf: &Elf<'data>) -> bool {
        let endian = elf.endian();
        let Ok(sections) = elf.elf_header().sections(endian, elf.data()) else { return false };
        let mut full = false;
        for kind in [object::elf::SHT_SYMTAB, object::elf::SHT_DYNSYM] {
            let Ok(symbols) = sections.symbols(endian, elf.data(), kind) else { continue };
            full |= kind == object::elf::SHT_SYMTAB && !symbols.is_empty();
            let table = self.tables.len() as u32;
            self.rows.reserve(symbols.len());
            for (index, symbol) in symbols.enumerate() {
                let kind = symbol.st_type();
                // Assembly without `.type` directives leaves NOTYPE symbols; mapping and section symbols have no name.
                let code =
                    kind == STT_FUNC || kind == STT_GNU_IFUNC || (kind == STT_NOTYPE && symbol.st_size(endian) > 0);
                let start = symbol.st_value(endian);
                let defined = symbol.st_shndx(endian) != object::elf::SHN_UNDEF && start != 0;
                if code && defined && symbol.st_name(endian) != 0 {
                    self.rows.push(Row { start, table, symbol: index.0 as u32 });
                }
            }
            self.tables.push(symbols);
        }
        full
    }
}

/// The name of the function that owns an address, among `rows` sorted by start; `read` tells of one what its symbol says.
fn owner<'data>(rows: &[Row], address: u64, read: impl Fn(&Row) -> Option<Function<'data>>) -> Option<&'data [u8]> {
    let below = &rows[..rows.partition_point(|row| row.start <= address)];
    // Symbols without a name count for nothing.
    let mut named = below.iter().rev().filter_map(|row| Some((row, read(row)?))).peekable();
    let nearest_start = named.peek()?.0.start;
    let mut best: Option<(bool, Function<'data>)> = None;
    let mut starts_left = LOOK_BACK;
    let mut start = nearest_start;
    for (row, function) in named {
        if row.start != start {
            start = row.start;
            starts_left -= 1;
            if starts_left == 0 || best.is_some_and(|(inside, _)| inside) {
                break;
            }
        }
        let offset = address - row.start;
        let inside = offset < function.size || (function.size == 0 && row.start == nearest_start);
        let close = row.start == nearest_start && offset < function.size.saturating_add(GAP_BYTES);
        if !inside && !close {
            continue;
        }
        let better = best.is_none_or(|(best_inside, best)| {
            (inside && !best_inside)
                || (inside == best_inside && best.start == row.start && function.tells_more_than(&best))
        });
        if better {
            best = Some((inside, function));
        }
    }
    best.map(|(_, function)| function.name)
}

impl Function<'_> {
    /// Among aliases: global before weak before local, few leading underscores, short, alphabetical.
    fn tells_more_than(&self, other: &Self) -> bool {
        let key = |row: &Self| {
            let underscores = row.name.iter().take_while(|byte| **byte == b'_').count();
            (row.size == 0, row.rank, underscores, row.name.len())
        };
        (key(self), self.name) < (key(other), other.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(start: u64, size: u64, rank: u8, name: &'static str) -> Function<'static> {
        Function { start, size, rank, name: name.as_bytes() }
    }

    fn around(rows: &[Function<'static>], address: u64) -> Option<&'static str> {
        let mut numbered: Vec<Row> =
            (0..).zip(rows).map(|(symbol, row)| Row { start: row.start, table: 0, symbol }).collect();
        numbered.sort_by_key(|row| row.start);
        let read = |row: &Row| Some(rows[row.symbol as usize]).filter(|function| !function.name.is_empty());
        owner(&numbered, address, read).map(|name| std::str::from_utf8(name).unwrap())
    }

    #[test]
    fn an_address_in_a_hole_of_a_stripped_library_has_no_name() {
        let rows = [function(0x1000, 0x20, 0, "exported"), function(0x9000, 0x20, 0, "far")];
        assert_eq!(around(&rows, 0x101f), Some("exported"));
        assert_eq!(around(&rows, 0x1025), Some("exported"), "padding");
        assert_eq!(around(&rows, 0x5000), None);
        assert_eq!(around(&rows, 0xfff), None);
    }

    #[test]
    fn without_a_size_a_symbol_reaches_to_the_next_one() {
        let rows = [function(0x1000, 0, 2, "_start"), function(0x2000, 0x10, 0, "main")];
        assert_eq!(around(&rows, 0x1fff), Some("_start"));
        assert_eq!(around(&rows, 0x2001), Some("main"));
    }

    #[test]
    fn a_symbol_without_a_name_hides_none() {
        let rows = [function(0x1000, 0, 2, "_start"), function(0x2000, 0x10, 0, "")];
        assert_eq!(around(&rows, 0x2001), Some("_start"));
    }

    #[test]
    fn a_function_reaches_over_symbols_inside_it() {
        let rows = [function(0x1000, 0x1000, 0, "outer"), function(0x1100, 0x10, 2, "inner")];
        assert_eq!(around(&rows, 0x1105), Some("inner"));
        assert_eq!(around(&rows, 0x1200), Some("outer"));
    }

    #[test]
    fn aliases_go_by_their_public_name() {
        let rows = [
            function(0x1000, 0x10, 2, "a"),
            function(0x1000, 0x10, 0, "__libc_malloc"),
            function(0x1000, 0x10, 0, "malloc"),
        ];
        assert_eq!(around(&rows, 0x1001), Some("malloc"));
    }
}
