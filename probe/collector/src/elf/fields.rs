//! Little-endian fields of untrusted bytes. Responsible for bounds; knows no ELF structure.

/// `N` bytes at `offset`, if they are there.
pub(crate) fn bytes<const N: usize>(data: &[u8], offset: usize) -> Option<[u8; N]> {
    data.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

/// 16-bit field at `offset`.
pub(crate) fn u16_at(data: &[u8], offset: usize) -> Option<u16> {
    bytes(data, offset).map(u16::from_le_bytes)
}

/// 32-bit field at `offset`.
pub(crate) fn u32_at(data: &[u8], offset: usize) -> Option<u32> {
    bytes(data, offset).map(u32::from_le_bytes)
}

/// 64-bit field at `offset`.
pub(crate) fn u64_at(data: &[u8], offset: usize) -> Option<u64> {
    bytes(data, offset).map(u64::from_le_bytes)
}

/// The NUL-terminated string at `offset`, without its NUL; `None` beyond the data or without an end.
pub(crate) fn string_at(data: &[u8], offset: usize) -> Option<&[u8]> {
    let rest = data.get(offset..)?;
    rest.iter().position(|&byte| byte == 0).map(|end| &rest[..end])
}
