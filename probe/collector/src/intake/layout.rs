//! Bytes of the ring as what they are. Responsible for layout alone.

#![expect(unsafe_code, reason = "records are plain bytes written by our programs in the layout of the ABI")]

use probe_abi::{CompactRecord, LossRecord, Record, RecordKind, TextRecord, WalkedRecord};

fn read<T>(bytes: &[u8]) -> Option<T> {
    // SAFETY: only called for ABI types, for which every bit pattern is a value, and only within the bytes.
    (bytes.len() >= size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

pub(super) fn record(bytes: &[u8]) -> Option<Record> {
    read(bytes)
}

/// Told apart by its length: none of the others is as long.
pub(super) fn compact(bytes: &[u8]) -> Option<CompactRecord> {
    if bytes.len() == size_of::<CompactRecord>() { read(bytes) } else { None }
}

pub(super) fn walked(bytes: &[u8]) -> Option<WalkedRecord> {
    if bytes.first() == Some(&(RecordKind::Walked as u8)) { read(bytes) } else { None }
}

pub(super) fn loss(bytes: &[u8]) -> Option<LossRecord> {
    read(bytes)
}

pub(super) fn text(bytes: &[u8]) -> Option<TextRecord> {
    read(bytes)
}

/// Addresses of frames, behind `from` bytes.
pub(super) fn frames(bytes: &[u8], from: usize, count: u16) -> impl DoubleEndedIterator<Item = u64> + Clone {
    let frames = bytes.get(from..).unwrap_or_default();
    frames.chunks_exact(size_of::<u64>()).take(usize::from(count)).filter_map(read::<u64>)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a compact record leaves out comes back from what its reader knows; what does not fit is no compact record.
    #[test]
    fn compact_records_tell_the_same() {
        const TICK_NS: u64 = 1 << CompactRecord::TICK_SHIFT;
        let mut random = 1_u64;
        let mut bits = |count: u32| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 8) & ((1 << count) - 1)
        };
        for _ in 0..20_000 {
            let now_ns = (1 << 45) + bits(44);
            let record = Record {
                kind: 1 + bits(2) as u8,
                pid: bits(22) as u32,
                tid: bits(22) as u32,
                time_ns: now_ns,
                descriptor: bits(16) as u32,
                walk_end: probe_abi::unwind::WalkEnd::NotTaken as u8,
                return_address: bits(48),
                pointer: bits(48),
                size: bits(24),
                ..Record::default()
            };
            let compact = CompactRecord::of(&record, now_ns).expect("it fits");
            // The reader's time is another's: a little later, or that of the thread's last record.
            for near_ns in [now_ns + bits(39), now_ns - bits(39), now_ns] {
                let whole = compact.whole(record.pid, near_ns);
                assert_eq!(whole, Record { time_ns: now_ns / TICK_NS * TICK_NS, ..record });
                let (frame_count, kept) = (bits(9) as u16, bits(9) as u16);
                let walked =
                    WalkedRecord { walk_end: 3, same_cfa: 1, frame_count, kept, compact, ..WalkedRecord::default() };
                let expected = Record { walk_end: 3, same_cfa: 1, frame_count, kept, ..whole };
                assert_eq!(walked.whole(record.pid, near_ns), expected);
            }
            assert_eq!((compact.descriptor(), compact.pointer()), (record.descriptor, record.pointer));
            for wide in [
                Record { kind: RecordKind::Loss as u8, ..record },
                Record { alignment: 1, ..record },
                Record { outer_domain: 1, ..record },
                Record { tid: 1 << 22, ..record },
                Record { descriptor: 1 << 16, ..record },
                Record { return_address: 1 << 48, ..record },
                Record { pointer: 1 << 63, ..record },
                Record { size: 1 << 24, ..record },
                Record { size: u64::MAX, ..record },
            ] {
                assert_eq!(CompactRecord::of(&wide, now_ns), None, "{wide:?}");
            }
        }
    }
}
