//! Reads the BPF ring buffer. Responsible for the memory-mapped positions and for handing out records in the order in
//! which they were reserved, which is the order of events; not for their meaning.
//!
//! The ring maps as: one page with the consumer position (ours to write), one page with the producer position, then the
//! data twice in a row, so that no record is ever split. A position only grows; its place in the data is the position
//! modulo the size.

#![expect(unsafe_code, reason = "the ring is memory shared with the kernel")]

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

/// Header bytes before each record.
const HEADER_BYTES: u64 = 8;
/// Set in a record's length while it is being written.
const BUSY: u32 = 1 << 31;
/// Set in a record's length when it was given up.
const DISCARDED: u32 = 1 << 30;
/// How much is read before the space is given back to the producers.
const RELEASE_BYTES: u64 = 128 << 10;
/// How far ahead of the record being read others are looked at: long enough for memory to arrive, short enough that what
/// arrived still is in the nearest cache.
const AHEAD_BYTES: u64 = 512;

struct Mapping {
    consumer: *mut libc::c_void,
    producer: *mut libc::c_void,
    page_bytes: usize,
    size_bytes: u64,
    _fd: OwnedFd,
}

// SAFETY: the mapped memory is shared with the kernel anyway; all access goes through atomics or to records that the
// kernel has finished writing.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn consumer(&self) -> &AtomicU64 {
        // SAFETY: the page is mapped for as long as `self` lives, and the position is its first, aligned, word.
        unsafe { &*self.consumer.cast() }
    }

    fn producer(&self) -> &AtomicU64 {
        // SAFETY: as for the consumer.
        unsafe { &*self.producer.cast() }
    }

    fn data(&self) -> *const u8 {
        // SAFETY: the data follow the producer page in the same mapping.
        unsafe { self.producer.cast::<u8>().add(self.page_bytes) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: both were mapped with these lengths and nothing refers to them any more.
        unsafe {
            libc::munmap(self.consumer, self.page_bytes);
            libc::munmap(self.producer, self.page_bytes + 2 * self.size_bytes as usize);
        }
    }
}

/// The reading end of the ring. There is one.
pub struct Ring {
    mapping: Arc<Mapping>,
    position: u64,
}

/// Tells how full the ring is and where it stands, from any thread.
#[derive(Clone)]
pub struct RingGauge(Arc<Mapping>);

impl RingGauge {
    /// Where the next record will be reserved: every record before it was reserved earlier.
    pub fn position(&self) -> u64 {
        self.0.producer().load(Ordering::Acquire)
    }

    /// Bytes not yet read.
    pub fn unread_bytes(&self) -> u64 {
        self.position().saturating_sub(self.0.consumer().load(Ordering::Acquire))
    }
}

impl Ring {
    /// Maps the ring of `size_bytes` behind `fd`.
    ///
    /// # Errors
    /// When the kernel refuses the mapping.
    pub fn map(fd: OwnedFd, size_bytes: u64) -> io::Result<Self> {
        // SAFETY: sysconf has no preconditions.
        let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let map = |length: usize, protection, offset: usize| {
            // SAFETY: a fresh shared mapping of a descriptor we own.
            let at = unsafe {
                libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, fd.as_raw_fd(), offset as i64)
            };
            if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(at) }
        };
        let consumer = map(page_bytes, libc::PROT_READ | libc::PROT_WRITE, 0)?;
        let producer = match map(page_bytes + 2 * size_bytes as usize, libc::PROT_READ, page_bytes) {
            Ok(at) => at,
            Err(error) => {
                // SAFETY: mapped just above.
                unsafe { libc::munmap(consumer, page_bytes) };
                return Err(error);
            }
        };
        let mapping = Arc::new(Mapping { consumer, producer, page_bytes, size_bytes, _fd: fd });
        let position = mapping.consumer().load(Ordering::Acquire);
        Ok(Self { mapping, position })
    }

    /// A gauge for other threads.
    pub fn gauge(&self) -> RingGauge {
        RingGauge(Arc::clone(&self.mapping))
    }

    /// The position of the next record to read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes the ring holds.
    pub fn size_bytes(&self) -> u64 {
        self.mapping.size_bytes
    }

    /// Reads records up to position `end` (at most the producer's), in order; stops early at one that is still being
    /// written. Returns whether it got to `end`.
    ///
    /// Each record is shown to `foresee` some records before `take` gets it, both with the same `reader`: memory that it
    /// will need can be on its way by then.
    pub fn read_until<R>(
        &mut self,
        end: u64,
        reader: &mut R,
        foresee: impl Fn(&R, &[u8]),
        mut take: impl FnMut(&mut R, &[u8]),
    ) -> bool {
        let mut released = self.position;
        let mut ahead = self.position;
        loop {
            while ahead < end && ahead - self.position < AHEAD_BYTES {
                let Some(entry) = self.entry(ahead) else { break };
                if let Some(record) = entry.record {
                    foresee(reader, record);
                }
                ahead = entry.next;
            }
            if self.position == ahead {
                break;
            }
            // What was seen whole before still is.
            let Some(entry) = self.entry(self.position) else { break };
            if let Some(record) = entry.record {
                take(reader, record);
            }
            self.position = entry.next;
            if self.position - released >= RELEASE_BYTES.min(self.mapping.size_bytes / 8) {
                released = self.position;
                self.mapping.consumer().store(released, Ordering::Release);
            }
        }
        self.mapping.consumer().store(self.position, Ordering::Release);
        self.position >= end
    }

    /// What stands at a position before the producer's; `None` while it is being written.
    #[inline]
    fn entry(&self, position: u64) -> Option<Entry<'_>> {
        let data = self.mapping.data();
        let at = (position & (self.mapping.size_bytes - 1)) as usize;
        // SAFETY: every record header lies, aligned to 8 bytes, within the doubly mapped data.
        #[expect(clippy::cast_ptr_alignment, reason = "records begin at multiples of 8")]
        let length = unsafe { &*data.add(at).cast::<AtomicU32>() }.load(Ordering::Acquire);
        if length & BUSY != 0 {
            return None;
        }
        let bytes = u64::from(length & !(BUSY | DISCARDED));
        let record = (length & DISCARDED == 0).then(|| {
            // SAFETY: the kernel finished this record (not busy), it is not overwritten before the consumer
            // position passes it, and the double mapping makes it contiguous.
            unsafe { std::slice::from_raw_parts(data.add(at + HEADER_BYTES as usize), bytes as usize) }
        });
        Some(Entry { record, next: position + (bytes + HEADER_BYTES).next_multiple_of(8) })
    }
}

/// One place of the ring.
struct Entry<'a> {
    /// What was written there; none if it was given up.
    record: Option<&'a [u8]>,
    /// The position behind it.
    next: u64,
}
