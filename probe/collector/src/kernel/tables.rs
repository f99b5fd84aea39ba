//! Unwind tables and lists of mappings in the kernel. Responsible for their maps and for what they take; not for how
//! tables are made (`unwind`).

#![expect(unsafe_code, reason = "a map is filled through mmap; map values are plain bytes")]

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    ptr,
};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError},
};
use probe_abi::unwind::{MAX_MAPPINGS, MAX_TABLES, MAX_WIDE_RULES, Mapping, Space, WideRule};

use super::{
    map,
    programs::{Row, share},
    requirements::{explain, missing},
};
use crate::{error::CollectError, unwind::UnwindTable};

/// `BPF_F_INNER_MAP | BPF_F_MMAPABLE`, as the outer map declares.
const TABLE_FLAGS: u32 = 0x1000 | 0x400;

// SAFETY: `repr(C)` integers without padding; every bit pattern is a value.
unsafe impl Pod for Row<Space> {}
// SAFETY: as above.
unsafe impl Pod for Row<WideRule> {}

/// What the tables in the kernel amount to.
#[derive(Debug, Clone, Copy, Default)]
pub struct TableTotals {
    /// Modules with a table.
    pub table_count: u64,
    /// Their rows.
    pub row_count: u64,
    /// Kernel memory of tables and lists of mappings.
    pub kernel_bytes: u64,
}

/// The maps that stack walks search.
pub(super) struct Tables {
    outer: OwnedFd,
    /// Programs that are loaded late name it by this descriptor.
    _outer: Map,
    wide: Array<MapData, Row<WideRule>>,
    spaces: HashMap<MapData, u32, Row<Space>>,
    next_wide: u32,
    next_space: u32,
    /// Tables that the outer map does not hold yet, the last ones by number.
    staged: Vec<OwnedFd>,
    totals: TableTotals,
}

impl Tables {
    pub(super) fn new(outer: Map, wide: Map, spaces: Map) -> Result<Self, CollectError> {
        let broken = |error: MapError| missing(explain(&error));
        Ok(Self {
            outer: share(&outer)?,
            _outer: outer,
            wide: Array::try_from(wide).map_err(broken)?,
            spaces: HashMap::try_from(spaces).map_err(broken)?,
            next_wide: 0,
            next_space: 1,
            staged: Vec::new(),
            totals: TableTotals::default(),
        })
    }

    pub(super) fn totals(&self) -> TableTotals {
        self.totals
    }

    pub(super) fn load(&mut self, table: &UnwindTable) -> Result<u32, CollectError> {
        let number = self.totals.table_count as u32;
        if number >= MAX_TABLES {
            return Err(CollectError::TooMany { what: "modules with unwind tables", limit: u64::from(MAX_TABLES) });
        }
        let first_wide = self.next_wide;
        if first_wide as usize + table.wide.len() > MAX_WIDE_RULES as usize {
            return Err(CollectError::TooMany { what: "unusual unwind rules", limit: u64::from(MAX_WIDE_RULES) });
        }
        for rule in &table.wide {
            self.wide.set(self.next_wide, Row(*rule), 0).map_err(|error| missing(explain(&error)))?;
            self.next_wide += 1;
        }
        let failed =
            |source| CollectError::System { doing: "cannot give an unwind table to the kernel".into(), source };
        self.staged.push(fill(&table.words, u64::from(first_wide)).map_err(failed)?);
        self.totals.table_count += 1;
        self.totals.row_count += table.words.get(1).map_or(0, |word| word >> 32);
        self.totals.kernel_bytes += size_of_val(table.words.as_slice()) as u64;
        Ok(number)
    }

    /// Lets walks find what was loaded.
    pub(super) fn commit(&mut self) -> Result<(), CollectError> {
        let first = self.totals.table_count as u32 - self.staged.len() as u32;
        let failed = |source| CollectError::System { doing: "cannot give unwind tables to the kernel".into(), source };
        map::put_all(&self.outer, first, &std::mem::take(&mut self.staged)).map_err(failed)
    }

    pub(super) fn load_space(&mut self, mappings: &[Mapping]) -> Result<u32, CollectError> {
        if mappings.len() > MAX_MAPPINGS {
            return Err(CollectError::TooMany { what: "executable mappings", limit: MAX_MAPPINGS as u64 });
        }
        let mut space = Space {
            count: mappings.len() as u32,
            reserved: 0,
            mappings: [Mapping { start: 0, end: 0, bias: 0, table: 0, reserved: 0 }; MAX_MAPPINGS],
        };
        space.mappings[..mappings.len()].copy_from_slice(mappings);
        let number = self.next_space;
        self.spaces.insert(number, Row(space), 0).map_err(|error| missing(explain(&error)))?;
        // What is known of an address is known for a number: numbers are not used again.
        self.next_space += 1;
        self.totals.kernel_bytes += size_of::<Space>() as u64;
        Ok(number)
    }

    pub(super) fn drop_space(&mut self, space: u32) {
        if self.spaces.remove(&space).is_ok() {
            self.totals.kernel_bytes -= size_of::<Space>() as u64;
        }
    }
}

/// A map with the words of a table; the low half of word 1 is set.
fn fill(words: &[u64], first_wide: u64) -> io::Result<OwnedFd> {
    let count = u32::try_from(words.len()).map_err(io::Error::other)?;
    let map = map::create_array(8, count, TABLE_FLAGS)?;
    let bytes = size_of_val(words).next_multiple_of(4096);
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a fresh mapping of a map that is as long as that.
    let memory = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, libc::MAP_SHARED, map.as_raw_fd(), 0) };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping holds all words, and nobody reads it yet.
    unsafe {
        ptr::copy_nonoverlapping(words.as_ptr(), memory.cast(), words.len());
        if words.len() > 1 {
            *memory.cast::<u64>().add(1) |= first_wide;
        }
        libc::munmap(memory, bytes);
    }
    Ok(map)
}
