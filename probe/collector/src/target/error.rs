//! What can go wrong while a process is looked at.

use std::path::PathBuf;

use crate::elf::ElfError;

/// Why a process, or a part of it, could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The process is gone, or is a zombie (or a kernel thread): it has no memory.
    #[error("process {pid} has ended, or is no user program")]
    Gone {
        /// The process.
        pid: u32,
    },
    /// The system refuses to show the process.
    #[error("no permission to read {path}; run heaptape as root, or as the user who owns process {pid}")]
    Permission {
        /// The process.
        pid: u32,
        /// What was opened.
        path: PathBuf,
    },
    /// A file of `/proc` could not be read.
    #[error("cannot read {path}: {source}")]
    Proc {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Memory of the process that should be there is not.
    #[error("process {pid}: cannot read {size_bytes} bytes of {what} at {address:#x}")]
    Memory {
        /// The process.
        pid: u32,
        /// What should be there.
        what: &'static str,
        /// Where.
        address: u64,
        /// How much.
        size_bytes: usize,
    },
    /// The dynamic linker has not yet listed what it loads: too early after exec.
    #[error(
        "process {pid}: the dynamic linker has not yet listed the modules it loads; wait until it calls _dl_debug_state"
    )]
    NotYet {
        /// The process.
        pid: u32,
    },
    /// What the kernel or the dynamic linker says of the process makes no sense.
    #[error("process {pid}: {what}")]
    Inconsistent {
        /// The process.
        pid: u32,
        /// What is wrong.
        what: String,
    },
    /// The program's own file cannot be used.
    #[error(transparent)]
    Elf(#[from] ElfError),
}
