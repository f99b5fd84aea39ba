//! Files without unwind information whose functions keep frame pointers. Responsible for telling such files from others.
//!
//! Where every function begins with `push rbp; mov rbp, rsp`, one rule holds at every call: CFA = rbp + 16, rbp saved at
//! CFA - 16. It is wrong in the first instructions of a function, in which no call stands.

use object::{LittleEndian, Object as _, ObjectSymbol as _, SymbolKind, read::elf::ElfFile64};

/// Functions looked at.
const SAMPLE: usize = 2000;
/// Fewer functions than this say nothing.
const FEWEST: usize = 8;
/// Share of functions that must keep frame pointers, percent. Those that call nothing need not.
const SHARE: usize = 80;

/// Whether the functions of a file keep frame pointers, as far as its symbols name them.
pub(super) fn kept(elf: &ElfFile64<'_, LittleEndian>) -> bool {
    let starts = functions(elf);
    let step = starts.len().div_ceil(SAMPLE).max(1);
    let (mut seen, mut keep) = (0, 0);
    for start in starts.iter().step_by(step) {
        if let Some(code) = code_at(elf, *start) {
            seen += 1;
            keep += usize::from(begins_a_frame(code));
        }
    }
    seen >= FEWEST && keep * 100 >= seen * SHARE
}

/// Where functions begin according to symbols, ascending.
pub(super) fn functions(elf: &ElfFile64<'_, LittleEndian>) -> Vec<u64> {
    let tables = [elf.symbol_table(), elf.dynamic_symbol_table()];
    let mut starts: Vec<u64> = tables
        .iter()
        .flatten()
        .flat_map(object::ObjectSymbolTable::symbols)
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition() && symbol.size() > 0)
        .map(|symbol| symbol.address())
        .collect();
    starts.sort_unstable();
    starts.dedup();
    starts
}

/// Code from an address to the end of its segment, as far as the file holds it.
pub(super) fn code_at<'a>(elf: &ElfFile64<'a, LittleEndian>, vaddr: u64) -> Option<&'a [u8]> {
    use object::ObjectSegment as _;
    let segment =
        elf.segments().find(|segment| vaddr >= segment.address() && vaddr - segment.address() < segment.size())?;
    segment.data().ok()?.get((vaddr - segment.address()) as usize..)
}

/// `[endbr64] push rbp; mov rbp, rsp`.
fn begins_a_frame(code: &[u8]) -> bool {
    let code = code.strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa]).unwrap_or(code);
    code.starts_with(&[0x55, 0x48, 0x89, 0xe5]) || code.starts_with(&[0x55, 0x48, 0x8b, 0xec])
}
