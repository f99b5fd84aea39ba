//! Reads the ELF header, program headers, section headers, notes and the interpreter's name. Responsible for layout and
//! plausibility; not for symbols.

use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::fields::{string_at, u16_at, u32_at, u64_at};
use super::static_probes::ProbeNotes;
use super::symbols::SymbolTable;
use super::{ElfError, Linkage, Reader, Segment, gabi};

/// Size of an ELF64 header.
const HEADER_BYTES: u64 = 64;
const PROGRAM_HEADER_BYTES: u16 = 56;
const SECTION_HEADER_BYTES: u16 = 64;
/// Longest interpreter path and longest note segment that are looked at.
const MAX_INTERPRETER_BYTES: u64 = 4096;
const MAX_NOTE_BYTES: u64 = 64 << 10;

/// A section of relocations with addends and the symbol table it names.
#[derive(Debug, Clone, Copy)]
pub(super) struct RelocationSection {
    pub(super) file_offset: u64,
    pub(super) size_bytes: u64,
    /// Where its symbols are, by file offset and size of symbols and strings; `None` where it needs none.
    pub(super) symbols: Option<SymbolTable>,
}

/// What the headers say.
pub(super) struct Headers {
    pub(super) linkage: Linkage,
    pub(super) build_id: Vec<u8>,
    pub(super) interpreter: Option<PathBuf>,
    pub(super) entry_vaddr: u64,
    pub(super) segments: Vec<Segment>,
    pub(super) dynamic: Option<Range<u64>>,
    pub(super) plt: Vec<Range<u64>>,
    pub(super) symbol_tables: Vec<SymbolTable>,
    pub(super) relocation_sections: Vec<RelocationSection>,
    pub(super) unwind_index: Option<Segment>,
    pub(super) probe_notes: Option<ProbeNotes>,
}

struct ProgramHeader {
    kind: u32,
    segment: Segment,
}

struct Section {
    name: usize,
    kind: u32,
    flags: u64,
    vaddr: u64,
    file_offset: u64,
    size_bytes: u64,
    link: usize,
}

impl Headers {
    pub(super) fn read(reader: &Reader<'_>) -> Result<Self, ElfError> {
        let head = reader.up_to("the ELF header", 0, HEADER_BYTES)?;
        check_machine(reader, &head)?;
        if head.len() < HEADER_BYTES as usize {
            reader.range("the ELF header", 0, HEADER_BYTES)?;
        }
        let field16 = |offset| u16_at(&head, offset).unwrap_or_default();
        let field64 = |offset| u64_at(&head, offset).unwrap_or_default();
        let file_type = field16(16);

        let program_headers = read_program_headers(reader, field64(32), field16(54), field16(56))?;
        let sections = read_sections(reader, field64(40), field16(58), field16(60))?;
        let section_names = match sections.get(usize::from(field16(62))) {
            Some(names) if names.kind == gabi::SHT_STRTAB => {
                reader.range("the section names", names.file_offset, names.size_bytes)?
            }
            _ => Vec::new(),
        };

        let segments: Vec<Segment> =
            program_headers.iter().filter(|header| header.kind == gabi::PT_LOAD).map(|header| header.segment).collect();
        let interpreter = read_interpreter(reader, &program_headers)?;
        let dynamic_header = program_headers.iter().find(|header| header.kind == gabi::PT_DYNAMIC);
        let dynamic_entries = match dynamic_header {
            Some(header) => {
                reader.range("the dynamic section", header.segment.file_offset, header.segment.file_bytes)?
            }
            None => Vec::new(),
        };
        let dynamic = DynamicEntries(&dynamic_entries);

        let mut symbol_tables = symbol_tables(&sections);
        if !symbol_tables.iter().any(|table| table.exported) {
            symbol_tables.extend(dynamic.symbol_table(reader, &segments)?);
        }
        Ok(Self {
            linkage: match (file_type, &interpreter) {
                (_, Some(_)) => Linkage::Dynamic,
                (gabi::ET_EXEC, None) => Linkage::Static,
                _ if dynamic.value(gabi::DT_FLAGS_1).unwrap_or(0) & gabi::DF_1_PIE != 0 => Linkage::StaticPie,
                _ => Linkage::SharedObject,
            },
            build_id: read_build_id(reader, &program_headers)?,
            interpreter,
            entry_vaddr: field64(24),
            dynamic: dynamic_header
                .map(|header| header.segment.vaddr..header.segment.vaddr.saturating_add(header.segment.memory_bytes)),
            plt: plt_ranges(&sections, &section_names),
            probe_notes: probe_notes(&sections, &section_names),
            relocation_sections: relocation_sections(&sections),
            unwind_index: program_headers
                .iter()
                .find(|header| header.kind == gabi::PT_GNU_EH_FRAME)
                .map(|header| header.segment),
            segments,
            symbol_tables,
        })
    }
}

fn check_machine(reader: &Reader<'_>, head: &[u8]) -> Result<(), ElfError> {
    if !head.starts_with(&gabi::ELFMAG) {
        return Err(ElfError::NotElf { path: reader.path.to_owned() });
    }
    let other = |found: String| Err(ElfError::OtherMachine { path: reader.path.to_owned(), found });
    let machine = u16_at(head, 18).unwrap_or_default();
    match (head.get(4), head.get(5), machine) {
        (Some(&gabi::ELFCLASS64), Some(&gabi::ELFDATA2LSB), gabi::EM_X86_64) => Ok(()),
        (_, _, gabi::EM_386) => other("32-bit x86".into()),
        (Some(&gabi::ELFCLASS32), _, gabi::EM_X86_64) => other("x86-64 with 32-bit pointers (x32)".into()),
        (_, _, gabi::EM_AARCH64) => other("AArch64".into()),
        (_, _, gabi::EM_RISCV) => other("RISC-V".into()),
        (_, _, machine) => other(format!("another machine (ELF machine number {machine})")),
    }
}

fn read_program_headers(
    reader: &Reader<'_>,
    offset: u64,
    size: u16,
    count: u16,
) -> Result<Vec<ProgramHeader>, ElfError> {
    if count > 0 && size != PROGRAM_HEADER_BYTES {
        let path = reader.path.to_owned();
        return Err(ElfError::Malformed { path, what: "e_phentsize", found: size.into(), expected: "56" });
    }
    let data = reader.range("the program headers", offset, u64::from(size) * u64::from(count))?;
    let headers = data.chunks_exact(usize::from(PROGRAM_HEADER_BYTES));
    Ok(headers.filter_map(program_header).collect())
}

fn program_header(data: &[u8]) -> Option<ProgramHeader> {
    Some(ProgramHeader {
        kind: u32_at(data, 0)?,
        segment: Segment {
            vaddr: u64_at(data, 16)?,
            file_offset: u64_at(data, 8)?,
            file_bytes: u64_at(data, 32)?,
            memory_bytes: u64_at(data, 40)?,
            executable: u32_at(data, 4)? & gabi::PF_X != 0,
        },
    })
}

fn read_sections(reader: &Reader<'_>, offset: u64, size: u16, count: u16) -> Result<Vec<Section>, ElfError> {
    if offset == 0 || count == 0 {
        return Ok(Vec::new());
    }
    if size != SECTION_HEADER_BYTES {
        let path = reader.path.to_owned();
        return Err(ElfError::Malformed { path, what: "e_shentsize", found: size.into(), expected: "64" });
    }
    let data = reader.range("the section headers", offset, u64::from(size) * u64::from(count))?;
    Ok(data.chunks_exact(usize::from(SECTION_HEADER_BYTES)).filter_map(section).collect())
}

fn section(data: &[u8]) -> Option<Section> {
    Some(Section {
        name: u32_at(data, 0)? as usize,
        kind: u32_at(data, 4)?,
        flags: u64_at(data, 8)?,
        vaddr: u64_at(data, 16)?,
        file_offset: u64_at(data, 24)?,
        size_bytes: u64_at(data, 32)?,
        link: u32_at(data, 40)? as usize,
    })
}

fn symbol_table(sections: &[Section], symbols: &Section) -> Option<SymbolTable> {
    let strings = sections.get(symbols.link).filter(|strings| strings.kind == gabi::SHT_STRTAB)?;
    Some(SymbolTable {
        symbols_offset: symbols.file_offset,
        symbols_bytes: symbols.size_bytes,
        strings_offset: strings.file_offset,
        strings_bytes: strings.size_bytes,
        exported: symbols.kind == gabi::SHT_DYNSYM,
    })
}

fn is_symbols(section: &Section) -> bool {
    section.kind == gabi::SHT_DYNSYM || section.kind == gabi::SHT_SYMTAB
}

fn symbol_tables(sections: &[Section]) -> Vec<SymbolTable> {
    let mut tables: Vec<_> = sections
        .iter()
        .filter(|section| is_symbols(section))
        .filter_map(|section| symbol_table(sections, section))
        .collect();
    // Exported symbols first: their names are the ones a person knows a function by.
    tables.sort_by_key(|table| !table.exported);
    tables
}

fn relocation_sections(sections: &[Section]) -> Vec<RelocationSection> {
    let loaded = |section: &&Section| section.kind == gabi::SHT_RELA && section.flags & gabi::SHF_ALLOC != 0;
    sections
        .iter()
        .filter(loaded)
        .map(|section| RelocationSection {
            file_offset: section.file_offset,
            size_bytes: section.size_bytes,
            symbols: sections
                .get(section.link)
                .filter(|section| is_symbols(section))
                .and_then(|table| symbol_table(sections, table)),
        })
        .collect()
}

fn plt_ranges(sections: &[Section], names: &[u8]) -> Vec<Range<u64>> {
    let is_plt = |section: &&Section| {
        string_at(names, section.name)
            .is_some_and(|name| name == b".plt" || name == b".iplt" || name.starts_with(b".plt."))
    };
    sections
        .iter()
        .filter(is_plt)
        .map(|section| section.vaddr..section.vaddr.saturating_add(section.size_bytes))
        .collect()
}

/// The notes of static probes.
fn probe_notes(sections: &[Section], names: &[u8]) -> Option<ProbeNotes> {
    let named = |name: &[u8]| sections.iter().find(|section| string_at(names, section.name) == Some(name));
    let notes = named(b".note.stapsdt")?;
    let base_vaddr = named(b".stapsdt.base").map(|base| base.vaddr);
    Some(ProbeNotes { file_offset: notes.file_offset, size_bytes: notes.size_bytes, base_vaddr })
}

fn read_interpreter(reader: &Reader<'_>, headers: &[ProgramHeader]) -> Result<Option<PathBuf>, ElfError> {
    let Some(header) = headers.iter().find(|header| header.kind == gabi::PT_INTERP) else { return Ok(None) };
    let size_bytes = header.segment.file_bytes.min(MAX_INTERPRETER_BYTES);
    let mut name = reader.range("the interpreter's path", header.segment.file_offset, size_bytes)?;
    name.truncate(name.iter().position(|&byte| byte == 0).unwrap_or(name.len()));
    Ok(Some(PathBuf::from(std::ffi::OsString::from_vec(name))))
}

/// The GNU build id from the note segments; a note that makes no sense ends its segment.
fn read_build_id(reader: &Reader<'_>, headers: &[ProgramHeader]) -> Result<Vec<u8>, ElfError> {
    for header in headers.iter().filter(|header| header.kind == gabi::PT_NOTE) {
        let size_bytes = header.segment.file_bytes.min(MAX_NOTE_BYTES);
        let notes = reader.range("the notes", header.segment.file_offset, size_bytes)?;
        if let Some(id) = build_id(&notes, 4).or_else(|| build_id(&notes, 8)) {
            return Ok(id);
        }
    }
    Ok(Vec::new())
}

fn build_id(notes: &[u8], alignment: usize) -> Option<Vec<u8>> {
    let mut offset: usize = 0;
    loop {
        let name_bytes = u32_at(notes, offset)? as usize;
        let data_bytes = u32_at(notes, offset.checked_add(4)?)? as usize;
        let kind = u32_at(notes, offset.checked_add(8)?)?;
        let name_start = offset.checked_add(12)?;
        let data_start = name_start.checked_add(name_bytes)?.checked_next_multiple_of(alignment)?;
        let data_end = data_start.checked_add(data_bytes)?;
        let name = notes.get(name_start..name_start.checked_add(name_bytes)?)?;
        let data = notes.get(data_start..data_end)?;
        if kind == gabi::NT_GNU_BUILD_ID && name == b"GNU\0" {
            return Some(data.to_vec());
        }
        offset = data_end.checked_next_multiple_of(alignment)?;
    }
}

/// The dynamic section's (tag, value) pairs: what is left of a file whose section headers were removed.
struct DynamicEntries<'a>(&'a [u8]);

impl DynamicEntries<'_> {
    fn value(&self, tag: u64) -> Option<u64> {
        let mut entries = self.0.chunks_exact(16).map(|entry| (u64_at(entry, 0), u64_at(entry, 8)));
        entries.find(|(found, _)| *found == Some(tag))?.1
    }

    fn symbol_table(&self, reader: &Reader<'_>, segments: &[Segment]) -> Result<Option<SymbolTable>, ElfError> {
        let offset_of = |vaddr: u64| {
            let segment = segments.iter().find(|segment| segment.holds(vaddr))?;
            segment.file_offset.checked_add(vaddr - segment.vaddr)
        };
        let file_offset = |tag| self.value(tag).and_then(offset_of);
        let (Some(symbols_offset), Some(strings_offset), Some(strings_bytes)) =
            (file_offset(gabi::DT_SYMTAB), file_offset(gabi::DT_STRTAB), self.value(gabi::DT_STRSZ))
        else {
            return Ok(None);
        };
        let count = if let Some(hash) = file_offset(gabi::DT_HASH) {
            u32_at(&reader.range("the hash table", hash, 8)?, 4)
        } else if let Some(hash) = file_offset(gabi::DT_GNU_HASH) {
            gnu_hash_symbol_count(reader, hash)?
        } else {
            None
        };
        Ok(count.map(|count| SymbolTable {
            symbols_offset,
            symbols_bytes: u64::from(count) * super::symbols::SYMBOL_BYTES as u64,
            strings_offset,
            strings_bytes,
            exported: true,
        }))
    }
}

/// A GNU hash table does not say how many symbols there are: the last chain ends at the last symbol.
fn gnu_hash_symbol_count(reader: &Reader<'_>, offset: u64) -> Result<Option<u32>, ElfError> {
    let what = "the GNU hash table";
    let head = reader.range(what, offset, 16)?;
    let field = |at| u32_at(&head, at).unwrap_or_default();
    let (bucket_count, first_symbol, bloom_words) = (field(0), field(4), field(8));
    let buckets_offset = offset + 16 + 8 * u64::from(bloom_words);
    let buckets = reader.range(what, buckets_offset, 4 * u64::from(bucket_count))?;
    let Some(mut last) = buckets.chunks_exact(4).filter_map(|bucket| u32_at(bucket, 0)).max() else { return Ok(None) };
    if last < first_symbol {
        return Ok(Some(first_symbol));
    }
    let chains_offset = buckets_offset + 4 * u64::from(bucket_count);
    let chain_offset = chains_offset + 4 * u64::from(last - first_symbol);
    let chain = reader.up_to(what, chain_offset, 1 << 20)?;
    for hash in chain.chunks_exact(4) {
        if u32_at(hash, 0).is_some_and(|hash| hash & 1 == 1) {
            return Ok(last.checked_add(1));
        }
        let Some(next) = last.checked_add(1) else { break };
        last = next;
    }
    Ok(None)
}
