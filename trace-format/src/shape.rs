//! Shapes: what events of a chunk have in common. Responsible for naming each combination of operation, entry point and
//! pending domain by a small number, one byte in nearly every event; not for the operands that differ from event to event.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::damage::Damage;
use crate::generated::trace_capnp as schema;
use crate::id::{DomainId, EntryId};
use crate::varint::{Varints, push_varint};

/// Operation codes below this are known, 0 excepted.
const KNOWN_CODES: std::ops::RangeInclusive<u8> = schema::OP_ALLOC..=schema::OP_MARKER;

/// Whether version 1 knows an operation code.
pub(crate) fn is_known_code(code: u8) -> bool {
    KNOWN_CODES.contains(&code)
}

/// Whether events of this code name an entry point.
fn has_entry(code: u8) -> bool {
    (schema::OP_ALLOC..=schema::OP_REALLOC_FREED).contains(&code)
}

/// Whether events of this code can be part of another domain's call.
fn may_be_inside(code: u8) -> bool {
    code == schema::OP_ALLOC || code == schema::OP_ALLOC_ALIGNED
}

/// One combination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) code: u8,
    pub(crate) entry: EntryId,
    pub(crate) inside: Option<DomainId>,
}

impl Shape {
    pub(crate) fn bare(code: u8) -> Self {
        Self { code, entry: EntryId(0), inside: None }
    }

    pub(crate) fn of_entry(code: u8, entry: EntryId) -> Self {
        Self { code, entry, inside: None }
    }
}

/// Slots of the memo in front of the map; a power of two.
const MEMO_SLOTS: usize = 64;

/// Numbers the shapes of one chunk as they appear.
#[derive(Debug)]
pub(crate) struct ShapeNumbers {
    numbers: HashMap<Shape, u32, FixedState>,
    memo: [(Shape, u32); MEMO_SLOTS],
}

impl ShapeNumbers {
    pub(crate) fn new() -> Self {
        Self { numbers: HashMap::default(), memo: [(Shape::bare(0), u32::MAX); MEMO_SLOTS] }
    }

    /// Begins a chunk.
    pub(crate) fn clear(&mut self) {
        self.numbers.clear();
        self.memo = [(Shape::bare(0), u32::MAX); MEMO_SLOTS];
    }

    /// The number of a shape; a new one is appended to the column of shapes.
    #[inline]
    pub(crate) fn number(&mut self, shape: Shape, shapes: &mut Vec<u8>) -> u32 {
        let slot = (usize::from(shape.code) + shape.entry.index() * 5) % MEMO_SLOTS;
        let (known, number) = self.memo[slot];
        if known == shape && number != u32::MAX {
            return number;
        }
        let number = self.number_slowly(shape, shapes);
        self.memo[slot] = (shape, number);
        number
    }

    fn number_slowly(&mut self, shape: Shape, shapes: &mut Vec<u8>) -> u32 {
        let next = self.numbers.len() as u32;
        *self.numbers.entry(shape).or_insert_with(|| {
            push_varint(shapes, u64::from(shape.code));
            push_varint(shapes, u64::from(shape.entry.0));
            push_varint(shapes, shape.inside.map_or(0, |domain| u64::from(domain.0) + 1));
            next
        })
    }
}

/// Reads the column of shapes; ids are checked against the sizes of their tables.
pub(crate) fn decode_shapes(column: &[u8], entry_count: usize, domain_count: usize) -> Result<Vec<Shape>, Damage> {
    let mut varints = Varints::new(column, "the column of shapes");
    let mut shapes = Vec::new();
    while !varints.is_empty() {
        let (code, entry, inside) = (varints.next()?, varints.next_u32()?, varints.next()?);
        let code =
            u8::try_from(code).map_err(|_| Damage::new(format!("an operation has the code {code}, above 255")))?;
        if has_entry(code) && entry as usize >= entry_count {
            return Err(Damage::new(format!("an operation names entry point {entry} of {entry_count}")));
        }
        if may_be_inside(code) && inside > domain_count as u64 {
            return Err(Damage::new(format!("an operation names domain {} of {domain_count}", inside - 1)));
        }
        let inside = if may_be_inside(code) { inside.checked_sub(1).map(|id| DomainId(id as u32)) } else { None };
        shapes.push(Shape { code, entry: EntryId(entry), inside });
    }
    Ok(shapes)
}
