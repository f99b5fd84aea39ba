//! Columns into events. Responsible for the hot path of reading and for refusing what breaks a rule of the schema, so
//! that every id of a decoded event is in range; not for where chunks come from (see `reader`).

use crate::column::{FoundColumns, Runs};
use crate::damage::Damage;
use crate::encode::{ADDRESS_ALIGNMENT_BITS, ChunkFacts};
use crate::event::{EndReason, Event, Op, StackQuality, Target, Walk};
use crate::generated::trace_capnp as schema;
use crate::id::{BlockId, ProcessId, Sequence, StackId, ThreadId};
use crate::limits::{MAX_CHUNK_EVENTS, NO_MARKER};
use crate::recall::{RANKS, Recall};
use crate::shape::{Shape, decode_shapes};
use crate::table::{MarkerValue, Tables};
use crate::varint::{Varints, unzigzag};

/// Reads what a chunk says of itself.
pub(crate) fn read_facts(chunk: schema::chunk::Reader<'_>) -> Result<ChunkFacts, Damage> {
    let facts = ChunkFacts {
        first_sequence: Sequence(chunk.get_first_sequence()),
        event_count: chunk.get_event_count(),
        first_block: BlockId(chunk.get_first_block()),
        block_count: chunk.get_block_count(),
        first_tick: chunk.get_first_tick(),
        tick_ns: chunk.get_tick_ns(),
        without_addresses: chunk.get_without_addresses(),
    };
    if facts.event_count as usize > MAX_CHUNK_EVENTS {
        return Err(Damage::new(format!(
            "it says that it holds {} events; the format allows {MAX_CHUNK_EVENTS}",
            facts.event_count
        )));
    }
    if facts.block_count > facts.event_count {
        return Err(Damage::new("it says that it holds more births than events"));
    }
    if facts.tick_ns == 0 {
        return Err(Damage::new("its clock ticks every 0 ns"));
    }
    let ends = facts.first_sequence.0.checked_add(u64::from(facts.event_count));
    // Links count births up to 2 beyond the last one.
    if ends.is_none() || facts.first_block.0 > u64::MAX - MAX_CHUNK_EVENTS as u64 - 2 {
        return Err(Damage::new("its numbers end beyond 64 bits"));
    }
    Ok(facts)
}

/// Sizes of the tables that events refer to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bounds {
    threads: usize,
    stacks: usize,
    processes: usize,
    entries: usize,
    domains: usize,
    texts: usize,
    /// Of each marker, whether its value is a text.
    markers: Vec<bool>,
}

impl Bounds {
    pub(crate) fn of(tables: &Tables) -> Self {
        Self {
            threads: tables.threads.len(),
            stacks: tables.stacks.len(),
            processes: tables.processes.len(),
            entries: tables.entries.len(),
            domains: tables.domains.len(),
            texts: tables.texts.len(),
            markers: tables.markers.iter().map(|marker| marker.value == MarkerValue::Text).collect(),
        }
    }
}

/// Decodes a chunk into `events`, which is cleared first. All or nothing: after an error it is empty.
pub(crate) fn decode_chunk(
    chunk: schema::chunk::Reader<'_>,
    bounds: &Bounds,
    events: &mut Vec<Event>,
) -> Result<(), Damage> {
    events.clear();
    let facts = read_facts(chunk)?;
    let columns = FoundColumns::find(chunk.get_columns()?)?;
    let shapes = decode_shapes(columns.shapes, bounds.entries, bounds.domains)?;
    // Each event takes at least a byte of this column: no more memory than the chunk can fill.
    if columns.shape.len() < facts.event_count as usize {
        return Err(Damage::new("the column of events ends too early"));
    }
    events.reserve(facts.event_count as usize);
    let mut decoder = Decoder::new(&facts, &columns, bounds);
    let result = decoder.run(&shapes, &facts, Varints::new(columns.shape, "the column of events"), events);
    if result.is_err() {
        events.clear();
    }
    result
}

struct Decoder<'a> {
    thread: Runs<'a>,
    time: Varints<'a>,
    stack: Varints<'a>,
    size: Varints<'a>,
    address: Varints<'a>,
    link: Varints<'a>,
    alignment: Varints<'a>,
    extra: Varints<'a>,
    ranks: Varints<'a>,
    /// `None` where the chunk has no such column.
    change: Option<Varints<'a>>,
    quality: Option<Runs<'a>>,
    recall: Recall,
    bounds: &'a Bounds,
    without_addresses: bool,
    next_block: u64,
    last_address: u64,
    realloc_size_bytes: Option<u64>,
}

impl<'a> Decoder<'a> {
    fn new(facts: &ChunkFacts, columns: &FoundColumns<'a>, bounds: &'a Bounds) -> Self {
        Self {
            thread: Runs::new(columns.thread, "the column of threads"),
            time: Varints::new(columns.time, "the column of times"),
            stack: Varints::new(columns.stack, "the column of stacks"),
            size: Varints::new(columns.size, "the column of sizes"),
            address: Varints::new(columns.address, "the column of addresses"),
            link: Varints::new(columns.link, "the column of links"),
            alignment: Varints::new(columns.alignment, "the column of alignments"),
            extra: Varints::new(columns.extra, "the column of extra operands"),
            ranks: Varints::new(columns.recall, "the column of recalled addresses"),
            change: (!columns.change.is_empty()).then(|| Varints::new(columns.change, "the column of changes")),
            quality: (!columns.quality.is_empty()).then(|| Runs::new(columns.quality, "the column of stack qualities")),
            recall: Recall::new(facts.first_block),
            bounds,
            without_addresses: facts.without_addresses,
            next_block: facts.first_block.0,
            last_address: 0,
            realloc_size_bytes: None,
        }
    }

    fn run(
        &mut self,
        shapes: &[Shape],
        facts: &ChunkFacts,
        mut numbers: Varints<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), Damage> {
        let mut tick = facts.first_tick;
        let mut stack = 0u64;
        let tick_ns = u64::from(facts.tick_ns);
        for index in 0..u64::from(facts.event_count) {
            let number = numbers.next()?;
            let Some(shape) = shapes.get(number as usize) else {
                return Err(Damage::new(format!("an event has shape {number} of {}", shapes.len())));
            };
            tick = tick.wrapping_add(unzigzag(self.time.next()?) as u64);
            let thread = self.thread.next()?;
            if thread >= self.bounds.threads as u64 {
                return Err(Damage::new(format!("an event names thread {thread} of {}", self.bounds.threads)));
            }
            stack = stack.wrapping_add(unzigzag(self.stack.next()?) as u64);
            if stack >= self.bounds.stacks as u64 {
                return Err(Damage::new(format!("an event names stack {stack} of {}", self.bounds.stacks)));
            }
            let thread = ThreadId(thread as u32);
            let walk = self.walk()?;
            let op = self.op(thread, shape)?;
            events.push(Event {
                sequence: Sequence(facts.first_sequence.0 + index),
                time_ns: tick.saturating_mul(tick_ns),
                thread,
                stack: StackId(stack as u32),
                walk,
                op,
            });
        }
        let births = self.next_block - facts.first_block.0;
        if births != u64::from(facts.block_count) {
            return Err(Damage::new(format!("it holds {births} births where it says {}", facts.block_count)));
        }
        Ok(())
    }

    #[inline]
    fn walk(&mut self) -> Result<Walk, Damage> {
        let mut walk = Walk::NONE;
        if let Some(quality) = &mut self.quality {
            let code = quality.next()?;
            let code = u8::try_from(code).map_err(|_| Damage::new(format!("a stack has quality {code}, above 255")))?;
            walk.quality = StackQuality::from_code(code);
        }
        if let Some(change) = &mut self.change {
            let change = change.next()?;
            walk.moved = change & 1 != 0;
            walk.renewed = u32::try_from(change >> 1)
                .map_err(|_| Damage::new(format!("{} frames of a stack are renewed", change >> 1)))?;
        }
        Ok(walk)
    }

    #[inline]
    fn op(&mut self, thread: ThreadId, shape: &Shape) -> Result<Op, Damage> {
        let entry = shape.entry;
        Ok(match shape.code {
            schema::OP_ALLOC => {
                let size_bytes = self.size.next()?;
                let address = self.birth_address(thread, size_bytes)?;
                Op::Alloc { entry, block: self.birth(), size_bytes, alignment_bytes: 0, address, inside: shape.inside }
            }
            schema::OP_FREE => Op::Free { entry, target: self.target(thread)? },
            schema::OP_REALLOC_BEGIN => {
                let target = self.target(thread)?;
                let size_bytes = self.size.next()?;
                self.realloc_size_bytes = Some(size_bytes);
                Op::ReallocBegin { entry, target, size_bytes }
            }
            schema::OP_REALLOC_END | schema::OP_REALLOC_END_SAME => {
                let size_bytes = if shape.code == schema::OP_REALLOC_END {
                    self.size.next()?
                } else {
                    self.realloc_size_bytes.ok_or_else(|| Damage::new("the end of a realloc lacks its size"))?
                };
                let address = self.birth_address(thread, size_bytes)?;
                Op::ReallocEnd { entry, block: self.birth(), size_bytes, address }
            }
            _ => self.rare_op(thread, shape)?,
        })
    }

    #[cold]
    fn rare_op(&mut self, thread: ThreadId, shape: &Shape) -> Result<Op, Damage> {
        let entry = shape.entry;
        Ok(match shape.code {
            schema::OP_ALLOC_ALIGNED => {
                let size_bytes = self.size.next()?;
                let address = self.birth_address(thread, size_bytes)?;
                let alignment_bytes = self.alignment.next()?;
                Op::Alloc { entry, block: self.birth(), size_bytes, alignment_bytes, address, inside: shape.inside }
            }
            schema::OP_ALLOC_FAILED => Op::AllocFailed { entry, size_bytes: self.size.next()? },
            schema::OP_REALLOC_FAILED => Op::ReallocFailed { entry },
            schema::OP_REALLOC_FREED => Op::ReallocFreed { entry },
            schema::OP_MISSED_FREE => match self.target(thread)? {
                Target::Block(block) => Op::MissedFree { block },
                _ => return Err(Damage::new("a missed free names no block")),
            },
            schema::OP_PROCESS_START => Op::ProcessStart { process: self.process()? },
            schema::OP_PROCESS_END => {
                let process = self.process()?;
                let (reason, status) = (self.extra.next()?, unzigzag(self.extra.next()?));
                let reason = match reason {
                    0 => EndReason::Exit(
                        i32::try_from(status)
                            .map_err(|_| Damage::new(format!("a wait status is {status}, above 32 bits")))?,
                    ),
                    1 => EndReason::Exec,
                    2 => EndReason::Detached,
                    _ => return Err(Damage::new(format!("a process ends for the unknown reason {reason}"))),
                };
                Op::ProcessEnd { process, reason }
            }
            schema::OP_THREAD_END => Op::ThreadEnd,
            schema::OP_LOSS => Op::Loss {
                cpu: self.extra.next_u32()?,
                first_ns: self.extra.next()?,
                last_ns: self.extra.next()?,
                alloc_count: self.extra.next()?,
                free_count: self.extra.next()?,
                other_count: self.extra.next()?,
            },
            schema::OP_MARKER => self.marker()?,
            code => Op::Unknown { code },
        })
    }

    #[inline]
    fn birth(&mut self) -> BlockId {
        let block = BlockId(self.next_block);
        self.next_block += 1;
        block
    }

    #[inline]
    fn birth_address(&mut self, thread: ThreadId, size_bytes: u64) -> Result<u64, Damage> {
        if self.without_addresses {
            return Ok(0);
        }
        let rank = self.ranks.next()?;
        if rank > RANKS as u64 {
            return Err(Damage::new(format!("a birth recalls address {rank} of {RANKS}")));
        }
        let (addresses, last) = (&mut self.address, &mut self.last_address);
        let rotated = self.recall.address(thread, size_bytes, rank as usize, || next_address(addresses, last))?;
        Ok(rotated.rotate_left(ADDRESS_ALIGNMENT_BITS))
    }

    #[inline]
    fn address(&mut self) -> Result<u64, Damage> {
        let rotated = next_address(&mut self.address, &mut self.last_address)?;
        Ok(rotated.rotate_left(ADDRESS_ALIGNMENT_BITS))
    }

    #[inline]
    fn target(&mut self, thread: ThreadId) -> Result<Target, Damage> {
        match self.link.next()? {
            0 => Ok(Target::Unknown { address: self.address()? }),
            1 => Ok(Target::Dead { address: self.address()? }),
            link if link - 1 <= self.next_block => {
                let block = BlockId(self.next_block + 1 - link);
                self.recall.death(thread, block);
                Ok(Target::Block(block))
            }
            link => Err(Damage::new(format!(
                "an event names the block born {} births ago, there were only {}",
                link - 1,
                self.next_block
            ))),
        }
    }

    fn marker(&mut self) -> Result<Op, Damage> {
        let id = self.extra.next_u32()?;
        let kind = u8::try_from(self.extra.next()?).map_err(|_| Damage::new("a marker's kind is above 255"))?;
        let value = self.extra.next()?;
        let (markers, texts) = (&self.bounds.markers, self.bounds.texts as u64);
        match markers.get(id as usize) {
            Some(true) if value >= texts && value != u64::MAX => {
                Err(Damage::new(format!("a marker names text {value} of {texts}")))
            }
            None if id != NO_MARKER => Err(Damage::new(format!("an event names marker {id} of {}", markers.len()))),
            _ => Ok(Op::Marker { id, kind, value }),
        }
    }

    fn process(&mut self) -> Result<ProcessId, Damage> {
        let process = self.extra.next_u32()?;
        if process as usize >= self.bounds.processes {
            return Err(Damage::new(format!("an event names process {process} of {}", self.bounds.processes)));
        }
        Ok(ProcessId(process))
    }
}

/// The next address of its column, still rotated.
#[inline]
fn next_address(addresses: &mut Varints<'_>, last: &mut u64) -> Result<u64, Damage> {
    *last = last.wrapping_add(unzigzag(addresses.next()?) as u64);
    Ok(*last)
}
