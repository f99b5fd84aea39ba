//! Taking files apart and putting them together with checksums that hold, so that mutations reach what lies below them.

use xxhash_rust::xxh3::xxh3_64;

/// Offset, kind and length of the envelopes of a sound file.
pub(crate) fn envelopes(bytes: &[u8]) -> Vec<(usize, u8, usize)> {
    let mut found = Vec::new();
    let mut offset = 16;
    while bytes.get(offset..offset + 4) == Some(b"HTCK") {
        let length = 32 + u32::from_le_bytes(bytes[offset + 8..offset + 12].try_into().expect("4 bytes")) as usize;
        found.push((offset, bytes[offset + 4], length));
        offset += length;
    }
    found
}

/// An envelope around a message.
pub(crate) fn pack(kind: u8, message: &[u8]) -> Vec<u8> {
    let payload = zstd::bulk::compress(message, 1).expect("memory is enough");
    let mut bytes = b"HTCK".to_vec();
    bytes.extend([kind, 0, 0, 0]);
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend((message.len() as u32).to_le_bytes());
    bytes.extend(xxh3_64(&payload).to_le_bytes());
    bytes.extend(xxh3_64(&bytes).to_le_bytes());
    bytes.extend(payload);
    bytes
}

/// The message of the envelope at `offset` of a sound file.
pub(crate) fn unpack(bytes: &[u8], offset: usize, length: usize) -> Vec<u8> {
    let message_bytes = u32::from_le_bytes(bytes[offset + 12..offset + 16].try_into().expect("4 bytes")) as usize;
    zstd::bulk::decompress(&bytes[offset + 32..offset + length], message_bytes).expect("the file is sound")
}
