//! Static probes that a file was built with (`<sys/sdt.h>` and its like): notes that name a provider, a probe, an address and
//! where the arguments are. Responsible for the layout of these notes; not for what a probe means.

use std::fs::File;

use super::fields::{string_at, u32_at, u64_at};
use super::{ElfError, ElfImage, Reader};

/// Notes are padded to this.
const ALIGNMENT: usize = 4;
/// Type and owner of the notes.
const KIND: u32 = 3;
const OWNER: &[u8] = b"stapsdt\0";
/// Largest section of notes that is looked at.
const MAX_NOTE_BYTES: u64 = 16 << 20;

/// Where the notes are.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProbeNotes {
    pub(super) file_offset: u64,
    pub(super) size_bytes: u64,
    /// Address of the section by which a prelinked file tells how far its code was moved after the notes were written.
    pub(super) base_vaddr: Option<u64>,
}

/// A static probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticProbe {
    /// Who defines it.
    pub provider: String,
    /// Its name there.
    pub name: String,
    /// Address of its instruction, a nop.
    pub vaddr: u64,
    /// Where its arguments are, in the notation of the assembler.
    pub arguments: String,
}

impl ElfImage {
    /// Whether it has static probes of any provider.
    pub fn has_static_probes(&self) -> bool {
        self.probe_notes.is_some()
    }

    /// Its static probes. A note that makes no sense ends the list.
    ///
    /// # Errors
    /// If the notes cannot be read from `file`.
    pub fn static_probes(&self, file: &File) -> Result<Vec<StaticProbe>, ElfError> {
        let Some(place) = self.probe_notes else { return Ok(Vec::new()) };
        let reader = Reader::new(file, &self.path)?;
        let size_bytes = place.size_bytes.min(MAX_NOTE_BYTES);
        let notes = reader.range("the notes of static probes", place.file_offset, size_bytes)?;
        let mut probes = Vec::new();
        let mut rest = &notes[..];
        while let Some((probe, behind)) = first(rest, place.base_vaddr) {
            probes.extend(probe);
            rest = behind;
        }
        Ok(probes)
    }
}

/// The first note, if it is a static probe, and what follows it.
fn first(notes: &[u8], base_vaddr: Option<u64>) -> Option<(Option<StaticProbe>, &[u8])> {
    let (name_bytes, data_bytes) = (u32_at(notes, 0)? as usize, u32_at(notes, 4)? as usize);
    let kind = u32_at(notes, 8)?;
    let data_start = 12usize.checked_add(name_bytes)?.checked_next_multiple_of(ALIGNMENT)?;
    let data_end = data_start.checked_add(data_bytes)?;
    let owner = notes.get(12..12usize.checked_add(name_bytes)?)?;
    let data = notes.get(data_start..data_end)?;
    let end = data_end.checked_next_multiple_of(ALIGNMENT)?.min(notes.len());
    let probe = if kind == KIND && owner == OWNER { probe(data, base_vaddr) } else { None };
    Some((probe, &notes[end..]))
}

fn probe(data: &[u8], base_vaddr: Option<u64>) -> Option<StaticProbe> {
    let (vaddr, base) = (u64_at(data, 0)?, u64_at(data, 8)?);
    // A third word, the semaphore, is none of ours.
    let mut at = 24;
    let mut text = || {
        let text = string_at(data, at)?;
        at += text.len() + 1;
        Some(String::from_utf8_lossy(text).into_owned())
    };
    let (provider, name) = (text()?, text()?);
    let arguments = text().unwrap_or_default();
    let moved = base_vaddr.filter(|_| base != 0).map_or(0, |now| now.wrapping_sub(base));
    Some(StaticProbe { provider, name, vaddr: vaddr.wrapping_add(moved), arguments })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(owner: &[u8], words: [u64; 3], texts: &[u8]) -> Vec<u8> {
        let mut data: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        data.extend(texts);
        let mut note: Vec<u8> =
            [owner.len() as u32, data.len() as u32, KIND].iter().flat_map(|word| word.to_le_bytes()).collect();
        note.extend(owner);
        note.resize(note.len().next_multiple_of(4), 0);
        note.extend(data);
        note.resize(note.len().next_multiple_of(4), 0);
        note
    }

    #[test]
    fn notes_tell_probes_and_prelinking_moves_them() {
        let mut notes = note(OWNER, [0x1000, 0x5000, 0], b"libc\0setjmp\08@%rdi\0");
        notes.extend(note(b"GNU\0", [0, 0, 0], b"not ours"));
        notes.extend(note(OWNER, [0x2000, 0x5000, 0], b"heaptape\0point\0\0"));
        let mut rest = &notes[..];
        let mut found = Vec::new();
        while let Some((probe, behind)) = first(rest, Some(0x5010)) {
            found.push(probe.map(|probe| (probe.provider, probe.name, probe.vaddr, probe.arguments)));
            rest = behind;
        }
        let text = |text: &str| text.to_owned();
        assert_eq!(found[0], Some((text("libc"), text("setjmp"), 0x1010, text("8@%rdi"))));
        assert_eq!((found[1].clone(), found.len()), (None, 3));
        assert_eq!(found[2], Some((text("heaptape"), text("point"), 0x2010, String::new())));
        for length in 0..notes.len() {
            let mut rest = &notes[..length];
            while let Some((_, behind)) = first(rest, None) {
                rest = behind;
            }
        }
    }
}
