//! Walking a file from envelope to envelope. Responsible for finding every whole envelope, also behind damage, and for
//! checking checksums; not for what envelopes hold (see `survey`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use xxhash_rust::xxh3::Xxh3Default;

use crate::envelope::{ENVELOPE_BYTES, ENVELOPE_MAGIC, Envelope, FOOTER_BYTES, Footer, MARK_BYTES};
use crate::message::Unpacked;
use crate::reader::Problem;

/// How much is read at once.
const WINDOW_BYTES: usize = 1 << 18;

/// An envelope whose checksums hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) offset: u64,
    pub(crate) envelope: Envelope,
}

impl Found {
    /// Reads and uncompresses it. `Err` of the inner result is damage to report.
    pub(crate) fn unpack(&self, file: &File) -> io::Result<Result<Unpacked, crate::damage::Damage>> {
        let mut payload = vec![0; self.envelope.payload_bytes as usize];
        file.read_exact_at(&mut payload, self.offset + ENVELOPE_BYTES as u64)?;
        Ok(Unpacked::from_payload(&self.envelope, &payload))
    }
}

/// What a walk found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// In file order; unknown kinds are left out.
    pub(crate) found: Vec<Found>,
    pub(crate) problems: Vec<Problem>,
    /// Whether a footer that fits the file ends it.
    pub(crate) has_footer: bool,
}

/// Walks the file.
pub(crate) fn scan(file: &File, file_bytes: u64) -> io::Result<Scan> {
    let mut scan = Scan::default();
    let mut buffer = vec![0; WINDOW_BYTES.min(usize::try_from(file_bytes).unwrap_or(WINDOW_BYTES))];
    // Payloads that damage makes us hash in vain; real damage needs little, a crafted file could ask for its size squared.
    let mut patience_bytes = file_bytes.saturating_mul(4);
    let mut offset = MARK_BYTES as u64;
    while offset < file_bytes {
        let Some(found) = envelope_at(file, file_bytes, offset)? else {
            if footer_at(file, file_bytes, offset)? {
                scan.has_footer = true;
                break;
            }
            let next = next_envelope(file, file_bytes, offset + 1, &mut buffer)?;
            scan.problems.push(unreadable(offset, next, file_bytes));
            offset = next;
            continue;
        };
        let end = offset + found.envelope.total_bytes();
        let name = found.envelope.kind.name();
        if end > file_bytes {
            let what = format!("the file ends inside a {name}, {} bytes before its end", end - file_bytes);
            scan.problems.push(Problem { offset, what, missing_event_count: None });
            offset = next_envelope(file, file_bytes, offset + ENVELOPE_BYTES as u64, &mut buffer)?;
        } else if checksum_holds(file, &found, &mut buffer)? {
            if found.envelope.kind.is_known() {
                scan.found.push(found);
            }
            offset = end;
        } else {
            let what = format!("the checksum of a {name} does not hold");
            scan.problems.push(Problem { offset, what, missing_event_count: None });
            patience_bytes = patience_bytes.saturating_sub(u64::from(found.envelope.payload_bytes));
            let goes_on = end == file_bytes
                || envelope_at(file, file_bytes, end)?.is_some()
                || footer_at(file, file_bytes, end)?
                || patience_bytes == 0;
            // If nothing begins where this one ends, bytes are missing or added: what follows begins elsewhere.
            offset = if goes_on {
                end
            } else {
                next_envelope(file, file_bytes, offset + ENVELOPE_BYTES as u64, &mut buffer)?
            };
        }
    }
    Ok(scan)
}

fn unreadable(offset: u64, next: u64, file_bytes: u64) -> Problem {
    let what = if next == file_bytes {
        format!("the last {} bytes are no whole part of a trace", next - offset)
    } else {
        format!("{} bytes are no part of a trace; reading goes on at offset {next}", next - offset)
    };
    Problem { offset, what, missing_event_count: None }
}

fn envelope_at(file: &File, file_bytes: u64, offset: u64) -> io::Result<Option<Found>> {
    let mut bytes = [0; ENVELOPE_BYTES];
    if offset + ENVELOPE_BYTES as u64 > file_bytes {
        return Ok(None);
    }
    file.read_exact_at(&mut bytes, offset)?;
    Ok(Envelope::decode(&bytes).map(|envelope| Found { offset, envelope }))
}

/// Whether a footer that fits the file ends it here.
fn footer_at(file: &File, file_bytes: u64, offset: u64) -> io::Result<bool> {
    let mut bytes = [0; FOOTER_BYTES];
    if offset + FOOTER_BYTES as u64 != file_bytes {
        return Ok(false);
    }
    file.read_exact_at(&mut bytes, offset)?;
    Ok(Footer::decode(&bytes).is_some_and(|footer| {
        footer.file_bytes == file_bytes && footer.tail_offset < offset && footer.tail_offset >= MARK_BYTES as u64
    }))
}

fn checksum_holds(file: &File, found: &Found, buffer: &mut [u8]) -> io::Result<bool> {
    let mut hasher = Xxh3Default::new();
    let mut offset = found.offset + ENVELOPE_BYTES as u64;
    let mut left = found.envelope.payload_bytes as usize;
    while left > 0 {
        let length = left.min(buffer.len());
        let window = &mut buffer[..length];
        file.read_exact_at(window, offset)?;
        hasher.update(window);
        offset += window.len() as u64;
        left -= window.len();
    }
    Ok(hasher.digest() == found.envelope.payload_checksum)
}

/// Offset of the next envelope or footer from `from` on, or the end of the file.
fn next_envelope(file: &File, file_bytes: u64, from: u64, buffer: &mut [u8]) -> io::Result<u64> {
    if let Some(footer) = file_bytes.checked_sub(FOOTER_BYTES as u64)
        && from > footer
    {
        return Ok(file_bytes);
    }
    let mut start = from;
    while start + ENVELOPE_BYTES as u64 <= file_bytes {
        let length = usize::try_from(file_bytes - start).map_or(buffer.len(), |left| left.min(buffer.len()));
        let window = &mut buffer[..length];
        file.read_exact_at(window, start)?;
        for (index, candidate) in window.windows(ENVELOPE_BYTES).enumerate() {
            if candidate[..4] == ENVELOPE_MAGIC {
                let header = candidate.try_into().expect("a window has this length");
                if Envelope::decode(header).is_some() {
                    return Ok(start + index as u64);
                }
            }
        }
        // Windows overlap, so that a header across their border is found.
        start += (length - ENVELOPE_BYTES + 1) as u64;
    }
    let footer = file_bytes.saturating_sub(FOOTER_BYTES as u64);
    Ok(if footer >= from && footer_at(file, file_bytes, footer)? { footer } else { file_bytes })
}
