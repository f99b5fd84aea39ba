//! Bytes of the ring as what they are. Responsible for layout alone.

#![expect(unsafe_code, reason = "records are plain bytes written by our programs in the layout of the ABI")]

use probe_abi::{Frame, LossRecord, Record, TextRecord};

fn read<T>(bytes: &[u8]) -> Option<T> {
    // SAFETY: only called for ABI types, for which every bit pattern is a value, and only within the bytes.
    (bytes.len() >= size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

pub(super) fn record(bytes: &[u8]) -> Option<Record> {
    read(bytes)
}

pub(super) fn loss(bytes: &[u8]) -> Option<LossRecord> {
    read(bytes)
}

pub(super) fn text(bytes: &[u8]) -> Option<TextRecord> {
    read(bytes)
}

pub(super) fn frames(bytes: &[u8], count: u16) -> impl DoubleEndedIterator<Item = Frame> + Clone {
    let frames = bytes.get(size_of::<Record>()..).unwrap_or_default();
    frames.chunks_exact(size_of::<Frame>()).take(usize::from(count)).filter_map(read::<Frame>)
}
