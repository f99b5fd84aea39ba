//! Rows of tables on their way into a file. Responsible for collecting what is new since the last time, for cutting it
//! into messages of bounded size and for its Cap'n Proto form; not for reading it back (see `assemble`).

use crate::generated::trace_capnp as schema;
use crate::limits::BATCH_BYTES;
use crate::table::{
    Domain, Entry, EntryKind, Frame, Marker, MarkerEnd, MarkerValue, Module, Nesting, Origin, Probe, Process,
    ResultProbe, StackNode, Tables, Thread,
};
use crate::varint::{push_varint, zigzag};

/// How many rows each table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TableLengths {
    pub(crate) modules: usize,
    pub(crate) frames: usize,
    pub(crate) stacks: usize,
    pub(crate) processes: usize,
    pub(crate) threads: usize,
    pub(crate) domains: usize,
    pub(crate) entries: usize,
    pub(crate) probes: usize,
    pub(crate) markers: usize,
    pub(crate) texts: usize,
}

impl TableLengths {
    /// Tables without rows; the empty stack is always there.
    pub(crate) const EMPTY: Self = Self {
        modules: 0,
        frames: 0,
        stacks: 1,
        processes: 0,
        threads: 0,
        domains: 0,
        entries: 0,
        probes: 0,
        markers: 0,
        texts: 0,
    };

    pub(crate) fn of(tables: &Tables) -> Self {
        Self {
            modules: tables.modules.len(),
            frames: tables.frames.len(),
            stacks: tables.stacks.len(),
            processes: tables.processes.len(),
            threads: tables.threads.len(),
            domains: tables.domains.len(),
            entries: tables.entries.len(),
            probes: tables.probes.len(),
            markers: tables.markers.len(),
            texts: tables.texts.len(),
        }
    }
}

/// Writes how many rows of each table came before.
pub(crate) fn write_lengths(before: TableLengths, mut to: schema::dictionary::Builder<'_>) {
    to.set_first_module(before.modules as u32);
    to.set_first_frame(before.frames as u32);
    to.set_first_stack(before.stacks as u32);
    to.set_first_process(before.processes as u32);
    to.set_first_thread(before.threads as u32);
    to.set_first_domain(before.domains as u32);
    to.set_first_entry(before.entries as u32);
    to.set_first_probe(before.probes as u32);
    to.set_first_marker(before.markers as u32);
    to.set_first_text(before.texts as u32);
}

/// Some rows of each table, contiguous in each.
#[derive(Debug, Clone)]
pub(crate) struct Rows {
    first: TableLengths,
    modules: Vec<Module>,
    frames: Vec<Frame>,
    stacks: Vec<StackNode>,
    processes: Vec<Process>,
    threads: Vec<Thread>,
    domains: Vec<Domain>,
    entries: Vec<Entry>,
    probes: Vec<Probe>,
    markers: Vec<Marker>,
    texts: Vec<String>,
    nestings: Vec<Nesting>,
}

impl Rows {
    /// All rows from `next` on that fit one message; moves `next` beyond them. Rows come after those they refer to.
    pub(crate) fn take(tables: &Tables, next: &mut TableLengths) -> Self {
        let first = *next;
        let mut left = BATCH_BYTES;
        Self {
            first,
            modules: fitting(&tables.modules, &mut next.modules, &mut left, |m| m.path.len() + m.build_id.len() + 48),
            processes: fitting(&tables.processes, &mut next.processes, &mut left, |p| {
                p.name.len() + p.command.iter().map(|word| word.len() + 16).sum::<usize>() + 64
            }),
            threads: fitting(&tables.threads, &mut next.threads, &mut left, |t| t.name.len() + 32),
            domains: fitting(&tables.domains, &mut next.domains, &mut left, |d| d.name.len() + 32),
            entries: fitting(&tables.entries, &mut next.entries, &mut left, |e| e.symbol.len() + 32),
            probes: fitting(&tables.probes, &mut next.probes, &mut left, |p| {
                p.symbol.len() + p.instruction.len() + p.reason.len() + 88
            }),
            markers: fitting(&tables.markers, &mut next.markers, &mut left, |m| m.name.len() + m.symbol.len() + 40),
            texts: fitting(&tables.texts, &mut next.texts, &mut left, |text| text.len() + 16),
            frames: fitting(&tables.frames, &mut next.frames, &mut left, |_| 16),
            stacks: fitting(&tables.stacks, &mut next.stacks, &mut left, |_| 8),
            nestings: Vec::new(),
        }
    }

    /// With these nestings.
    pub(crate) fn with(self, nestings: Vec<Nesting>) -> Self {
        Self { nestings, ..self }
    }

    pub(crate) fn write(&self, mut to: schema::dictionary::Builder<'_>) {
        write_lengths(self.first, to.reborrow());
        let mut modules = to.reborrow().init_modules(self.modules.len() as u32);
        for (index, module) in self.modules.iter().enumerate() {
            let mut row = modules.reborrow().get(index as u32);
            row.set_path(&module.path);
            row.set_build_id(&module.build_id);
            row.set_size_bytes(module.size_bytes);
        }
        self.write_frames(to.reborrow());
        self.write_stacks(to.reborrow());
        self.write_processes(to.reborrow());
        self.write_allocators(to.reborrow());
        self.write_markers(to.reborrow());
        self.write_probes(to);
    }

    fn write_frames(&self, mut to: schema::dictionary::Builder<'_>) {
        to.set_frame_count(self.frames.len() as u32);
        let mut modules = crate::column::RunsBuilder::default();
        let mut addresses = Vec::with_capacity(self.frames.len() * 4);
        let mut last = 0u64;
        for frame in &self.frames {
            modules.push(u64::from(frame.module.0));
            push_varint(&mut addresses, zigzag(frame.address.wrapping_sub(last) as i64));
            last = frame.address;
        }
        modules.end_run();
        to.set_frame_modules(&modules.bytes);
        to.set_frame_addresses(&addresses);
    }

    fn write_stacks(&self, mut to: schema::dictionary::Builder<'_>) {
        to.set_stack_count(self.stacks.len() as u32);
        let mut parents = Vec::with_capacity(self.stacks.len() * 2);
        let mut frames = Vec::with_capacity(self.stacks.len() * 2);
        let mut next_frame = self.first.frames as u64;
        for (index, node) in self.stacks.iter().enumerate() {
            let id = (self.first.stacks + index) as u64;
            push_varint(&mut parents, id - u64::from(node.parent.0));
            let frame = u64::from(node.frame.0);
            push_varint(&mut frames, if frame == next_frame { 0 } else { frame + 1 });
            next_frame = next_frame.max(frame + 1);
        }
        to.set_stack_parents(&parents);
        to.set_stack_frames(&frames);
    }

    fn write_processes(&self, mut to: schema::dictionary::Builder<'_>) {
        let mut processes = to.reborrow().init_processes(self.processes.len() as u32);
        for (index, process) in self.processes.iter().enumerate() {
            let mut row = processes.reborrow().get(index as u32);
            row.set_pid(process.pid);
            row.set_parent(process.parent.map_or(0, |parent| parent.0 + 1));
            row.set_origin(match process.origin {
                Origin::Launch => 0,
                Origin::Attach => 1,
                Origin::Fork => 2,
                Origin::Exec => 3,
            });
            row.set_name(&process.name);
            write_texts(row.reborrow().init_command(process.command.len() as u32), &process.command);
            row.set_shares_heap(process.shares_heap);
        }
        let mut threads = to.init_threads(self.threads.len() as u32);
        for (index, thread) in self.threads.iter().enumerate() {
            let mut row = threads.reborrow().get(index as u32);
            row.set_tid(thread.tid);
            row.set_process(thread.process.0);
            row.set_name(&thread.name);
        }
    }

    fn write_allocators(&self, mut to: schema::dictionary::Builder<'_>) {
        let mut domains = to.reborrow().init_domains(self.domains.len() as u32);
        for (index, domain) in self.domains.iter().enumerate() {
            let mut row = domains.reborrow().get(index as u32);
            row.set_name(&domain.name);
            row.set_module(domain.module.0);
            row.set_layer(domain.layer);
        }
        let mut entries = to.init_entries(self.entries.len() as u32);
        for (index, entry) in self.entries.iter().enumerate() {
            let mut row = entries.reborrow().get(index as u32);
            row.set_domain(entry.domain.0);
            row.set_symbol(&entry.symbol);
            row.set_kind(match entry.kind {
                EntryKind::Alloc => 0,
                EntryKind::AllocZeroed => 1,
                EntryKind::Realloc => 2,
                EntryKind::Free => 3,
                EntryKind::Other(kind) => kind,
            });
        }
    }

    fn write_markers(&self, mut to: schema::dictionary::Builder<'_>) {
        let mut markers = to.reborrow().init_markers(self.markers.len() as u32);
        for (index, marker) in self.markers.iter().enumerate() {
            let mut row = markers.reborrow().get(index as u32);
            row.set_name(&marker.name);
            row.set_symbol(&marker.symbol);
            row.set_value(match marker.value {
                MarkerValue::None => 0,
                MarkerValue::Number => 1,
                MarkerValue::Text => 2,
            });
            row.set_ends_by(match marker.ends_by {
                MarkerEnd::Explicit => 0,
                MarkerEnd::Activation => 1,
            });
        }
        write_texts(to.init_texts(self.texts.len() as u32), &self.texts);
    }

    fn write_probes(&self, mut to: schema::dictionary::Builder<'_>) {
        let mut probes = to.reborrow().init_probes(self.probes.len() as u32);
        for (index, probe) in self.probes.iter().enumerate() {
            let mut row = probes.reborrow().get(index as u32);
            row.set_process(probe.process.0);
            row.set_module(probe.module.0);
            row.set_symbol(&probe.symbol);
            row.set_function_offset(probe.function_offset);
            row.set_instruction_offset(probe.instruction_offset);
            row.set_instruction(&probe.instruction);
            row.set_emulated(probe.emulated);
            row.set_result(match probe.result {
                ResultProbe::None => 0,
                ResultProbe::Return => 1,
                ResultProbe::RetInstructions => 2,
            });
            row.set_reason(&probe.reason);
            row.set_placed(probe.placed);
        }
        let mut nestings = to.init_nestings(self.nestings.len() as u32);
        for (index, nesting) in self.nestings.iter().enumerate() {
            let mut row = nestings.reborrow().get(index as u32);
            row.set_outer(nesting.outer.0);
            row.set_inner(nesting.inner.0);
            row.set_count(nesting.count);
            row.set_bytes(nesting.bytes);
            row.set_outer_count(nesting.outer_count);
            row.set_outer_bytes(nesting.outer_bytes);
        }
    }
}

/// The rows of one table from `next` on that fit what is `left`: at least one if nothing else was taken yet.
fn fitting<T: Clone>(table: &[T], next: &mut usize, left: &mut usize, bytes: impl Fn(&T) -> usize) -> Vec<T> {
    let rows = &table[*next..];
    let mut count = 0;
    for row in rows {
        let bytes = bytes(row);
        if bytes > *left && *left < BATCH_BYTES {
            *left = 0;
            break;
        }
        *left = left.saturating_sub(bytes);
        count += 1;
    }
    *next += count;
    rows[..count].to_vec()
}

/// Fills a list of texts.
pub(crate) fn write_texts(mut list: capnp::text_list::Builder<'_>, texts: &[String]) {
    for (index, text) in texts.iter().enumerate() {
        list.set(index as u32, text);
    }
}
