//! Remembers what was found in files. Responsible for telling files apart: a second process of the same compiler costs a
//! `stat` per module instead of a walk over its symbol tables.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::planned::{LeftOut, PlannedAllocator, allocators};
use crate::elf::{ElfError, ElfImage};
use crate::placement::KernelRules;

/// What tells one file from another, or from itself after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    /// Device it is on.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// Time of the last change of its contents, ns since the Unix epoch.
    pub modified_ns: i128,
    /// Size.
    pub size_bytes: u64,
}

impl FileIdentity {
    /// From a file's metadata.
    pub fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            modified_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
            size_bytes: metadata.len(),
        }
    }
}

/// Everything known of one file.
#[derive(Debug)]
pub struct ModuleFile {
    /// Which file.
    pub identity: FileIdentity,
    /// Its ELF facts.
    pub image: ElfImage,
    /// Its allocators, with their probes placed.
    pub allocators: Vec<PlannedAllocator>,
    /// Functions with an allocator's names that make none.
    pub left_out: Vec<LeftOut>,
}

/// Files seen so far. Files that are no x86-64 ELF are remembered too.
#[derive(Debug, Default)]
pub struct ModuleCache {
    rules: KernelRules,
    files: HashMap<FileIdentity, Result<Arc<ModuleFile>, Arc<ElfError>>>,
}

impl ModuleCache {
    /// An empty cache that places probes by these rules.
    pub fn new(rules: KernelRules) -> Self {
        Self { rules, files: HashMap::new() }
    }

    /// The rules probes are placed by.
    pub fn rules(&self) -> KernelRules {
        self.rules
    }

    /// What is known of a file without opening it.
    pub(super) fn known(&self, identity: FileIdentity) -> Option<Result<Arc<ModuleFile>, Arc<ElfError>>> {
        self.files.get(&identity).cloned()
    }

    /// Facts of an open file, read now if it is new. `path` is for messages.
    ///
    /// # Errors
    /// If the file is no x86-64 ELF file that can be read.
    pub fn get(&mut self, file: &File, path: &Path) -> Result<Arc<ModuleFile>, Arc<ElfError>> {
        let metadata = file.metadata().map_err(|source| Arc::new(ElfError::Read { path: path.to_owned(), source }))?;
        let identity = FileIdentity::of(&metadata);
        if let Some(known) = self.known(identity) {
            return known;
        }
        let facts = ElfImage::from_file(file, path).map_err(Arc::new).map(|image| {
            let (allocators, left_out) = allocators(&image, file, self.rules);
            Arc::new(ModuleFile { identity, image, allocators, left_out })
        });
        self.files.insert(identity, facts.clone());
        facts
    }
}
