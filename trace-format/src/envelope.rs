//! The outermost layer of a file: mark, envelopes, footer. Responsible for their bytes and checksums; not for finding
//! them in a damaged file (see `scan`) nor for what an envelope holds (see `message`).

use xxhash_rust::xxh3::xxh3_64;

use crate::limits::MAX_MESSAGE_BYTES;
use crate::version::FormatVersion;

/// Length of the mark at the start of a file.
pub(crate) const MARK_BYTES: usize = 16;
/// First bytes of every trace, whatever its version.
pub(crate) const MARK_MAGIC: [u8; 8] = *b"\x89HTAPE\r\n";
/// Length of an envelope's header.
pub(crate) const ENVELOPE_BYTES: usize = 32;
/// First bytes of an envelope.
pub(crate) const ENVELOPE_MAGIC: [u8; 4] = *b"HTCK";
/// Length of the footer.
pub(crate) const FOOTER_BYTES: usize = 32;
/// First bytes of the footer.
const FOOTER_MAGIC: [u8; 8] = *b"HTAPEEND";

/// The mark of a file of this version.
pub(crate) fn encode_mark(version: FormatVersion) -> [u8; MARK_BYTES] {
    let mut mark = [0; MARK_BYTES];
    mark[..8].copy_from_slice(&MARK_MAGIC);
    mark[8..10].copy_from_slice(&version.0.to_le_bytes());
    let checksum = xxh3_64(&mark[..12]) as u32;
    mark[12..].copy_from_slice(&checksum.to_le_bytes());
    mark
}

/// What stands where a mark should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// A whole mark.
    Whole(FormatVersion),
    /// The magic is there, the checksum does not hold: the version cannot be trusted.
    Damaged,
    /// Another kind of file.
    None,
}

/// Reads a mark.
pub(crate) fn decode_mark(mark: &[u8; MARK_BYTES]) -> Mark {
    if mark[..8] != MARK_MAGIC {
        return Mark::None;
    }
    if xxh3_64(&mark[..12]) as u32 != u32_at(mark, 12) {
        return Mark::Damaged;
    }
    Mark::Whole(FormatVersion(u16::from_le_bytes([mark[8], mark[9]])))
}

/// What an envelope holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Kind(pub(crate) u8);

impl Kind {
    pub(crate) const HEADER: Self = Self(1);
    pub(crate) const CHUNK: Self = Self(2);
    pub(crate) const TABLES: Self = Self(3);
    pub(crate) const SYMBOLS: Self = Self(4);
    pub(crate) const TAIL: Self = Self(5);

    /// As messages call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::HEADER => "header",
            Self::CHUNK => "chunk",
            Self::TABLES => "tables",
            Self::SYMBOLS => "symbols",
            Self::TAIL => "tail",
            _ => "part of an unknown kind",
        }
    }

    /// Whether this version can read it; readers skip the others.
    pub(crate) fn is_known(self) -> bool {
        (Self::HEADER..=Self::TAIL).contains(&self)
    }
}

/// Header of an envelope whose checksum held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) payload_bytes: u32,
    pub(crate) message_bytes: u32,
    pub(crate) payload_checksum: u64,
}

impl Envelope {
    /// The envelope for a payload.
    pub(crate) fn of(kind: Kind, payload: &[u8], message_bytes: u32) -> Self {
        debug_assert!(message_bytes <= MAX_MESSAGE_BYTES, "messages stay below their limit");
        let payload_bytes = u32::try_from(payload.len()).expect("a payload is smaller than its bounded message");
        Self { kind, flags: 0, payload_bytes, message_bytes, payload_checksum: xxh3_64(payload) }
    }

    pub(crate) fn encode(&self) -> [u8; ENVELOPE_BYTES] {
        let mut bytes = [0; ENVELOPE_BYTES];
        bytes[..4].copy_from_slice(&ENVELOPE_MAGIC);
        bytes[4] = self.kind.0;
        bytes[5] = self.flags;
        bytes[8..12].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.message_bytes.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.payload_checksum.to_le_bytes());
        let checksum = xxh3_64(&bytes[..24]);
        bytes[24..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// `None` unless this is an envelope's header and its checksum holds.
    pub(crate) fn decode(bytes: &[u8; ENVELOPE_BYTES]) -> Option<Self> {
        if bytes[..4] != ENVELOPE_MAGIC || xxh3_64(&bytes[..24]) != u64_at(bytes, 24) {
            return None;
        }
        Some(Self {
            kind: Kind(bytes[4]),
            flags: bytes[5],
            payload_bytes: u32_at(bytes, 8),
            message_bytes: u32_at(bytes, 12),
            payload_checksum: u64_at(bytes, 16),
        })
    }

    /// Length with its header.
    pub(crate) fn total_bytes(&self) -> u64 {
        ENVELOPE_BYTES as u64 + u64::from(self.payload_bytes)
    }
}

/// Last bytes of a whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) tail_offset: u64,
    pub(crate) file_bytes: u64,
}

impl Footer {
    pub(crate) fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        bytes[..8].copy_from_slice(&FOOTER_MAGIC);
        bytes[8..16].copy_from_slice(&self.tail_offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.file_bytes.to_le_bytes());
        let checksum = xxh3_64(&bytes[..24]);
        bytes[24..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// `None` unless this is a footer and its checksum holds.
    pub(crate) fn decode(bytes: &[u8; FOOTER_BYTES]) -> Option<Self> {
        if bytes[..8] != FOOTER_MAGIC || xxh3_64(&bytes[..24]) != u64_at(bytes, 24) {
            return None;
        }
        Some(Self { tail_offset: u64_at(bytes, 8), file_bytes: u64_at(bytes, 16) })
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flipped_bit_of_mark_envelope_or_footer_goes_unnoticed() {
        let mark = encode_mark(FormatVersion(1));
        assert_eq!(decode_mark(&mark), Mark::Whole(FormatVersion(1)));
        let envelope = Envelope::of(Kind::CHUNK, b"payload", 77);
        assert_eq!(Envelope::decode(&envelope.encode()), Some(envelope));
        let footer = Footer { tail_offset: 5, file_bytes: 99 };
        assert_eq!(Footer::decode(&footer.encode()), Some(footer));
        for bit in 0..128 {
            let mut flipped = mark;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(decode_mark(&flipped), Mark::Whole(_)), "bit {bit} of the mark");
        }
        for bit in 0..256 {
            let mut flipped = envelope.encode();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Envelope::decode(&flipped), None, "bit {bit} of the envelope");
            let mut flipped = footer.encode();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Footer::decode(&flipped), None, "bit {bit} of the footer");
        }
    }
}
