//! Reads the memory of a process. Responsible for turning addresses into bytes and missing pages into errors; knows no
//! structure in it.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::TargetError;
use crate::elf::fields::u64_at;

/// Longest string read from a process.
const MAX_STRING_BYTES: usize = 4096;
const PAGE_BYTES: u64 = 4096;
const ESRCH: i32 = 3;

/// The memory of one process image. Stays bound to that image: after an exec, reads fail instead of showing the next one.
#[derive(Debug)]
pub struct ProcessMemory {
    pid: u32,
    file: File,
}

impl ProcessMemory {
    /// Opens the memory of a process.
    ///
    /// # Errors
    /// If the process is gone or may not be read.
    pub fn open(pid: u32) -> Result<Self, TargetError> {
        let path = PathBuf::from(format!("/proc/{pid}/mem"));
        match File::open(&path) {
            Ok(file) => Ok(Self { pid, file }),
            Err(source) => Err(proc_error(pid, path, source)),
        }
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Fills `data` from `address` on; all or nothing. `what` names it in the error.
    ///
    /// # Errors
    /// If not all of it is mapped.
    pub fn read(&self, what: &'static str, address: u64, data: &mut [u8]) -> Result<(), TargetError> {
        let mut filled = 0;
        while filled < data.len() {
            match self.file.read_at(&mut data[filled..], address.wrapping_add(filled as u64)) {
                Ok(count) if count > 0 => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => {
                    let size_bytes = data.len();
                    return Err(TargetError::Memory { pid: self.pid, what, address, size_bytes });
                }
            }
        }
        Ok(())
    }

    /// As [`ProcessMemory::read`], into an array.
    ///
    /// # Errors
    /// If not all of it is mapped.
    pub fn array<const N: usize>(&self, what: &'static str, address: u64) -> Result<[u8; N], TargetError> {
        let mut data = [0; N];
        self.read(what, address, &mut data)?;
        Ok(data)
    }

    /// A word.
    ///
    /// # Errors
    /// If it is not mapped.
    pub fn word(&self, what: &'static str, address: u64) -> Result<u64, TargetError> {
        Ok(u64::from_le_bytes(self.array(what, address)?))
    }

    /// Words at consecutive addresses.
    ///
    /// # Errors
    /// If not all of them are mapped.
    pub fn words<const N: usize>(&self, what: &'static str, address: u64) -> Result<[u64; N], TargetError> {
        let mut data = vec![0; N * 8];
        self.read(what, address, &mut data)?;
        Ok(std::array::from_fn(|index| u64_at(&data, index * 8).unwrap_or_default()))
    }

    /// A NUL-terminated string, without its NUL; cut off after 4096 bytes or where memory ends.
    ///
    /// # Errors
    /// If its first byte is not mapped.
    pub fn string(&self, what: &'static str, address: u64) -> Result<Vec<u8>, TargetError> {
        let mut string = Vec::new();
        let mut at = address;
        while string.len() < MAX_STRING_BYTES {
            // Never beyond the page, which may be the last one.
            let size = (PAGE_BYTES - at % PAGE_BYTES).min(256) as usize;
            let mut piece = vec![0; size];
            match self.read(what, at, &mut piece) {
                Ok(()) => {}
                Err(error) if string.is_empty() => return Err(error),
                Err(_) => break,
            }
            if let Some(end) = piece.iter().position(|&byte| byte == 0) {
                string.extend_from_slice(&piece[..end]);
                break;
            }
            string.extend_from_slice(&piece);
            at = at.wrapping_add(size as u64);
        }
        Ok(string)
    }
}

/// The error for a file of `/proc/PID` that could not be opened or read.
pub(super) fn proc_error(pid: u32, path: PathBuf, source: std::io::Error) -> TargetError {
    match source.kind() {
        ErrorKind::PermissionDenied => TargetError::Permission { pid, path },
        ErrorKind::NotFound if !std::path::Path::new(&format!("/proc/{pid}")).exists() => TargetError::Gone { pid },
        _ if source.raw_os_error() == Some(ESRCH) => TargetError::Gone { pid },
        _ => TargetError::Proc { path, source },
    }
}
