//! Unwind tables: `.eh_frame` of a file as a compact table that the kernel side can search. Responsible for what a table says;
//! its layout is `probe_abi::unwind`'s, walking a stack with it the kernel side's.
//!
//! ```text
//!   ELF file ─▶ entries (.eh_frame, by address) ─▶ rule of each row ─▶ pages and rows ─▶ disk cache, kernel
//!               `entries`                          `rule`              `pack`            `cache`
//! ```
//!
//! Where the kernel enters a file (`_start`; in the dynamic linker it has no unwind information) nothing has called it: that is a
//! root. The function that calls a library's destructors is told by its code. Other code that no entry covers has no rule, and a walk that meets it says so. Gaps of less than 16 bytes between entries
//! are padding, in which nothing ever runs: they keep the rule before them.

mod cache;
mod entries;
mod frame_pointers;
mod pack;
mod rule;
mod teardown;

use object::{LittleEndian, Object as _, ObjectSection as _, ObjectSegment as _, elf, read::elf::ElfFile64};
use probe_abi::unwind::{KIND_RBP, KIND_RSP, Rule, SPECIAL_NONE, SPECIAL_UNSUPPORTED, WideRule};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

pub use self::cache::{Source, TableCache};
use self::{entries::Section, pack::Packer};

/// Padding between functions is shorter than this.
const PADDING_BYTES: u64 = 16;

/// Why a file has no table.
#[derive(Debug, thiserror::Error)]
pub enum UnwindError {
    /// It is no ELF file, or a damaged one.
    #[error("it is not a readable ELF file: {0}")]
    Elf(#[from] object::Error),
    /// Its addresses span more than a table's pages can index.
    #[error("its code spans {span_bytes} bytes, more than an unwind table can index")]
    TooLarge {
        /// From the first to the last address.
        span_bytes: u64,
    },
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] std::io::Error),
}

/// A file's unwind table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnwindTable {
    /// The table, as `probe_abi::unwind` lays it out; the low half of word 1 is 0.
    pub words: Vec<u64>,
    /// The wide rules that its rows name.
    pub wide: Vec<WideRule>,
    /// Where functions begin (and their cold parts): virtual addresses, ascending.
    pub functions: Vec<u64>,
    /// Rows whose rule a table cannot express.
    pub unsupported_row_count: u64,
}

impl UnwindTable {
    /// The table of an ELF file, given its bytes. Damaged entries are left out: their code has no rule.
    ///
    /// # Errors
    /// When the bytes are no ELF file, or one too large.
    pub fn build(file: &[u8]) -> Result<Self, UnwindError> {
        let elf = ElfFile64::<LittleEndian>::parse(file)?;
        let code: Vec<(u64, u64)> = elf
            .segments()
            .filter(|segment| {
                let object::SegmentFlags::Elf { p_flags, .. } = segment.flags() else { return false };
                p_flags.0 & elf::PF_X.0 != 0
            })
            .map(|segment| (segment.address(), segment.address().saturating_add(segment.size())))
            .collect();
        let mut packer = Packer::default();
        let entry = Some(elf.entry()).filter(|entry| code.iter().any(|&(start, end)| *entry >= start && *entry < end));
        match find_section(&elf, file) {
            Some(section) => {
                let mut found = section.entries(&code);
                found.sort();
                if let Some(entry) = entry {
                    found.add_start(entry);
                }
                add_teardown(&elf, &code, &mut found);
                add_entries(&mut packer, &found);
                let mut functions: Vec<u64> = found.list.iter().map(|entry| entry.start).collect();
                functions.dedup();
                packer.functions = functions;
                packer.wide = found.wide;
            }
            None if frame_pointers::kept(&elf) => {
                for &(start, end) in &code {
                    packer.push(start, Rule::plain(KIND_RBP, 2, 2));
                    packer.push(end, Rule::special(SPECIAL_NONE));
                }
                packer.functions = frame_pointers::functions(&elf);
            }
            None => {}
        }
        packer.finish()
    }

    /// Rows of the table.
    pub fn row_count(&self) -> u64 {
        self.words.get(1).map_or(0, |word| word >> 32)
    }

    /// The rule in force at an address, found as the kernel side finds it. Before the first row: `SPECIAL_NONE`.
    pub fn rule_at(&self, vaddr: u64) -> Rule {
        pack::rule_at(&self.words, vaddr).unwrap_or(Rule::special(SPECIAL_NONE))
    }

    /// Where the function at an address begins.
    pub fn function_start(&self, vaddr: u64) -> Option<u64> {
        let after = self.functions.partition_point(|start| *start <= vaddr);
        self.functions.get(after.checked_sub(1)?).copied()
    }
}

/// Finds the C runtime's teardown in code that no entry covers.
fn add_teardown(elf: &ElfFile64<'_, LittleEndian>, code: &[(u64, u64)], found: &mut entries::Entries) {
    let mut frames = Vec::new();
    let mut covered = 0;
    let entries = found.list.iter().map(|entry| (entry.start, entry.end)).chain([(u64::MAX, u64::MAX)]);
    for (start, end) in entries {
        for &(first, last) in code {
            let (from, to) = (covered.max(first), start.min(last));
            if to > from && to - from >= PADDING_BYTES {
                let bytes = frame_pointers::code_at(elf, from).unwrap_or_default();
                let bytes = &bytes[..bytes.len().min((to - from) as usize)];
                frames.extend(teardown::frames(bytes).map(|(push, pop)| (from + push as u64, from + pop as u64)));
            }
        }
        covered = covered.max(end);
    }
    for (start, end) in frames {
        found.add_function(start, end, Rule::plain(KIND_RSP, 2, 2));
    }
}

/// Entries in order become rows; the later one wins where two overlap.
fn add_entries(packer: &mut Packer, found: &entries::Entries) {
    for (index, entry) in found.list.iter().enumerate() {
        let next = found.list.get(index + 1).map_or(u64::MAX, |next| next.start);
        for row in &found.rows[entry.rows.clone()] {
            if row.start < next {
                packer.unsupported += u64::from(row.rule == Rule::special(SPECIAL_UNSUPPORTED));
                packer.push(row.start, row.rule);
            }
        }
        if next > entry.end && next - entry.end >= PADDING_BYTES {
            packer.push(entry.end, Rule::special(SPECIAL_NONE));
        }
    }
}

/// A hash of what a file's table is made of (the C runtime's teardown aside, which comes with its `.eh_frame`); of a file without `.eh_frame`, of all its bytes. `None` for what is no
/// ELF file. Compilers come without build ids, and hashing all of one takes as long as reading its table from disk.
fn fingerprint(file: &[u8]) -> Option<u128> {
    let elf = ElfFile64::<LittleEndian>::parse(file).ok()?;
    let Some(section) = find_section(&elf, file) else { return Some(xxh3_128(file)) };
    let mut hash = Xxh3::new();
    // Which code there is, and where it is entered.
    hash.update(object::pod::bytes_of(elf.elf_header()));
    hash.update(object::pod::bytes_of_slice(elf.elf_program_headers()));
    hash.update(object::pod::bytes_of_slice(&[section.vaddr, section.text, section.got]));
    hash.update(section.data);
    Some(hash.digest128())
}

/// `.eh_frame`, by its section header, or by the program header that leads to it where section headers are stripped.
fn find_section<'a>(elf: &ElfFile64<'a, LittleEndian>, file: &'a [u8]) -> Option<Section<'a>> {
    let text = elf.section_by_name(".text").map_or(0, |section| section.address());
    let got = elf.section_by_name(".got").map_or(0, |section| section.address());
    if let Some(section) = elf.section_by_name(".eh_frame")
        && let Ok(data) = section.data()
        && !data.is_empty()
    {
        return Some(Section { data, vaddr: section.address(), text, got });
    }
    let headers = elf.elf_program_headers();
    let header = headers.iter().find(|header| header.p_type.get(LittleEndian) == elf::PT_GNU_EH_FRAME)?;
    let at = header.p_offset.get(LittleEndian) as usize;
    let vaddr = header.p_vaddr.get(LittleEndian);
    let bytes = file.get(at..at.checked_add(header.p_filesz.get(LittleEndian) as usize)?)?;
    let start = entries::section_start(bytes, vaddr)?;
    let segment = elf
        .segments()
        .find(|segment| start >= segment.address() && start - segment.address() < segment.file_range().1)?;
    let (offset, length) = segment.file_range();
    let skip = start - segment.address();
    let data = file.get((offset + skip) as usize..(offset + length) as usize)?;
    Some(Section { data, vaddr: start, text, got })
}
