//! Payloads: compressed Cap'n Proto messages. Responsible for compressing and for uncompressing within limits; not for
//! what the messages say.

use capnp::Word;
use capnp::message::{Builder, HeapAllocator, Reader, ReaderOptions};
use capnp::serialize::BufferSegments;

use crate::damage::Damage;
use crate::envelope::{Envelope, Kind};
use crate::limits::MAX_MESSAGE_BYTES;

/// Reads one message.
pub(crate) type MessageReader<'a> = Reader<BufferSegments<&'a [u8]>>;

/// A message that is larger than the format allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MessageTooLarge {
    pub(crate) bytes: u64,
}

/// Compresses messages into envelopes, reusing its buffers.
pub(crate) struct Packer {
    compressor: zstd::bulk::Compressor<'static>,
    message: Vec<u8>,
    payload: Vec<u8>,
}

impl Packer {
    pub(crate) fn new(level: i32) -> std::io::Result<Self> {
        Ok(Self { compressor: zstd::bulk::Compressor::new(level)?, message: Vec::new(), payload: Vec::new() })
    }

    /// Header and payload of the envelope for a message; the payload is valid until the next call.
    pub(crate) fn pack(
        &mut self,
        kind: Kind,
        message: &Builder<HeapAllocator>,
    ) -> Result<(Envelope, &[u8]), MessageTooLarge> {
        let bytes = capnp::serialize::compute_serialized_size_in_words(message) as u64 * 8;
        if bytes > u64::from(MAX_MESSAGE_BYTES) {
            return Err(MessageTooLarge { bytes });
        }
        self.message.clear();
        capnp::serialize::write_message(&mut self.message, message).expect("a Vec takes every write");
        self.payload.clear();
        self.payload.reserve(zstd::zstd_safe::compress_bound(self.message.len()));
        self.compressor
            .compress_to_buffer(&self.message, &mut self.payload)
            .expect("the buffer holds the worst case of compression");
        Ok((Envelope::of(kind, &self.payload, self.message.len() as u32), &self.payload))
    }
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").finish_non_exhaustive()
    }
}

/// A message taken out of its envelope.
pub(crate) struct Unpacked {
    words: Vec<Word>,
}

impl Unpacked {
    /// Uncompresses a payload whose checksum held. Allocates no more than the limit of the format.
    pub(crate) fn from_payload(envelope: &Envelope, payload: &[u8]) -> Result<Self, Damage> {
        if envelope.flags != 0 {
            return Err(Damage::new(format!(
                "it is packed in a way that this version does not know (flags {:#x}); a newer heaptape may read it",
                envelope.flags
            )));
        }
        if envelope.message_bytes > MAX_MESSAGE_BYTES || !envelope.message_bytes.is_multiple_of(8) {
            return Err(Damage::new(format!(
                "it says that it takes {} bytes uncompressed; the format allows multiples of 8 up to {MAX_MESSAGE_BYTES}",
                envelope.message_bytes
            )));
        }
        let mut words = Word::allocate_zeroed_vec(envelope.message_bytes as usize / 8);
        let length = zstd::bulk::decompress_to_buffer(payload, Word::words_to_bytes_mut(&mut words))
            .map_err(|error| Damage::new(format!("it cannot be uncompressed ({error})")))?;
        if length != envelope.message_bytes as usize {
            return Err(Damage::new(format!(
                "it uncompresses to {length} bytes where its header says {}",
                envelope.message_bytes
            )));
        }
        Ok(Self { words })
    }

    /// The message. Reading it visits no more than twice its size, however its pointers are laid.
    pub(crate) fn reader(&self) -> Result<MessageReader<'_>, Damage> {
        let mut options = ReaderOptions::new();
        options.traversal_limit_in_words(Some(self.words.len() * 2 + 1024)).nesting_limit(16);
        Ok(Reader::new(BufferSegments::new(Word::words_to_bytes(&self.words), options)?, options))
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> u64 {
        self.words.len() as u64 * 8
    }
}
