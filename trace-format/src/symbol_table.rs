//! Symbols as messages: string tables and columns. Responsible for storing each string once per message and for cutting
//! long lists into messages of bounded size; not for resolving symbols.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::damage::Damage;
use crate::generated::trace_capnp as schema;
use crate::limits::BATCH_BYTES;
use crate::table::{FrameSymbols, Symbol};
use crate::varint::{Varints, push_varint};

/// Symbols of a run of frames in columns.
#[derive(Debug, Default)]
pub(crate) struct SymbolColumns {
    first_frame: u32,
    frame_count: u32,
    string_lengths: Vec<u8>,
    string_bytes: Vec<u8>,
    function_counts: Vec<u8>,
    names: Vec<u8>,
    linkage_names: Vec<u8>,
    files: Vec<u8>,
    lines: Vec<u8>,
}

impl SymbolColumns {
    /// As many rows from `next` on as fit a message; moves `next` beyond them.
    pub(crate) fn take(symbols: &[FrameSymbols], next: &mut usize) -> Self {
        let mut columns = Self { first_frame: *next as u32, ..Self::default() };
        let mut strings: HashMap<&str, u64, FixedState> = HashMap::default();
        for row in &symbols[*next..] {
            push_varint(&mut columns.function_counts, row.functions.len() as u64);
            for symbol in &row.functions {
                let [name, linkage_name, file] =
                    [&symbol.name, &symbol.linkage_name, &symbol.file].map(|text| columns.string(text, &mut strings));
                push_varint(&mut columns.names, name);
                push_varint(&mut columns.linkage_names, linkage_name);
                push_varint(&mut columns.files, file);
                push_varint(&mut columns.lines, u64::from(symbol.line));
            }
            columns.frame_count += 1;
            if columns.bytes() > BATCH_BYTES {
                break;
            }
        }
        *next += columns.frame_count as usize;
        columns
    }

    fn string<'a>(&mut self, text: &'a str, strings: &mut HashMap<&'a str, u64, FixedState>) -> u64 {
        if text.is_empty() {
            return 0;
        }
        let number = strings.len() as u64 + 1;
        *strings.entry(text).or_insert_with(|| {
            push_varint(&mut self.string_lengths, text.len() as u64);
            self.string_bytes.extend_from_slice(text.as_bytes());
            number
        })
    }

    fn bytes(&self) -> usize {
        self.string_lengths.len() + self.string_bytes.len() + self.function_counts.len() + self.names.len() * 4
    }

    pub(crate) fn write(&self, mut to: schema::symbols::Builder<'_>) {
        to.set_first_frame(self.first_frame);
        to.set_frame_count(self.frame_count);
        to.set_string_lengths(&self.string_lengths);
        to.set_string_bytes(&self.string_bytes);
        to.set_function_counts(&self.function_counts);
        to.set_names(&self.names);
        to.set_linkage_names(&self.linkage_names);
        to.set_files(&self.files);
        to.set_lines(&self.lines);
    }
}

/// Puts the symbols of a message into their rows of `symbols`, which has a row for each frame. Memory taken is
/// subtracted from `budget_bytes`.
pub(crate) fn read_symbols(
    from: schema::symbols::Reader<'_>,
    symbols: &mut [FrameSymbols],
    budget_bytes: &mut u64,
) -> Result<(), Damage> {
    let strings = read_strings(from.get_string_lengths()?, from.get_string_bytes()?)?;
    let first = from.get_first_frame() as usize;
    let length = symbols.len();
    let Some(rows) = symbols.get_mut(first..first.saturating_add(from.get_frame_count() as usize)) else {
        return Err(Damage::new(format!("it names frames that are not there: from {first} on, of {length}")));
    };
    let mut counts = Varints::new(from.get_function_counts()?, "the column of function counts");
    let mut names = Varints::new(from.get_names()?, "the column of names");
    let mut linkage_names = Varints::new(from.get_linkage_names()?, "the column of linkage names");
    let mut files = Varints::new(from.get_files()?, "the column of files");
    let mut lines = Varints::new(from.get_lines()?, "the column of lines");
    let mut text = |varints: &mut Varints<'_>| -> Result<String, Damage> {
        let number = varints.next()? as usize;
        let text = match number.checked_sub(1) {
            None => "",
            Some(index) => strings
                .get(index)
                .ok_or_else(|| Damage::new(format!("it names string {number} of {}", strings.len())))?,
        };
        *budget_bytes = budget_bytes
            .checked_sub(text.len() as u64 + 32)
            .ok_or_else(|| Damage::new("its symbols take more memory than a file of this size may ask for"))?;
        Ok(text.to_owned())
    };
    for row in rows {
        let mut functions = Vec::new();
        for _ in 0..counts.next()? {
            functions.push(Symbol {
                name: text(&mut names)?,
                linkage_name: text(&mut linkage_names)?,
                file: text(&mut files)?,
                line: lines.next_u32()?,
            });
        }
        row.functions = functions;
    }
    Ok(())
}

fn read_strings<'a>(lengths: &[u8], mut bytes: &'a [u8]) -> Result<Vec<&'a str>, Damage> {
    let mut lengths = Varints::new(lengths, "the column of string lengths");
    let mut strings = Vec::new();
    while !lengths.is_empty() {
        let length = lengths.next()?;
        let Some((text, rest)) = usize::try_from(length).ok().and_then(|length| bytes.split_at_checked(length)) else {
            return Err(Damage::new(format!("a string of {length} bytes does not fit the {} left", bytes.len())));
        };
        strings.push(std::str::from_utf8(text)?);
        bytes = rest;
    }
    Ok(strings)
}
