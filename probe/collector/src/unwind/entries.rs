//! Reads `.eh_frame`: which entry covers which code, and the rows that it makes. Responsible for walking the section with
//! gimli and for surviving damage in it; what a row means is `rule`'s business.

use std::{collections::HashMap, ops::Range};

use gimli::{
    BaseAddresses, CieOrFde, EhFrame, EhFrameHdr, EndianSlice, LittleEndian, Pointer, UnwindContext, UnwindSection as _,
};
use probe_abi::unwind::{Rule, SPECIAL_ROOT, SPECIAL_UNSUPPORTED, WideRule};

use super::rule::{Expressed, express};

/// `_start` is no longer than this.
const START_BYTES: u64 = 128;

/// `.eh_frame` and what its pointers are relative to.
pub(super) struct Section<'a> {
    pub(super) data: &'a [u8],
    pub(super) vaddr: u64,
    pub(super) text: u64,
    pub(super) got: u64,
}

/// From an address on, this rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) start: u64,
    pub(super) rule: Rule,
}

/// Code that one entry covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) start: u64,
    pub(super) end: u64,
    /// Its rows.
    pub(super) rows: Range<usize>,
}

/// What a section says.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) list: Vec<Entry>,
    pub(super) rows: Vec<Row>,
    pub(super) wide: Vec<WideRule>,
    numbers: HashMap<WideRule, u32>,
}

impl Entries {
    /// By address; of two that begin at one place the longer first, so that the other one wins.
    pub(super) fn sort(&mut self) {
        if !self.list.is_sorted_by_key(|entry| entry.start) {
            self.list.sort_by_key(|entry| (entry.start, std::cmp::Reverse(entry.end)));
        }
    }

    /// Takes what begins at the file's entry point for `_start`, if no entry covers it.
    pub(super) fn add_start(&mut self, start: u64) {
        let after = self.list.partition_point(|entry| entry.start <= start);
        let covered = after.checked_sub(1).is_some_and(|before| self.list[before].end > start);
        if covered {
            return;
        }
        let next = self.list.get(after).map_or(u64::MAX, |next| next.start);
        self.add_function(start, next.min(start.saturating_add(START_BYTES)), Rule::special(SPECIAL_ROOT));
    }

    /// Adds code that no entry covers, with one rule for all of it.
    pub(super) fn add_function(&mut self, start: u64, end: u64, rule: Rule) {
        let after = self.list.partition_point(|entry| entry.start <= start);
        let rows = self.rows.len()..self.rows.len() + 1;
        self.rows.push(Row { start, rule });
        self.list.insert(after, Entry { start, end, rows });
    }

    fn push(&mut self, start: u64, expressed: Expressed, first: usize) {
        let rule = match expressed {
            Expressed::Rule(rule) => rule,
            Expressed::Wide(wide) => {
                let next = self.wide.len() as u32;
                let number = *self.numbers.entry(wide).or_insert(next);
                if number == next {
                    self.wide.push(wide);
                }
                Rule::wide(number)
            }
        };
        if self.rows.len() == first || self.rows.last().is_none_or(|last| last.rule != rule) {
            self.rows.push(Row { start, rule });
        }
    }
}

impl Section<'_> {
    /// All entries whose code lies in `code`, in the order of the section.
    pub(super) fn entries(&self, code: &[(u64, u64)]) -> Entries {
        let mut section = EhFrame::new(self.data, LittleEndian);
        section.set_address_size(8);
        let bases = BaseAddresses::default().set_eh_frame(self.vaddr).set_text(self.text).set_got(self.got);
        let mut found = Entries::default();
        let mut context = UnwindContext::new();
        let mut cies = HashMap::new();
        let mut list = section.entries(&bases);
        // An entry that cannot be read ends the list: nothing tells where the next one begins.
        while let Ok(Some(entry)) = list.next() {
            let CieOrFde::Fde(partial) = entry else { continue };
            let parsed = partial.parse(|section, bases, offset| {
                if let Some(cie) = cies.get(&offset) {
                    return Ok(gimli::CommonInformationEntry::clone(cie));
                }
                let cie = section.cie_from_offset(bases, offset)?;
                cies.insert(offset, cie.clone());
                Ok(cie)
            });
            let Ok(fde) = parsed else { continue };
            let (start, end) = (fde.initial_address(), fde.initial_address().saturating_add(fde.len()));
            if start >= end || !code.iter().any(|&(from, to)| start >= from && end <= to) {
                continue;
            }
            let first = found.rows.len();
            let is_signal = fde.is_signal_trampoline();
            let mut at = start;
            if let Ok(mut table) = fde.rows(&section, &bases, &mut context) {
                loop {
                    match table.next_row() {
                        Ok(Some(row)) => {
                            at = row.end_address();
                            // Some compilers end an entry with a row for the byte behind it.
                            if row.start_address() >= end {
                                break;
                            }
                            found.push(row.start_address(), express(row, is_signal, &section), first);
                        }
                        Ok(None) => break,
                        Err(_) => {
                            found.push(at, Expressed::Rule(Rule::special(SPECIAL_UNSUPPORTED)), first);
                            break;
                        }
                    }
                }
            }
            let rows = first..found.rows.len();
            if !rows.is_empty() {
                found.list.push(Entry { start, end, rows });
            }
        }
        found
    }
}

/// Where `.eh_frame` begins, from `.eh_frame_hdr`.
pub(super) fn section_start(header: &[u8], vaddr: u64) -> Option<u64> {
    let bases = BaseAddresses::default().set_eh_frame_hdr(vaddr);
    let header: EhFrameHdr<EndianSlice<'_, LittleEndian>> = EhFrameHdr::new(header, LittleEndian);
    match header.parse(&bases, 8).ok()?.eh_frame_ptr() {
        Pointer::Direct(start) => Some(start),
        Pointer::Indirect(_) => None,
    }
}
