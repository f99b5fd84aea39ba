//! Reads the machine code of an ELF file for `placement`. Responsible for turning virtual addresses into bytes and for where
//! functions end; knows no instructions.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{ElfError, ElfImage, Reader, unwind_index};
use crate::placement::CodeSource;

/// The code of a file: an image and the handle to read it through.
pub struct ElfCode<'a> {
    image: &'a ElfImage,
    file: &'a File,
    /// Where functions start, ascending; read when first asked for.
    function_starts: OnceCell<Vec<u64>>,
    /// Functions of this file by the slots they are bound to; read when first asked for.
    bindings: OnceCell<HashMap<u64, u64>>,
}

impl<'a> ElfCode<'a> {
    pub(super) fn new(image: &'a ElfImage, file: &'a File) -> Self {
        Self { image, file, function_starts: OnceCell::new(), bindings: OnceCell::new() }
    }

    /// Bytes from `vaddr` to the next function, 0 if the file does not tell.
    pub fn function_size(&self, vaddr: u64) -> u64 {
        self.function_end(vaddr).map_or(0, |end| end - vaddr)
    }

    /// From the unwind index; if there is none, from symbols.
    fn read_function_starts(&self) -> Vec<u64> {
        let indexed = self.image.unwind_index.and_then(|table| {
            let reader = Reader::new(self.file, &self.image.path).ok()?;
            unwind_index::function_starts(&reader, &table).ok()
        });
        if let Some(starts) = indexed.filter(|starts| !starts.is_empty()) {
            return starts;
        }
        let mut starts = Vec::new();
        if self.image.visit_functions(self.file, |symbol| starts.push(symbol.vaddr)).is_err() {
            starts.clear();
        }
        starts.sort_unstable();
        starts
    }

    /// Exactly the bytes at `vaddr`, or fewer where the segment ends.
    ///
    /// # Errors
    /// If no file bytes are loaded there or they cannot be read.
    pub fn bytes(&self, vaddr: u64, size_bytes: usize) -> Result<Vec<u8>, ElfError> {
        let path = || self.image.path.clone();
        let segment = self.image.segments.iter().find(|segment| segment.holds(vaddr));
        let segment = segment.ok_or_else(|| ElfError::NoSuchAddress { path: path(), vaddr })?;
        let distance = vaddr - segment.vaddr;
        let mut data =
            vec![0; (size_bytes as u64).min(segment.file_bytes - distance).min(self.image.file_bytes) as usize];
        let offset = segment.file_offset.saturating_add(distance);
        let mut filled = 0;
        while filled < data.len() {
            let read = self.file.read_at(&mut data[filled..], offset.saturating_add(filled as u64));
            match read.map_err(|source| ElfError::Read { path: path(), source })? {
                0 => break,
                count => filled += count,
            }
        }
        data.truncate(filled);
        Ok(data)
    }
}

impl CodeSource for ElfCode<'_> {
    fn code_at(&self, vaddr: u64, size_bytes: usize) -> Vec<u8> {
        let executable = self.image.segments.iter().any(|segment| segment.executable && segment.holds(vaddr));
        if executable { self.bytes(vaddr, size_bytes).unwrap_or_default() } else { Vec::new() }
    }

    fn function_end(&self, vaddr: u64) -> Option<u64> {
        let starts = self.function_starts.get_or_init(|| self.read_function_starts());
        let next = starts.partition_point(|start| *start <= vaddr);
        if next == 0 { None } else { starts.get(next).copied() }
    }

    fn slot_target(&self, vaddr: u64) -> Option<u64> {
        self.bindings.get_or_init(|| self.image.own_bindings(self.file).unwrap_or_default()).get(&vaddr).copied()
    }
}
