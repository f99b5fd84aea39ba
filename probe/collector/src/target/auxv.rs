//! The auxiliary vector: what the kernel told the program at exec. Responsible for reading `/proc/PID/auxv`.

use std::path::PathBuf;

use super::TargetError;
use super::memory::proc_error;
use crate::elf::fields::u64_at;

const AT_PHDR: u64 = 3;
const AT_PHNUM: u64 = 5;
const AT_BASE: u64 = 7;
const AT_ENTRY: u64 = 9;

/// Where the kernel put the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AuxiliaryVector {
    /// Address of the program headers in memory.
    pub program_headers: u64,
    /// How many there are.
    pub program_header_count: u64,
    /// Load address of the interpreter; 0 where there is none.
    pub interpreter_base: u64,
    /// The program's entry point (not the interpreter's).
    pub entry: u64,
}

impl AuxiliaryVector {
    /// Of a process.
    ///
    /// # Errors
    /// If the process is gone (a zombie's vector is empty), may not be read, or is a 32-bit one.
    pub fn read(pid: u32) -> Result<Self, TargetError> {
        let path = PathBuf::from(format!("/proc/{pid}/auxv"));
        let data = std::fs::read(&path).map_err(|source| proc_error(pid, path, source))?;
        let vector = Self::parse(&data);
        if data.is_empty() {
            Err(TargetError::Gone { pid })
        } else if vector.entry == 0 {
            let what = "it is no 64-bit program; heaptape records x86-64 Linux programs only".to_owned();
            Err(TargetError::Inconsistent { pid, what })
        } else {
            Ok(vector)
        }
    }

    /// From its bytes: pairs of words up to the pair of type 0.
    pub fn parse(data: &[u8]) -> Self {
        let mut vector = Self::default();
        for pair in data.chunks_exact(16) {
            let (Some(kind), Some(value)) = (u64_at(pair, 0), u64_at(pair, 8)) else { continue };
            match kind {
                0 => break,
                AT_PHDR => vector.program_headers = value,
                AT_PHNUM => vector.program_header_count = value,
                AT_BASE => vector.interpreter_base = value,
                AT_ENTRY => vector.entry = value,
                _ => {}
            }
        }
        vector
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_end_at_type_zero() {
        let pairs: [[u64; 2]; 6] = [[33, 0x7fff], [3, 0x40], [5, 13], [9, 0x1000], [0, 0], [7, 0xbad]];
        let data: Vec<u8> = pairs.as_flattened().iter().flat_map(|word| word.to_le_bytes()).collect();
        let expected =
            AuxiliaryVector { program_headers: 0x40, program_header_count: 13, interpreter_base: 0, entry: 0x1000 };
        assert_eq!(AuxiliaryVector::parse(&data), expected);
        assert_eq!(AuxiliaryVector::parse(&data[..70]), expected, "a vector cut off");
    }
}
