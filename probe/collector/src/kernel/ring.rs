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
    /// Each record is shown to `foresee` before `take` gets it, both with the same `reader`; most are some records before, so that
    /// memory that they will need can be on its way by then.
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

    /// What stands at a position; `None` while it is being written. The position is where a record begins, from the consumer's up
    /// to before the producer's, and the consumer's is not moved past it while the record is in use.
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

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::FileExt as _};

    use super::*;

    const SIZE_BYTES: u64 = 1 << 16;

    /// A file in the layout of a ring that holds these records, each with the flags of its length.
    fn ring(records: &[(u32, &[u8])]) -> (Ring, File) {
        let file = tempfile::tempfile().expect("a temporary file can be made");
        let page_bytes = 4096;
        file.set_len(2 * page_bytes + 2 * SIZE_BYTES).expect("it can grow");
        let mut position = 0;
        for (flags, bytes) in records {
            let length = bytes.len() as u32 | flags;
            file.write_all_at(&length.to_ne_bytes(), 2 * page_bytes + position).expect("it can be written");
            file.write_all_at(bytes, 2 * page_bytes + position + HEADER_BYTES).expect("it can be written");
            position += (bytes.len() as u64 + HEADER_BYTES).next_multiple_of(8);
        }
        file.write_all_at(&position.to_ne_bytes(), page_bytes).expect("it can be written");
        let fd = file.try_clone().expect("descriptors are left").into();
        (Ring::map(fd, SIZE_BYTES).expect("a file can be mapped"), file)
    }

    /// Reads all there is: what was taken, each with how many records had been shown by then, and whether that was all.
    fn read(ring: &mut Ring) -> (Vec<(Vec<u8>, usize)>, bool) {
        let shown = std::cell::Cell::new(0);
        let mut taken = Vec::new();
        let end = ring.gauge().position();
        let whole = ring.read_until(
            end,
            &mut taken,
            |_, _| shown.set(shown.get() + 1),
            |taken, bytes| taken.push((bytes.to_vec(), shown.get())),
        );
        (taken, whole)
    }

    #[test]
    fn records_are_shown_ahead_and_taken_in_order() {
        let bytes: Vec<[u8; 56]> = (0..40).map(|number| [number; 56]).collect();
        let mut records: Vec<(u32, &[u8])> = bytes.iter().map(|bytes| (0, bytes.as_slice())).collect();
        records[3].0 = DISCARDED;
        let (mut ring, _file) = ring(&records);
        let (taken, whole) = read(&mut ring);
        let numbers: Vec<u8> = taken.iter().map(|(bytes, _)| bytes[0]).collect();
        assert!(whole && numbers == (0..40).filter(|number| *number != 3).collect::<Vec<u8>>(), "{numbers:?}");
        assert!(taken.iter().enumerate().all(|(at, (_, shown))| *shown > at), "each was shown before");
        assert_eq!(taken[10].1, 10 + AHEAD_BYTES as usize / 64, "and some more ahead of it");
        assert_eq!(ring.gauge().unread_bytes(), 0, "all space is given back");
    }

    #[test]
    fn a_record_being_written_ends_the_reading_until_it_is_whole() {
        let (mut ring, file) = ring(&[(0, &[1; 20]), (BUSY, &[2; 8]), (0, &[3; 8])]);
        let (taken, whole) = read(&mut ring);
        assert!(!whole && taken.len() == 1 && taken[0].0 == [1; 20], "{taken:?}");
        assert_eq!(ring.position(), 32);
        file.write_all_at(&8_u32.to_ne_bytes(), 2 * 4096 + 32).expect("it can be written");
        let (taken, whole) = read(&mut ring);
        assert!(whole && taken.iter().map(|(bytes, _)| bytes[0]).eq([2, 3]), "{taken:?}");
    }
}
