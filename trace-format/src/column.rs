//! The columns of one chunk as bytes. Responsible for their buffers and for finding each in a message; not for what goes
//! into them (see `encode` and `decode`).

use crate::damage::Damage;
use crate::generated::trace_capnp as schema;
use crate::varint::{Varints, push_varint};

/// Buffers of all columns that this version writes.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    pub(crate) shapes: Vec<u8>,
    pub(crate) shape: Vec<u8>,
    pub(crate) thread: RunsBuilder,
    pub(crate) time: Vec<u8>,
    pub(crate) stack: Vec<u8>,
    pub(crate) size: Vec<u8>,
    pub(crate) address: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) alignment: Vec<u8>,
    pub(crate) extra: Vec<u8>,
    pub(crate) recall: Vec<u8>,
    pub(crate) change: Vec<u8>,
    pub(crate) quality: RunsBuilder,
}

impl Columns {
    /// Empties them, keeping their memory.
    pub(crate) fn clear(&mut self) {
        self.thread.clear();
        self.quality.clear();
        for column in [
            &mut self.shapes,
            &mut self.shape,
            &mut self.time,
            &mut self.stack,
            &mut self.size,
            &mut self.address,
            &mut self.link,
            &mut self.alignment,
            &mut self.extra,
            &mut self.recall,
            &mut self.change,
        ] {
            column.clear();
        }
    }

    /// Kind, encoding and bytes of each column that is not empty.
    pub(crate) fn finished(&self) -> Vec<(u16, u16, &[u8])> {
        use schema as s;
        let columns: [(u16, u16, &[u8]); 13] = [
            (s::COLUMN_SHAPES, s::ENCODING_VARINT, &self.shapes),
            (s::COLUMN_SHAPE, s::ENCODING_VARINT, &self.shape),
            (s::COLUMN_THREAD, s::ENCODING_RUNS, &self.thread.bytes),
            (s::COLUMN_TIME, s::ENCODING_VARINT, &self.time),
            (s::COLUMN_STACK, s::ENCODING_VARINT, &self.stack),
            (s::COLUMN_SIZE, s::ENCODING_VARINT, &self.size),
            (s::COLUMN_ADDRESS, s::ENCODING_VARINT, &self.address),
            (s::COLUMN_LINK, s::ENCODING_VARINT, &self.link),
            (s::COLUMN_ALIGNMENT, s::ENCODING_VARINT, &self.alignment),
            (s::COLUMN_EXTRA, s::ENCODING_VARINT, &self.extra),
            (s::COLUMN_RECALL, s::ENCODING_VARINT, &self.recall),
            (s::COLUMN_CHANGE, s::ENCODING_VARINT, &self.change),
            (s::COLUMN_STACK_QUALITY, s::ENCODING_RUNS, &self.quality.bytes),
        ];
        columns.into_iter().filter(|(_, _, bytes)| !bytes.is_empty()).collect()
    }
}

/// Writes a column of runs.
#[derive(Debug, Default)]
pub(crate) struct RunsBuilder {
    pub(crate) bytes: Vec<u8>,
    value: u64,
    length: u64,
}

impl RunsBuilder {
    #[inline]
    pub(crate) fn push(&mut self, value: u64) {
        if value != self.value {
            self.end_run();
            self.value = value;
        }
        self.length += 1;
    }

    /// Writes the run that is open.
    pub(crate) fn end_run(&mut self) {
        if self.length > 0 {
            push_varint(&mut self.bytes, self.value);
            push_varint(&mut self.bytes, self.length);
            self.length = 0;
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self { bytes: std::mem::take(&mut self.bytes), value: 0, length: 0 };
        self.bytes.clear();
    }
}

/// Reads a column of runs.
#[derive(Debug)]
pub(crate) struct Runs<'a> {
    varints: Varints<'a>,
    value: u64,
    left: u64,
}

impl<'a> Runs<'a> {
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { varints: Varints::new(bytes, what), value: 0, left: 0 }
    }

    #[inline]
    pub(crate) fn next(&mut self) -> Result<u64, Damage> {
        if self.left == 0 {
            self.value = self.varints.next()?;
            self.left = self.varints.next()?;
            if self.left == 0 {
                return Err(Damage::new("a run in it has length 0"));
            }
        }
        self.left -= 1;
        Ok(self.value)
    }
}

/// Bytes of the columns found in a message; columns that are not there are empty.
#[derive(Debug, Default)]
pub(crate) struct FoundColumns<'a> {
    pub(crate) shapes: &'a [u8],
    pub(crate) shape: &'a [u8],
    pub(crate) thread: &'a [u8],
    pub(crate) time: &'a [u8],
    pub(crate) stack: &'a [u8],
    pub(crate) size: &'a [u8],
    pub(crate) address: &'a [u8],
    pub(crate) link: &'a [u8],
    pub(crate) alignment: &'a [u8],
    pub(crate) extra: &'a [u8],
    pub(crate) recall: &'a [u8],
    pub(crate) change: &'a [u8],
    pub(crate) quality: &'a [u8],
}

impl<'a> FoundColumns<'a> {
    /// Columns of unknown kinds are skipped, unknown encodings of known kinds are refused.
    pub(crate) fn find(columns: capnp::struct_list::Reader<'a, schema::column::Owned>) -> Result<Self, Damage> {
        use schema as s;
        let mut found = Self::default();
        for column in columns {
            let (place, encoding) = match column.get_kind() {
                s::COLUMN_SHAPES => (&mut found.shapes, s::ENCODING_VARINT),
                s::COLUMN_SHAPE => (&mut found.shape, s::ENCODING_VARINT),
                s::COLUMN_THREAD => (&mut found.thread, s::ENCODING_RUNS),
                s::COLUMN_TIME => (&mut found.time, s::ENCODING_VARINT),
                s::COLUMN_STACK => (&mut found.stack, s::ENCODING_VARINT),
                s::COLUMN_SIZE => (&mut found.size, s::ENCODING_VARINT),
                s::COLUMN_ADDRESS => (&mut found.address, s::ENCODING_VARINT),
                s::COLUMN_LINK => (&mut found.link, s::ENCODING_VARINT),
                s::COLUMN_ALIGNMENT => (&mut found.alignment, s::ENCODING_VARINT),
                s::COLUMN_EXTRA => (&mut found.extra, s::ENCODING_VARINT),
                s::COLUMN_RECALL => (&mut found.recall, s::ENCODING_VARINT),
                s::COLUMN_CHANGE => (&mut found.change, s::ENCODING_VARINT),
                s::COLUMN_STACK_QUALITY => (&mut found.quality, s::ENCODING_RUNS),
                _ => continue,
            };
            if column.get_encoding() != encoding {
                return Err(Damage::new(format!(
                    "column {} has encoding {}, which this version does not know; a newer heaptape may read it",
                    column.get_kind(),
                    column.get_encoding()
                )));
            }
            *place = column.get_data()?;
        }
        Ok(found)
    }
}
