//! A file mapped into a process. Responsible for addresses and for getting back to the file.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::TargetError;
use super::maps::{Mapping, open_mapped_file};
use super::module_cache::{FileIdentity, ModuleCache, ModuleFile};

/// What a module is to its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The program.
    Executable,
    /// The dynamic linker (with musl, also libc).
    Interpreter,
    /// Anything else.
    Library,
}

/// A file mapped into a process.
#[derive(Debug, Clone)]
pub struct Module {
    /// The process.
    pub pid: u32,
    /// What it is.
    pub role: Role,
    /// Path as the process sees it.
    pub path: PathBuf,
    /// Added to link-time addresses gives process addresses.
    pub load_bias: u64,
    /// 0, or the number of its `dlmopen` namespace.
    pub namespace: usize,
    /// What is known of the file.
    pub file: Arc<ModuleFile>,
    /// One of its mappings, the way back to the file.
    pub mapping: Mapping,
}

impl Module {
    /// Process address of a link-time address.
    pub fn address(&self, vaddr: u64) -> u64 {
        vaddr.wrapping_add(self.load_bias)
    }

    /// Link-time address of a process address.
    pub fn vaddr(&self, address: u64) -> u64 {
        address.wrapping_sub(self.load_bias)
    }

    /// From the first to past the last of its executable process addresses.
    pub fn text(&self) -> Range<u64> {
        let text = self.file.image.text().unwrap_or_default();
        self.address(text.start)..self.address(text.end)
    }

    /// Last part of its path.
    pub fn file_name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    /// Opens its file, and tells the path that led to it: for as long as the process keeps the mapping, that path is good for
    /// placing probes (see [`open_mapped_file`]).
    ///
    /// # Errors
    /// If the process or the file is gone.
    pub fn open(&self) -> Result<(File, PathBuf), TargetError> {
        open_mapped_file(self.pid, &self.mapping, self.role == Role::Executable)
    }
}

/// The facts of the file behind a mapping, from the cache if it is known.
pub(super) fn mapped_file(
    pid: u32,
    mapping: &Mapping,
    is_executable: bool,
    cache: &mut ModuleCache,
) -> Result<Arc<ModuleFile>, TargetError> {
    let range = &mapping.range;
    let direct = format!("/proc/{pid}/map_files/{:x}-{:x}", range.start, range.end);
    if let Ok(metadata) = std::fs::metadata(&direct)
        && let Some(Ok(known)) = cache.known(FileIdentity::of(&metadata))
    {
        return Ok(known);
    }
    let (file, _) = open_mapped_file(pid, mapping, is_executable)?;
    cache
        .get(&file, path_for_messages(mapping))
        .map_err(|error| TargetError::Inconsistent { pid, what: error.to_string() })
}

fn path_for_messages(mapping: &Mapping) -> &Path {
    &mapping.path
}
