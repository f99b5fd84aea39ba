//! What can be wrong with an ELF file.

use std::path::PathBuf;

/// Why an ELF file could not be used; names the file, the place and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// Opening or reading failed.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file ends before something its headers promise.
    #[error(
        "{path}: {what} at offset {offset:#x} (size {size_bytes:#x}) lies beyond the end of the file ({file_bytes:#x} bytes); is it truncated?"
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What should have been there.
        what: &'static str,
        /// File offset it should start at.
        offset: u64,
        /// Its size.
        size_bytes: u64,
        /// Size of the file.
        file_bytes: u64,
    },
    /// No ELF magic.
    #[error("{path} is not an ELF file")]
    NotElf {
        /// The file.
        path: PathBuf,
    },
    /// An ELF file for another machine.
    #[error("{path} is built for {found}; heaptape records x86-64 Linux programs only")]
    OtherMachine {
        /// The file.
        path: PathBuf,
        /// Such as `32-bit x86`, `AArch64`.
        found: String,
    },
    /// A header field that no linker writes.
    #[error("{path}: {what} is {found}, expected {expected}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The field.
        what: &'static str,
        /// Its value.
        found: u64,
        /// What is allowed.
        expected: &'static str,
    },
    /// An address that no loaded part of the file backs.
    #[error("{path}: no file bytes are loaded at virtual address {vaddr:#x}")]
    NoSuchAddress {
        /// The file.
        path: PathBuf,
        /// The address.
        vaddr: u64,
    },
}
