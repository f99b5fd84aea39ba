//! Where functions start, from the index that unwinders use (`.eh_frame_hdr`). Responsible for that table only: it is there in
//! stripped files, and counts fragments that the compiler moved elsewhere (`.cold`) as functions of their own, which symbols do
//! not.

use super::fields::{u32_at, u64_at};
use super::{ElfError, Reader, Segment};

/// Table entries are pairs of signed 32-bit distances from the table's own address: the only encoding linkers write.
const DATA_RELATIVE_SIGNED_32: u8 = 0x3b;
/// The low half of an encoding tells its size.
const OMITTED: u8 = 0xff;

/// Start addresses of all functions, ascending. Empty if the table has an encoding that is not understood.
pub(super) fn function_starts(reader: &Reader<'_>, table: &Segment) -> Result<Vec<u64>, ElfError> {
    let data = reader.range("the unwind index", table.file_offset, table.file_bytes)?;
    Ok(starts(&data, table.vaddr).unwrap_or_default())
}

fn starts(data: &[u8], vaddr: u64) -> Option<Vec<u64>> {
    let [version, pointer_encoding, count_encoding, entry_encoding] = super::fields::bytes(data, 0)?;
    if version != 1 || entry_encoding != DATA_RELATIVE_SIGNED_32 {
        return None;
    }
    let mut offset = 4 + size_of_encoded(pointer_encoding)?;
    let count = match size_of_encoded(count_encoding)? {
        4 => u64::from(u32_at(data, offset)?),
        8 => u64_at(data, offset)?,
        _ => return None,
    };
    offset += size_of_encoded(count_encoding)?;
    let entries = data.get(offset..)?.chunks_exact(8).take(usize::try_from(count).ok()?);
    let start = |entry: &[u8]| Some(vaddr.wrapping_add_signed(i64::from(u32_at(entry, 0)? as i32)));
    let mut starts: Vec<u64> = entries.filter_map(start).collect();
    starts.sort_unstable();
    Some(starts)
}

fn size_of_encoded(encoding: u8) -> Option<usize> {
    match (encoding, encoding & 0x0f) {
        (OMITTED, _) => Some(0),
        (_, 0x02 | 0x0a) => Some(2),
        (_, 0x03 | 0x0b) => Some(4),
        (_, 0x00 | 0x04 | 0x0c) => Some(8),
        _ => None,
    }
}
