//! Events into columns. Responsible for the hot path of writing: what each operation puts into which column, as the
//! schema says under "Op codes"; not for checking ids (see `writer`).

use crate::column::Columns;
use crate::event::{EndReason, Op, StackQuality, Target, Walk};
use crate::generated::trace_capnp as schema;
use crate::id::{BlockId, Sequence, StackId, ThreadId};
use crate::recall::{RANKS, Recall};
use crate::shape::{Shape, ShapeNumbers};
use crate::varint::{push_varint, zigzag};

/// Bits that addresses are rotated by: what malloc aligns to.
pub(crate) const ADDRESS_ALIGNMENT_BITS: u32 = 4;

/// What a chunk says of itself beside its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkFacts {
    pub(crate) first_sequence: Sequence,
    pub(crate) event_count: u32,
    pub(crate) first_block: BlockId,
    pub(crate) block_count: u32,
    pub(crate) first_tick: u64,
    pub(crate) tick_ns: u32,
    pub(crate) without_addresses: bool,
}

/// The chunk being filled.
#[derive(Debug)]
pub(crate) struct ChunkEncoder {
    columns: Columns,
    shapes: ShapeNumbers,
    facts: ChunkFacts,
    tick: u64,
    stack: StackId,
    address: u64,
    realloc_size_bytes: Option<u64>,
    recall: Recall,
    /// Whether any event continues its stack in an unusual way, or has a walk at all.
    has_change: bool,
    has_walk: bool,
}

impl ChunkEncoder {
    pub(crate) fn new(tick_ns: u32, without_addresses: bool) -> Self {
        Self {
            columns: Columns::default(),
            shapes: ShapeNumbers::new(),
            facts: ChunkFacts {
                first_sequence: Sequence(0),
                event_count: 0,
                first_block: BlockId(0),
                block_count: 0,
                first_tick: 0,
                tick_ns,
                without_addresses,
            },
            tick: 0,
            stack: StackId::EMPTY,
            address: 0,
            realloc_size_bytes: None,
            recall: Recall::new(BlockId(0)),
            has_change: false,
            has_walk: false,
        }
    }

    pub(crate) fn event_count(&self) -> usize {
        self.facts.event_count as usize
    }

    pub(crate) fn next_sequence(&self) -> Sequence {
        Sequence(self.facts.first_sequence.0 + u64::from(self.facts.event_count))
    }

    pub(crate) fn next_block(&self) -> BlockId {
        BlockId(self.facts.first_block.0 + u64::from(self.facts.block_count))
    }

    pub(crate) fn tick_ns(&self) -> u32 {
        self.facts.tick_ns
    }

    /// Only for an empty chunk.
    pub(crate) fn set_tick_ns(&mut self, tick_ns: u32) {
        debug_assert_eq!(self.facts.event_count, 0, "a chunk has one tick");
        self.facts.tick_ns = tick_ns;
    }

    /// Ends the chunk and begins the next with the empty columns `fresh`.
    pub(crate) fn take(&mut self, fresh: Columns) -> (ChunkFacts, Columns) {
        let (sequence, block) = (self.next_sequence(), self.next_block());
        self.columns.thread.end_run();
        self.columns.quality.end_run();
        // Columns that say nothing are left out.
        if !self.has_change {
            self.columns.change.clear();
        }
        if !self.has_walk {
            self.columns.quality.clear();
        }
        let columns = std::mem::replace(&mut self.columns, fresh);
        let facts = self.facts;
        self.begin(sequence, block);
        (facts, columns)
    }

    /// Begins an empty chunk at this place of the order.
    pub(crate) fn begin(&mut self, sequence: Sequence, block: BlockId) {
        self.columns.clear();
        self.shapes.clear();
        self.facts =
            ChunkFacts { first_sequence: sequence, event_count: 0, first_block: block, block_count: 0, ..self.facts };
        self.stack = StackId::EMPTY;
        self.address = 0;
        self.recall.clear(block);
        self.realloc_size_bytes = None;
        self.has_change = false;
        self.has_walk = false;
    }

    /// Appends an event whose ids were checked.
    #[inline]
    pub(crate) fn push(&mut self, time_ns: u64, thread: ThreadId, stack: StackId, walk: Walk, op: &Op) {
        let tick = time_ns / u64::from(self.facts.tick_ns);
        if self.facts.event_count == 0 {
            self.facts.first_tick = tick;
            self.tick = tick;
        }
        push_varint(&mut self.columns.time, zigzag(tick.wrapping_sub(self.tick) as i64));
        self.tick = tick;
        self.columns.thread.push(u64::from(thread.0));
        push_varint(&mut self.columns.stack, zigzag(i64::from(stack.0) - i64::from(self.stack.0)));
        self.stack = stack;
        let change = u64::from(walk.renewed) << 1 | u64::from(walk.moved);
        push_varint(&mut self.columns.change, change);
        self.has_change |= change != 0;
        self.columns.quality.push(u64::from(walk.quality.code()));
        self.has_walk |= walk.quality != StackQuality::NotTaken;
        let shape = self.operands(thread, op);
        let number = self.shapes.number(shape, &mut self.columns.shapes);
        push_varint(&mut self.columns.shape, u64::from(number));
        self.facts.event_count += 1;
    }

    #[inline]
    fn operands(&mut self, thread: ThreadId, op: &Op) -> Shape {
        match *op {
            Op::Alloc { entry, block: _, size_bytes, alignment_bytes, address, inside } => {
                push_varint(&mut self.columns.size, size_bytes);
                self.birth(thread, size_bytes, address);
                let code = if alignment_bytes == 0 {
                    schema::OP_ALLOC
                } else {
                    push_varint(&mut self.columns.alignment, alignment_bytes);
                    schema::OP_ALLOC_ALIGNED
                };
                Shape { code, entry, inside }
            }
            Op::Free { entry, target } => {
                self.target(thread, target);
                Shape::of_entry(schema::OP_FREE, entry)
            }
            Op::ReallocBegin { entry, target, size_bytes } => {
                self.target(thread, target);
                push_varint(&mut self.columns.size, size_bytes);
                self.realloc_size_bytes = Some(size_bytes);
                Shape::of_entry(schema::OP_REALLOC_BEGIN, entry)
            }
            Op::ReallocEnd { entry, block: _, size_bytes, address } => {
                let code = if self.realloc_size_bytes == Some(size_bytes) {
                    schema::OP_REALLOC_END_SAME
                } else {
                    push_varint(&mut self.columns.size, size_bytes);
                    schema::OP_REALLOC_END
                };
                self.birth(thread, size_bytes, address);
                Shape::of_entry(code, entry)
            }
            _ => self.rare_operands(thread, op),
        }
    }

    #[cold]
    fn rare_operands(&mut self, thread: ThreadId, op: &Op) -> Shape {
        let extra = &mut self.columns.extra;
        match *op {
            Op::AllocFailed { entry, size_bytes } => {
                push_varint(&mut self.columns.size, size_bytes);
                Shape::of_entry(schema::OP_ALLOC_FAILED, entry)
            }
            Op::ReallocFailed { entry } => Shape::of_entry(schema::OP_REALLOC_FAILED, entry),
            Op::ReallocFreed { entry } => Shape::of_entry(schema::OP_REALLOC_FREED, entry),
            Op::MissedFree { block } => {
                self.target(thread, Target::Block(block));
                Shape::bare(schema::OP_MISSED_FREE)
            }
            Op::ProcessStart { process } => {
                push_varint(extra, u64::from(process.0));
                Shape::bare(schema::OP_PROCESS_START)
            }
            Op::ProcessEnd { process, reason } => {
                let (reason, status) = match reason {
                    EndReason::Exit(status) => (0, status),
                    EndReason::Exec => (1, 0),
                    EndReason::Detached => (2, 0),
                };
                push_varint(extra, u64::from(process.0));
                push_varint(extra, reason);
                push_varint(extra, zigzag(i64::from(status)));
                Shape::bare(schema::OP_PROCESS_END)
            }
            Op::ThreadEnd => Shape::bare(schema::OP_THREAD_END),
            Op::Loss { cpu, first_ns, last_ns, alloc_count, free_count, other_count } => {
                for operand in [u64::from(cpu), first_ns, last_ns, alloc_count, free_count, other_count] {
                    push_varint(extra, operand);
                }
                Shape::bare(schema::OP_LOSS)
            }
            Op::Marker { id, kind, value } => {
                for operand in [u64::from(id), u64::from(kind), value] {
                    push_varint(extra, operand);
                }
                Shape::bare(schema::OP_MARKER)
            }
            Op::Unknown { code } => Shape::bare(code),
            Op::Alloc { .. } | Op::Free { .. } | Op::ReallocBegin { .. } | Op::ReallocEnd { .. } => {
                unreachable!("`operands` handles the frequent ones")
            }
        }
    }

    #[inline]
    fn birth(&mut self, thread: ThreadId, size_bytes: u64, address: u64) {
        self.facts.block_count += 1;
        if self.facts.without_addresses {
            return;
        }
        let rank = self.recall.rank(thread, size_bytes, address.rotate_right(ADDRESS_ALIGNMENT_BITS));
        self.columns.recall.push(rank as u8);
        if rank == RANKS {
            self.address(address);
        }
    }

    #[inline]
    fn target(&mut self, thread: ThreadId, target: Target) {
        match target {
            Target::Block(block) => {
                let link = self.next_block().0 - block.0 + 1;
                push_varint(&mut self.columns.link, link);
                self.recall.death(thread, block);
            }
            Target::Unknown { address } => {
                self.columns.link.push(0);
                self.address(address);
            }
            Target::Dead { address } => {
                self.columns.link.push(1);
                self.address(address);
            }
        }
    }

    #[inline]
    fn address(&mut self, address: u64) {
        let rotated = address.rotate_right(ADDRESS_ALIGNMENT_BITS);
        push_varint(&mut self.columns.address, zigzag(rotated.wrapping_sub(self.address) as i64));
        self.address = rotated;
    }
}
