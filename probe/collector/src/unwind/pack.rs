//! Rows into the words of a table, and back. Responsible for the layout that `probe_abi::unwind` specifies.

use probe_abi::unwind::{HEADER_WORDS, PAGE_SHIFT, Rule, WideRule};

use super::{UnwindError, UnwindTable};

/// Pages of the largest code that a table can index: 16 GiB.
const MAX_PAGES: u64 = 1 << 26;

/// Rows in ascending order on their way into a table.
#[derive(Debug, Default)]
pub(super) struct Packer {
    /// Address and rule, each rule different from the one before it.
    rows: Vec<(u64, Rule)>,
    pub(super) wide: Vec<WideRule>,
    pub(super) functions: Vec<u64>,
    pub(super) unsupported: u64,
}

impl Packer {
    /// From an address on, not before the last one's, this rule.
    #[inline]
    pub(super) fn push(&mut self, start: u64, rule: Rule) {
        while self.rows.last().is_some_and(|last| last.0 >= start) {
            self.rows.pop();
        }
        if self.rows.last().is_none_or(|last| last.1 != rule) {
            self.rows.push((start, rule));
        }
    }

    pub(super) fn finish(self) -> Result<UnwindTable, UnwindError> {
        let (Some(first), Some(last)) = (self.rows.first(), self.rows.last()) else {
            return Ok(UnwindTable { words: vec![0; HEADER_WORDS as usize], ..UnwindTable::default() });
        };
        let (first_page, last_page) = (first.0 >> PAGE_SHIFT, last.0 >> PAGE_SHIFT);
        let page_count = last_page - first_page + 1;
        if page_count > MAX_PAGES || first_page >> 32 != 0 {
            return Err(UnwindError::TooLarge { span_bytes: last.0 - first.0 });
        }
        let row_count = self.rows.len();
        let mut words = Vec::with_capacity(HEADER_WORDS as usize + page_count as usize + row_count.div_ceil(2));
        words.push(first_page | page_count << 32);
        words.push((row_count as u64) << 32);
        let mut next = 0;
        for page in first_page..=last_page {
            let count = self.rows[next..].iter().take_while(|row| row.0 >> PAGE_SHIFT == page).count();
            words.push(next as u64 | (count as u64) << 32);
            next += count;
        }
        for pair in self.rows.chunks(2) {
            let row = |index: usize| pair.get(index).map_or(0, |&(start, rule)| u64::from(rule.at(start)));
            words.push(row(0) | row(1) << 32);
        }
        let Self { wide, functions, unsupported, .. } = self;
        Ok(UnwindTable { words, wide, functions, unsupported_row_count: unsupported })
    }
}

/// The rule at an address, as the kernel side finds it; `None` before the first row and behind the last page.
pub(super) fn rule_at(words: &[u64], vaddr: u64) -> Option<Rule> {
    let header = *words.first()?;
    let (first_page, page_count) = (header & 0xffff_ffff, header >> 32);
    let page = (vaddr >> PAGE_SHIFT).checked_sub(first_page).filter(|page| *page < page_count)?;
    let index = *words.get(HEADER_WORDS as usize + page as usize)?;
    let (first, count) = (index & 0xffff_ffff, index >> 32);
    let row = |number: u64| {
        let word = words.get(HEADER_WORDS as usize + page_count as usize + (number / 2) as usize)?;
        Some((word >> (number % 2 * 32)) as u32)
    };
    let mut before = 0;
    while before < count && u64::from(row(first + before)? & 0xff) <= (vaddr & 0xff) {
        before += 1;
    }
    Some(Rule::of_row(row((first + before).checked_sub(1)?)?))
}
