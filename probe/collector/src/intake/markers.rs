//! What markers say. Responsible for joining a marker with its text, which comes in a record of its own just before it; not for
//! what a marker means.

use hashbrown::HashMap;
use probe_abi::{MAX_TEXT_BYTES, Record, TEXT_SENT, TextRecord};
use trace_format::TraceWriter;

/// What the row of a marker stands for.
#[derive(Debug, Clone, Copy)]
pub(super) struct MarkerRow {
    /// Row of the trace's table.
    pub(super) id: u32,
    /// What its events are.
    pub(super) kind: u8,
    /// Whether its value is a text.
    pub(super) is_text: bool,
}

/// Texts whose marker has not come yet, by thread.
#[derive(Debug, Default)]
pub(super) struct Texts(HashMap<u32, String>);

impl Texts {
    /// A text: its thread's next marker says it.
    pub(super) fn put(&mut self, record: &TextRecord) {
        self.0.insert(record.tid, text_of(record));
    }

    /// The value of a marker's event.
    pub(super) fn value(&mut self, writer: &mut TraceWriter, record: &Record, row: &MarkerRow) -> u64 {
        if !row.is_text {
            return record.pointer;
        }
        // A text whose marker was lost must not be taken for another's.
        let text = self.0.remove(&record.tid).filter(|_| record.pointer == TEXT_SENT);
        text.map_or(u64::MAX, |text| u64::from(writer.text(&text)))
    }
}

/// The text of a record; one that was cut short ends with an ellipsis.
fn text_of(record: &TextRecord) -> String {
    let length = usize::from(record.length);
    if length <= MAX_TEXT_BYTES {
        return String::from_utf8_lossy(&record.text[..length]).into_owned();
    }
    let mut bytes = &record.text[..MAX_TEXT_BYTES];
    // Not in the middle of a letter.
    if let Err(error) = std::str::from_utf8(bytes)
        && error.error_len().is_none()
    {
        bytes = &bytes[..error.valid_up_to()];
    }
    format!("{}…", String::from_utf8_lossy(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(length: u8, text: &[u8]) -> TextRecord {
        let mut record =
            TextRecord { kind: 7, length, reserved: [0; 2], pid: 1, tid: 1, text: [b'#'; MAX_TEXT_BYTES + 4] };
        record.text[..text.len()].copy_from_slice(text);
        record
    }

    #[test]
    fn texts_end_where_they_end() {
        assert_eq!(text_of(&record(3, b"abcd")), "abc");
        assert_eq!(text_of(&record(0, b"abcd")), "");
        assert_eq!(text_of(&record(2, b"\xff\xc3")), "\u{fffd}\u{fffd}");
        let full = [b'x'; MAX_TEXT_BYTES];
        assert_eq!(text_of(&record(96, &full)), "x".repeat(96));
        assert_eq!(text_of(&record(97, &full)), format!("{}…", "x".repeat(96)));
        let mut cut = full;
        cut[95] = 0xc3;
        assert_eq!(text_of(&record(97, &cut)), format!("{}…", "x".repeat(95)), "half a letter");
    }
}
