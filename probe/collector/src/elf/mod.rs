//! What an ELF file says: build id, segments, interpreter, allocator functions, a few landmarks of the dynamic linker.
//!
//! Responsible for reading files, which are untrusted: truncated, overwritten or hostile ones give an [`ElfError`], never a panic.
//! Not responsible for where a file is mapped (`target`) nor for what its code does (`placement`).
//!
//! An [`ElfImage`] holds facts only, no file handle: it is kept per file for a whole recording, which can meet thousands of
//! files. Ranges are read with `pread`, not mapped: a library that is overwritten while it is looked at then gives a short read, where
//! a mapping would give SIGBUS. Reading both symbol tables of a 150 MB library costs about the same either way.

mod code;
mod error;
pub(crate) mod fields;
mod functions;
mod gabi;
mod headers;
mod name_filter;
mod relocations;
mod static_probes;
mod symbols;
mod unwind_index;

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub use code::ElfCode;
pub use error::ElfError;
pub use functions::{AllocatorFunction, FunctionName};
pub use name_filter::NameFilter;
pub use relocations::Slot;
pub use static_probes::StaticProbe;
pub use symbols::{FunctionSymbol, SymbolAddress};

use headers::Headers;
use symbols::SymbolTable;

/// How a file is linked, as far as its headers tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linkage {
    /// Executable at a fixed address without an interpreter.
    Static,
    /// Position independent executable without an interpreter.
    StaticPie,
    /// Names an interpreter: a dynamically linked executable (or a library that can be run, such as glibc's `libc.so.6`).
    Dynamic,
    /// Shared object, among them `ld.so`.
    SharedObject,
}

/// A loaded part of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First virtual address.
    pub vaddr: u64,
    /// Where its bytes are in the file.
    pub file_offset: u64,
    /// Bytes taken from the file.
    pub file_bytes: u64,
    /// Bytes in memory; what exceeds `file_bytes` is zero.
    pub memory_bytes: u64,
    /// Whether code can run there.
    pub executable: bool,
}

/// Exported symbols of the dynamic linker that tell where it reports what it loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Landmarks {
    /// `_dl_debug_state`: called whenever the list of loaded modules changed.
    pub dl_debug_state: Option<u64>,
    /// `_r_debug`: head of the list of loaded modules.
    pub r_debug: Option<u64>,
    /// `_dl_debug_addr`: musl's pointer to such a list.
    pub dl_debug_addr: Option<u64>,
    /// `_rtld_global`: only glibc's `ld.so` defines it.
    pub rtld_global: Option<u64>,
}

/// Facts about one x86-64 ELF file. All `vaddr`s are link-time addresses (`st_value` terms).
#[derive(Debug, Clone)]
pub struct ElfImage {
    /// Path it was opened by, for messages.
    pub path: PathBuf,
    /// Size of the file.
    pub file_bytes: u64,
    /// GNU build id, empty where there is none.
    pub build_id: Vec<u8>,
    /// How it is linked.
    pub linkage: Linkage,
    /// `PT_INTERP`.
    pub interpreter: Option<PathBuf>,
    /// Entry point.
    pub entry_vaddr: u64,
    /// Loaded parts, as in the file.
    pub segments: Vec<Segment>,
    /// `PT_DYNAMIC`.
    pub dynamic: Option<Range<u64>>,
    /// Linkage stubs: an address in here is not the function it leads to.
    pub plt: Vec<Range<u64>>,
    /// Allocator functions, one entry per address, ascending.
    pub functions: Vec<AllocatorFunction>,
    /// Symbols of the dynamic linker.
    pub landmarks: Landmarks,
    tables: Vec<SymbolTable>,
    relocation_sections: Vec<headers::RelocationSection>,
    unwind_index: Option<Segment>,
    probe_notes: Option<static_probes::ProbeNotes>,
}

/// A file and its size, from which ranges are read with bounds checked.
pub(crate) struct Reader<'a> {
    file: &'a File,
    path: &'a Path,
    file_bytes: u64,
}

/// Nothing that is read at once is larger, whatever a (sparse) file claims.
const MAX_RANGE_BYTES: u64 = 4 << 30;
/// A page: what mappings are made of.
const PAGE_BYTES: u64 = 4096;

impl<'a> Reader<'a> {
    fn new(file: &'a File, path: &'a Path) -> Result<Self, ElfError> {
        let metadata = file.metadata().map_err(|source| ElfError::Read { path: path.to_owned(), source })?;
        Ok(Self { file, path, file_bytes: metadata.len() })
    }

    /// Exactly `size_bytes` bytes. Checked against the file's size before anything is allocated.
    fn range(&self, what: &'static str, offset: u64, size_bytes: u64) -> Result<Vec<u8>, ElfError> {
        let truncated = || ElfError::Truncated {
            path: self.path.to_owned(),
            what,
            offset,
            size_bytes,
            file_bytes: self.file_bytes,
        };
        if offset.checked_add(size_bytes).is_none_or(|end| end > self.file_bytes) {
            return Err(truncated());
        }
        if size_bytes > MAX_RANGE_BYTES {
            let path = self.path.to_owned();
            return Err(ElfError::Malformed { path, what, found: size_bytes, expected: "at most 4 GiB" });
        }
        let mut data = vec![0; size_bytes as usize];
        match self.file.read_exact_at(&mut data, offset) {
            Ok(()) => Ok(data),
            Err(source) if source.kind() == std::io::ErrorKind::UnexpectedEof => Err(truncated()),
            Err(source) => Err(ElfError::Read { path: self.path.to_owned(), source }),
        }
    }

    /// Up to `size_bytes` bytes: fewer where the file ends.
    fn up_to(&self, what: &'static str, offset: u64, size_bytes: u64) -> Result<Vec<u8>, ElfError> {
        self.range(what, offset, size_bytes.min(self.file_bytes.saturating_sub(offset)))
    }
}

impl ElfImage {
    /// Opens and reads the file at `path`.
    ///
    /// # Errors
    /// As [`ElfImage::from_file`].
    pub fn open(path: &Path) -> Result<Self, ElfError> {
        let file = File::open(path).map_err(|source| ElfError::Read { path: path.to_owned(), source })?;
        Self::from_file(&file, path)
    }

    /// Reads the facts of an open file. `path` is for messages only. Cost: the symbol tables are read once (about 15 ms for
    /// `librustc_driver.so`'s 165,000 symbols).
    ///
    /// # Errors
    /// If the file cannot be read, is not ELF, is for another machine, or contradicts itself.
    pub fn from_file(file: &File, path: &Path) -> Result<Self, ElfError> {
        let reader = Reader::new(file, path)?;
        let headers = Headers::read(&reader)?;
        let mut found = functions::Collector::default();
        for table in &headers.symbol_tables {
            symbols::scan(&reader, table, |symbol| found.take(symbol, table.exported))?;
        }
        let is_code = |vaddr| headers.segments.iter().any(|segment| segment.executable && segment.holds(vaddr));
        let (functions, landmarks) = found.finish(is_code);
        Ok(Self {
            path: path.to_owned(),
            file_bytes: reader.file_bytes,
            build_id: headers.build_id,
            linkage: headers.linkage,
            interpreter: headers.interpreter,
            entry_vaddr: headers.entry_vaddr,
            segments: headers.segments,
            dynamic: headers.dynamic,
            plt: headers.plt,
            functions,
            landmarks,
            tables: headers.symbol_tables,
            relocation_sections: headers.relocation_sections,
            unwind_index: headers.unwind_index,
            probe_notes: headers.probe_notes,
        })
    }

    /// File offset of a virtual address, if file bytes are loaded there.
    pub fn file_offset(&self, vaddr: u64) -> Option<u64> {
        let segment = self.segments.iter().find(|segment| segment.holds(vaddr))?;
        segment.file_offset.checked_add(vaddr - segment.vaddr)
    }

    /// Virtual address of a file offset, preferring code where segments share a page of the file.
    pub fn vaddr(&self, file_offset: u64) -> Option<u64> {
        let at = |segment: &&Segment| {
            file_offset.checked_sub(segment.file_offset).is_some_and(|distance| distance < segment.file_bytes)
        };
        let segment = (self.segments.iter().filter(at).find(|segment| segment.executable))
            .or_else(|| self.segments.iter().find(at))?;
        segment.vaddr.checked_add(file_offset - segment.file_offset)
    }

    /// Virtual address of the first byte of an executable mapping that begins at a file offset. Mappings begin at pages: the
    /// segment that it maps may begin further on in its first page, which holds the end of another segment as well.
    pub fn code_vaddr(&self, mapping_offset: u64) -> Option<u64> {
        let segment = self.segments.iter().filter(|segment| segment.executable).find(|segment| {
            let first = segment.file_offset & !(PAGE_BYTES - 1);
            mapping_offset >= first && mapping_offset < segment.file_offset.saturating_add(segment.file_bytes)
        })?;
        Some(segment.vaddr.wrapping_add(mapping_offset).wrapping_sub(segment.file_offset))
    }

    /// From the first to past the last executable address.
    pub fn text(&self) -> Option<Range<u64>> {
        let code = || self.segments.iter().filter(|segment| segment.executable);
        let low = code().map(|segment| segment.vaddr).min()?;
        let high = code().map(|segment| segment.vaddr.saturating_add(segment.memory_bytes)).max()?;
        Some(low..high)
    }

    /// Whether an address is in a linkage stub.
    pub fn is_plt(&self, vaddr: u64) -> bool {
        self.plt.iter().any(|range| range.contains(&vaddr))
    }

    /// The code of this file, to be read through `file`.
    pub fn code<'a>(&'a self, file: &'a File) -> ElfCode<'a> {
        ElfCode::new(self, file)
    }
}

impl Segment {
    /// Whether file bytes are loaded at this address.
    pub fn holds(&self, vaddr: u64) -> bool {
        vaddr.checked_sub(self.vaddr).is_some_and(|distance| distance < self.file_bytes)
    }
}
