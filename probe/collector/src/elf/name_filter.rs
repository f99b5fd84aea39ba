//! Finds the names of a string table that hold one of some words. Responsible for doing so in one pass over the table; not for
//! what the names mean.

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};

/// Words of which a name must hold one to be of interest.
#[derive(Debug)]
pub struct NameFilter(AhoCorasick);

impl NameFilter {
    /// `None` where every name is of interest: there is an empty word, or words too many to search for.
    pub fn new<'a>(words: impl Iterator<Item = &'a str>) -> Option<Self> {
        let words: Vec<&str> = words.collect();
        if words.iter().any(|word| word.is_empty()) {
            return None;
        }
        // Of matches that overlap one is enough; this kind of search skips ahead in vectors.
        AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(words).ok().map(Self)
    }

    /// Where the strings of a table lie that hold a word, in order.
    pub(super) fn strings(&self, table: &[u8]) -> Vec<Range<usize>> {
        let mut strings: Vec<Range<usize>> = Vec::new();
        for found in self.0.find_iter(table) {
            if strings.last().is_some_and(|last| found.start() < last.end) {
                continue;
            }
            let start = table[..found.start()].iter().rposition(|byte| *byte == 0).map_or(0, |before| before + 1);
            let length = table[found.end()..].iter().position(|byte| *byte == 0);
            let end = length.map_or(table.len(), |length| found.end() + length);
            strings.push(start..end);
        }
        strings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_strings_are_found_once() {
        let filter = NameFilter::new(["malloc", "lock"].into_iter()).expect("words to look for");
        let table = b"\0free\0je_malloc_lock\0calloc\0lock\0mallo";
        let found: Vec<&[u8]> = filter.strings(table).into_iter().map(|range| &table[range]).collect();
        assert_eq!(found, [&b"je_malloc_lock"[..], b"lock"]);
        assert!(NameFilter::new([""].into_iter()).is_none(), "an empty word is in every name");
        assert!(NameFilter::new(std::iter::empty()).expect("no words").strings(table).is_empty());
    }
}
