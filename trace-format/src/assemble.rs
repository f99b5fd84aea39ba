//! Tables put together from the messages of a file. Responsible for the rule that every id in a table is in range, also
//! where a damaged chunk took rows with it: those become placeholders named `[lost]`; not for finding messages.

use std::collections::HashMap;

use crate::column::Runs;
use crate::damage::Damage;
use crate::generated::trace_capnp as schema;
use crate::id::{DomainId, FrameId, ModuleId, ProcessId, StackId};
use crate::limits::{MAX_LOST_ROWS, MAX_WIDE_ROWS};
use crate::rows::TableLengths;
use crate::table::{
    Domain, Entry, EntryKind, Frame, Marker, MarkerEnd, MarkerValue, Module, Nesting, Origin, Probe, Process,
    ResultProbe, StackNode, Tables, Thread,
};
use crate::varint::{Varints, unzigzag};

/// Name of rows that a damaged chunk took with it.
pub const LOST: &str = "[lost]";

/// An id that no table reaches: stands in placeholders until `finish`.
const NOWHERE: u32 = u32::MAX;

/// Collects tables.
#[derive(Debug)]
pub(crate) struct Assembler {
    tables: Tables,
    nesting_index: NestingIndex,
    lost_row_count: u64,
    budget_bytes: u64,
}

impl Assembler {
    /// Tables may take `budget_bytes` in memory.
    pub(crate) fn new(budget_bytes: u64) -> Self {
        Self { tables: empty_tables(), nesting_index: NestingIndex::default(), lost_row_count: 0, budget_bytes }
    }

    /// Rows that a damaged chunk took with it, so far.
    pub(crate) fn lost_row_count(&self) -> u64 {
        self.lost_row_count
    }

    /// Adds the rows of a message of this size. All or nothing: after an error the tables are as before.
    pub(crate) fn add(&mut self, dictionary: schema::dictionary::Reader<'_>, message_bytes: u64) -> Result<(), Damage> {
        let (before, lost_before, budget_before) =
            (TableLengths::of(&self.tables), self.lost_row_count, self.budget_bytes);
        let result = self.add_rows(dictionary, message_bytes);
        if result.is_err() {
            self.tables.modules.truncate(before.modules);
            self.tables.frames.truncate(before.frames);
            self.tables.stacks.truncate(before.stacks);
            self.tables.processes.truncate(before.processes);
            self.tables.threads.truncate(before.threads);
            self.tables.domains.truncate(before.domains);
            self.tables.entries.truncate(before.entries);
            self.tables.probes.truncate(before.probes);
            self.tables.markers.truncate(before.markers);
            self.tables.texts.truncate(before.texts);
            self.lost_row_count = lost_before;
            self.budget_bytes = budget_before;
        }
        result
    }

    fn add_rows(&mut self, from: schema::dictionary::Reader<'_>, message_bytes: u64) -> Result<(), Damage> {
        self.add_modules(from, message_bytes)?;
        self.add_processes(from, message_bytes)?;
        self.add_allocators(from, message_bytes)?;
        self.add_frames(from)?;
        self.add_stacks(from)?;
        self.add_probes(from, message_bytes)?;
        self.add_markers(from, message_bytes)?;
        let nestings = from.get_nestings()?;
        self.check_rows("nestings", nestings.len() as usize, message_bytes)?;
        let mut new = Vec::with_capacity(nestings.len() as usize);
        for row in nestings {
            in_range("a nesting", "domain", row.get_outer(), self.tables.domains.len())?;
            in_range("a nesting", "domain", row.get_inner(), self.tables.domains.len())?;
            new.push(Nesting {
                outer: DomainId(row.get_outer()),
                inner: DomainId(row.get_inner()),
                count: row.get_count(),
                bytes: row.get_bytes(),
                outer_count: row.get_outer_count(),
                outer_bytes: row.get_outer_bytes(),
            });
        }
        for nesting in new {
            self.nesting_index.set(&mut self.tables.nestings, nesting);
        }
        Ok(())
    }

    fn add_modules(&mut self, from: schema::dictionary::Reader<'_>, message_bytes: u64) -> Result<(), Damage> {
        let rows = from.get_modules()?;
        self.check_rows("modules", rows.len() as usize, message_bytes)?;
        let lost = self.gap("modules", self.tables.modules.len(), from.get_first_module(), rows.len())?;
        self.tables.modules.extend((0..lost).map(|_| lost_module()));
        for row in rows {
            let module = Module {
                path: self.text(row.get_path()?)?,
                build_id: row.get_build_id()?.to_vec(),
                size_bytes: row.get_size_bytes(),
            };
            self.spend(module.build_id.len() as u64)?;
            self.tables.modules.push(module);
        }
        Ok(())
    }

    fn add_frames(&mut self, from: schema::dictionary::Reader<'_>) -> Result<(), Damage> {
        let count = from.get_frame_count();
        let addresses = from.get_frame_addresses()?;
        if addresses.len() < count as usize {
            return Err(Damage::new("the column of frame addresses ends too early"));
        }
        let lost = self.gap("frames", self.tables.frames.len(), from.get_first_frame(), count)?;
        self.spend((lost as u64 + u64::from(count)) * size_of::<Frame>() as u64)?;
        self.tables.frames.extend((0..lost).map(|_| Frame { module: ModuleId(NOWHERE), address: 0 }));
        let mut modules = Runs::new(from.get_frame_modules()?, "the column of frame modules");
        let mut addresses = Varints::new(addresses, "the column of frame addresses");
        let mut address = 0u64;
        for _ in 0..count {
            let module = modules.next()?;
            if module >= self.tables.modules.len() as u64 {
                return Err(Damage::new(format!("a frame names module {module} of {}", self.tables.modules.len())));
            }
            address = address.wrapping_add(unzigzag(addresses.next()?) as u64);
            self.tables.frames.push(Frame { module: ModuleId(module as u32), address });
        }
        Ok(())
    }

    fn add_stacks(&mut self, from: schema::dictionary::Reader<'_>) -> Result<(), Damage> {
        let count = from.get_stack_count();
        let parents = from.get_stack_parents()?;
        if parents.len() < count as usize {
            return Err(Damage::new("the column of stack parents ends too early"));
        }
        let lost = self.gap("stacks", self.tables.stacks.len(), from.get_first_stack(), count)?;
        self.spend((lost as u64 + u64::from(count)) * size_of::<StackNode>() as u64)?;
        self.tables.stacks.extend((0..lost).map(|_| StackNode { parent: StackId::EMPTY, frame: FrameId(NOWHERE) }));
        let mut parents = Varints::new(parents, "the column of stack parents");
        let mut frames = Varints::new(from.get_stack_frames()?, "the column of stack frames");
        let frame_count = self.tables.frames.len() as u64;
        let mut next_frame = u64::from(from.get_first_frame());
        for _ in 0..count {
            let id = self.tables.stacks.len() as u64;
            let up = parents.next()?;
            if up == 0 || up > id {
                return Err(Damage::new(format!("the parent of stack {id} is no earlier stack")));
            }
            let frame = match frames.next()? {
                0 => next_frame,
                code => code - 1,
            };
            if frame >= frame_count {
                return Err(Damage::new(format!("stack {id} names frame {frame} of {frame_count}")));
            }
            next_frame = next_frame.max(frame + 1);
            self.tables.stacks.push(StackNode { parent: StackId((id - up) as u32), frame: FrameId(frame as u32) });
        }
        Ok(())
    }

    fn add_processes(&mut self, from: schema::dictionary::Reader<'_>, message_bytes: u64) -> Result<(), Damage> {
        let rows = from.get_processes()?;
        self.check_rows("processes", rows.len() as usize, message_bytes)?;
        let lost = self.gap("processes", self.tables.processes.len(), from.get_first_process(), rows.len())?;
        self.tables.processes.extend((0..lost).map(|_| lost_process()));
        let process_count = self.tables.processes.len() + rows.len() as usize;
        for row in rows {
            let parent = row.get_parent().checked_sub(1);
            if let Some(parent) = parent {
                in_range("a process", "process", parent, process_count)?;
            }
            let name = self.text(row.get_name()?)?;
            let mut command = Vec::new();
            for word in row.get_command()? {
                command.push(self.text(word?)?);
            }
            self.tables.processes.push(Process {
                pid: row.get_pid(),
                parent: parent.map(ProcessId),
                origin: match row.get_origin() {
                    1 => Origin::Attach,
                    2 => Origin::Fork,
                    3 => Origin::Exec,
                    _ => Origin::Launch,
                },
                name,
                command,
                shares_heap: row.get_shares_heap(),
            });
        }
        let rows = from.get_threads()?;
        self.check_rows("threads", rows.len() as usize, message_bytes)?;
        let lost = self.gap("threads", self.tables.threads.len(), from.get_first_thread(), rows.len())?;
        self.tables.threads.extend((0..lost).map(|_| Thread {
            tid: 0,
            process: ProcessId(NOWHERE),
            name: LOST.into(),
        }));
        for row in rows {
            in_range("a thread", "process", row.get_process(), self.tables.processes.len())?;
            let name = self.text(row.get_name()?)?;
            self.tables.threads.push(Thread { tid: row.get_tid(), process: ProcessId(row.get_process()), name });
        }
        Ok(())
    }

    fn add_allocators(&mut self, from: schema::dictionary::Reader<'_>, message_bytes: u64) -> Result<(), Damage> {
        let rows = from.get_domains()?;
        self.check_rows("domains", rows.len() as usize, message_bytes)?;
        let lost = self.gap("domains", self.tables.domains.len(), from.get_first_domain(), rows.len())?;
        self.tables.domains.extend((0..lost).map(|_| lost_domain()));
        for row in rows {
            in_range("a domain", "module", row.get_module(), self.tables.modules.len())?;
            let name = self.text(row.get_name()?)?;
            self.tables.domains.push(Domain { name, module: ModuleId(row.get_module()), layer: row.get_layer() });
        }
        let rows = from.get_entries()?;
        self.check_rows("entry points", rows.len() as usize, message_bytes)?;
        let lost = self.gap("entry points", self.tables.entries.len(), from.get_first_entry(), rows.len())?;
        self.tables.entries.extend((0..lost).map(|_| Entry {
            domain: DomainId(NOWHERE),
            symbol: LOST.into(),
            kind: EntryKind::Other(u8::MAX),
        }));
        for row in rows {
            in_range("an entry point", "domain", row.get_domain(), self.tables.domains.len())?;
            let symbol = self.text(row.get_symbol()?)?;
            let kind = match row.get_kind() {
                0 => EntryKind::Alloc,
                1 => EntryKind::AllocZeroed,
                2 => EntryKind::Realloc,
                3 => EntryKind::Free,
                kind => EntryKind::Other(kind),
            };
            self.tables.entries.push(Entry { domain: DomainId(row.get_domain()), symbol, kind });
        }
        Ok(())
    }

    fn add_markers(&mut self, from: schema::dictionary::Reader<'_>, message_bytes: u64) -> Result<(), Damage> {
        let rows = from.get_markers()?;
        self.check_rows("markers", rows.len() as usize, message_bytes)?;
        let lost = self.gap("markers", self.tables.markers.len(), from.get_first_marker(), rows.len())?;
        self.tables.markers.extend((0..lost).map(|_| Marker { name: LOST.into(), ..Marker::default() }));
        for row in rows {
            let marker = Marker {
                name: self.text(row.get_name()?)?,
                symbol: self.text(row.get_symbol()?)?,
                value: match row.get_value() {
                    0 => MarkerValue::None,
                    2 => MarkerValue::Text,
                    _ => MarkerValue::Number,
                },
                ends_by: if row.get_ends_by() == 1 { MarkerEnd::Activation } else { MarkerEnd::Explicit },
            };
            self.tables.markers.push(marker);
        }
        let rows = from.get_texts()?;
        self.check_rows("texts", rows.len() as usize, message_bytes)?;
        let lost = self.gap("texts", self.tables.texts.len(), from.get_first_text(), rows.len())?;
        self.tables.texts.extend((0..lost).map(|_| LOST.to_owned()));
        for row in rows {
            let text = self.text(row?)?;
            self.tables.texts.push(text);
        }
        Ok(())
    }

    /// Nothing refers to probes: lost ones leave no placeholder.
    fn add_probes(&mut self, from: schema::dictionary::Reader<'_>, message_bytes: u64) -> Result<(), Damage> {
        let rows = from.get_probes()?;
        self.check_rows("probes", rows.len() as usize, message_bytes)?;
        for row in rows {
            in_range("a probe", "process", row.get_process(), self.tables.processes.len())?;
            in_range("a probe", "module", row.get_module(), self.tables.modules.len())?;
            let probe = Probe {
                process: ProcessId(row.get_process()),
                module: ModuleId(row.get_module()),
                symbol: self.text(row.get_symbol()?)?,
                function_offset: row.get_function_offset(),
                instruction_offset: row.get_instruction_offset(),
                instruction: self.text(row.get_instruction()?)?,
                emulated: row.get_emulated(),
                result: match row.get_result() {
                    1 => ResultProbe::Return,
                    2 => ResultProbe::RetInstructions,
                    _ => ResultProbe::None,
                },
                reason: self.text(row.get_reason()?)?,
                placed: row.get_placed(),
            };
            self.tables.probes.push(probe);
        }
        Ok(())
    }

    /// How many rows are missing before `first`.
    fn gap(&mut self, table: &str, length: usize, first: u32, count: u32) -> Result<usize, Damage> {
        let Some(lost) = (first as usize).checked_sub(length) else {
            return Err(Damage::new(format!("its {table} begin at {first}, where there are {length} already")));
        };
        if first.checked_add(count).is_none_or(|end| end == NOWHERE) {
            return Err(Damage::new(format!("its {table} end beyond 32 bits")));
        }
        self.lost_row_count += lost as u64;
        if self.lost_row_count > MAX_LOST_ROWS {
            return Err(Damage::new(format!(
                "its {table} begin at {first} where there are only {length}; a reader makes up for at most {MAX_LOST_ROWS} lost rows"
            )));
        }
        Ok(lost)
    }

    /// A real row takes at least a word of its message; lists of nothing do not.
    fn check_rows(&mut self, table: &str, count: usize, message_bytes: u64) -> Result<(), Damage> {
        if count as u64 > message_bytes / 8 || count > MAX_WIDE_ROWS {
            return Err(Damage::new(format!("it says that it holds {count} {table}, more than fit it")));
        }
        self.spend(count as u64 * 64)
    }

    fn text(&mut self, text: capnp::text::Reader<'_>) -> Result<String, Damage> {
        self.spend(text.len() as u64 + 24)?;
        Ok(text.to_str()?.to_owned())
    }

    fn spend(&mut self, bytes: u64) -> Result<(), Damage> {
        let Some(left) = self.budget_bytes.checked_sub(bytes) else {
            return Err(Damage::new("its tables take more memory than a file of this size may ask for"));
        };
        self.budget_bytes = left;
        Ok(())
    }

    /// The tables so far; lost rows refer to one row `[lost]` of each table concerned.
    pub(crate) fn finish(self) -> Tables {
        let mut tables = self.tables;
        if settle(tables.entries.iter_mut().map(|entry| &mut entry.domain.0), tables.domains.len()) {
            tables.domains.push(lost_domain());
        }
        if settle(tables.threads.iter_mut().map(|thread| &mut thread.process.0), tables.processes.len()) {
            tables.processes.push(lost_process());
        }
        if settle(tables.stacks.iter_mut().map(|node| &mut node.frame.0), tables.frames.len()) {
            tables.frames.push(Frame { module: ModuleId(NOWHERE), address: 0 });
        }
        let module_count = tables.modules.len();
        let frames_settled = settle(tables.frames.iter_mut().map(|frame| &mut frame.module.0), module_count);
        let domains_settled = settle(tables.domains.iter_mut().map(|domain| &mut domain.module.0), module_count);
        if frames_settled || domains_settled {
            tables.modules.push(lost_module());
        }
        tables
    }
}

/// Points ids that lead nowhere to `id`; whether there were any.
fn settle<'a>(ids: impl Iterator<Item = &'a mut u32>, id: usize) -> bool {
    let mut any = false;
    for place in ids.filter(|place| **place == NOWHERE) {
        *place = id as u32;
        any = true;
    }
    any
}

fn lost_module() -> Module {
    Module { path: LOST.into(), build_id: Vec::new(), size_bytes: 0 }
}

fn lost_domain() -> Domain {
    Domain { name: LOST.into(), module: ModuleId(NOWHERE), layer: 0 }
}

fn lost_process() -> Process {
    Process { name: LOST.into(), ..Process::default() }
}

fn in_range(what: &str, table: &str, id: u32, length: usize) -> Result<(), Damage> {
    if id as usize >= length {
        return Err(Damage::new(format!("{what} names {table} {id} of {length}")));
    }
    Ok(())
}

/// Tables with the empty stack only.
pub(crate) fn empty_tables() -> Tables {
    Tables { stacks: vec![StackNode { parent: StackId::EMPTY, frame: FrameId(0) }], ..Tables::default() }
}

/// Where the row of each pair of domains stands in a list of nestings.
#[derive(Debug, Default)]
pub(crate) struct NestingIndex(HashMap<(DomainId, DomainId), usize>);

impl NestingIndex {
    /// Of rows that were put together elsewhere.
    pub(crate) fn of(nestings: &[Nesting]) -> Self {
        Self(nestings.iter().enumerate().map(|(row, nesting)| ((nesting.outer, nesting.inner), row)).collect())
    }

    /// Replaces the row of the same pair, or appends one.
    pub(crate) fn set(&mut self, nestings: &mut Vec<Nesting>, nesting: Nesting) {
        let row = *self.0.entry((nesting.outer, nesting.inner)).or_insert(nestings.len());
        match nestings.get_mut(row) {
            Some(known) => *known = nesting,
            None => nestings.push(nesting),
        }
    }
}
