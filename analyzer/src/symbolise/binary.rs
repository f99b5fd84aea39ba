#![expect(unsafe_code, reason = "binaries are mapped, not read: librustc_driver alone is larger than 100 MiB")]
//! The file behind a module. Responsible for finding the right file, and a separate debug file beside it; not for what
//! its symbols mean.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use object::Object;
use object::elf::FileHeader64;
use object::endian::LittleEndian;
use object::read::elf::ElfFile;
use trace_format::Module;

/// A 64-bit little-endian ELF file in memory.
pub(super) type Elf<'data> = ElfFile<'data, FileHeader64<LittleEndian>>;

/// A mapped binary and its separate debug file, if there is one.
#[derive(Debug)]
pub(super) struct Binary {
    main: Mmap,
    debug: Option<Mmap>,
}

impl Binary {
    /// A file that is known to be the recorded one.
    pub(super) fn trusted(file: &File, debug_root: &Path) -> Option<Self> {
        let main = map(file)?;
        let build_id = Elf::parse(&*main).ok()?.build_id().ok().flatten().unwrap_or_default().to_vec();
        let debug = separate_debug_file(&build_id, debug_root);
        Some(Self { main, debug })
    }

    /// The file at the module's path, if it is the one that was recorded: same build id, or without one, same size.
    pub(super) fn matching(module: &Module, debug_root: &Path) -> Option<Self> {
        if !module.path.starts_with('/') {
            return None;
        }
        let binary = Self::trusted(&open_regular(Path::new(&module.path))?, debug_root)?;
        let build_id = binary.elf()?.build_id().ok().flatten().unwrap_or_default();
        let same = if module.build_id.is_empty() {
            build_id.is_empty() && module.size_bytes == binary.main.len() as u64
        } else {
            build_id == module.build_id
        };
        same.then_some(binary)
    }

    /// The binary itself.
    pub(super) fn elf(&self) -> Option<Elf<'_>> {
        Elf::parse(&*self.main).ok()
    }

    /// The separate debug file.
    pub(super) fn debug_elf(&self) -> Option<Elf<'_>> {
        Elf::parse(&**self.debug.as_ref()?).ok()
    }
}

fn map(file: &File) -> Option<Mmap> {
    if file.metadata().ok()?.len() == 0 {
        return None;
    }
    // SAFETY: the mapping is private and only read. Somebody who truncates an installed binary while we read it kills
    // us with SIGBUS; package managers replace files instead, and a recording's trace is on disk by then.
    unsafe { Mmap::map(file) }.ok()
}

/// Opens a path unless it is a pipe or a device, which a recorded path may have become.
fn open_regular(path: &Path) -> Option<File> {
    std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    File::open(path).ok()
}

fn separate_debug_file(build_id: &[u8], root: &Path) -> Option<Mmap> {
    let (first, rest) = build_id.split_first()?;
    let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
    let path: PathBuf = root.join(format!("{first:02x}")).join(format!("{rest}.debug"));
    let debug = map(&open_regular(&path)?)?;
    let same = Elf::parse(&*debug).ok()?.build_id().ok().flatten() == Some(build_id);
    same.then_some(debug)
}
