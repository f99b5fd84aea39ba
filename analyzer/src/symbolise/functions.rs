//! Functions of a symbol table by address. Responsible for saying which symbol an address belongs to, and for saying
//! nothing where none does; not for inlined functions (see `lines`).
//!
//! A stripped library exports few of its functions, so the nearest symbol below an address is often the wrong one. A
//! symbol with a size owns its range and, for padding and hand-written tails, a few bytes more; one without a size owns
//! everything up to the next symbol.

use object::elf::{STB_GLOBAL, STB_WEAK, STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE};
use object::read::elf::{FileHeader, Sym};

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

/// All functions of a binary, sorted by address; of several at one address the most telling name comes first.
#[derive(Debug, Default)]
pub(super) struct Functions<'data> {
    rows: Vec<Function<'data>>,
}

impl<'data> Functions<'data> {
    /// Functions of the binary, or of its separate debug file where the binary is stripped.
    pub(super) fn of(binary: &'data Binary) -> Self {
        let mut rows = Vec::new();
        let Some(elf) = binary.elf() else { return Self::default() };
        let full = collect(&elf, &mut rows);
        if !full && let Some(debug) = binary.debug_elf() {
            collect(&debug, &mut rows);
        }
        rows.sort_unstable_by_key(|row| row.start);
        Self { rows }
    }

    /// The name of the function that owns an address.
    pub(super) fn around(&self, address: u64) -> Option<&'data [u8]> {
        let above = self.rows.partition_point(|row| row.start <= address);
        let nearest_start = self.rows[..above].last()?.start;
        let mut best: Option<(bool, u64, Function<'data>)> = None;
        let mut starts_left = LOOK_BACK;
        let mut start = nearest_start;
        for row in self.rows[..above].iter().rev() {
            if row.start != start {
                start = row.start;
                starts_left -= 1;
                if starts_left == 0 || best.is_some_and(|(inside, ..)| inside) {
                    break;
                }
            }
            let offset = address - row.start;
            let inside = offset < row.size || (row.size == 0 && row.start == nearest_start);
            let close = row.start == nearest_start && offset < row.size.saturating_add(GAP_BYTES);
            if !inside && !close {
                continue;
            }
            let better = best.is_none_or(|(best_inside, best_start, best_row)| {
                (inside && !best_inside)
                    || (inside == best_inside && best_start == row.start && row.tells_more_than(&best_row))
            });
            if better {
                best = Some((inside, row.start, *row));
            }
        }
        best.map(|(_, _, row)| row.name)
    }
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

/// Adds the functions of `.symtab` and `.dynsym`; says whether there was a `.symtab`.
fn collect<'data>(elf: &Elf<'data>, rows: &mut Vec<Function<'data>>) -> bool {
    let endian = elf.endian();
    let Ok(sections) = elf.elf_header().sections(endian, elf.data()) else { return false };
    let mut full = false;
    for kind in [object::elf::SHT_SYMTAB, object::elf::SHT_DYNSYM] {
        let Ok(table) = sections.symbols(endian, elf.data(), kind) else { continue };
        full |= kind == object::elf::SHT_SYMTAB && !table.is_empty();
        rows.reserve(table.len());
        for symbol in table.symbols() {
            let kind = symbol.st_type();
            // Assembly without `.type` directives leaves NOTYPE symbols; mapping and section symbols have no name.
            let code = kind == STT_FUNC || kind == STT_GNU_IFUNC || (kind == STT_NOTYPE && symbol.st_size(endian) > 0);
            let start = symbol.st_value(endian);
            if !code || symbol.st_shndx(endian) == object::elf::SHN_UNDEF || start == 0 {
                continue;
            }
            let Ok(name) = table.symbol_name(endian, symbol) else { continue };
            if name.is_empty() {
                continue;
            }
            let rank = match symbol.st_bind() {
                STB_GLOBAL => 0,
                STB_WEAK => 1,
                _ => 2,
            };
            rows.push(Function { start, size: symbol.st_size(endian), rank, name });
        }
    }
    full
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(start: u64, size: u64, rank: u8, name: &'static str) -> Function<'static> {
        Function { start, size, rank, name: name.as_bytes() }
    }

    fn around(rows: &[Function<'static>], address: u64) -> Option<&'static str> {
        let mut rows = rows.to_vec();
        rows.sort_by_key(|row| row.start);
        Functions { rows }.around(address).map(|name| std::str::from_utf8(name).unwrap())
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
