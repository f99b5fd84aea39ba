//! Notices: processes begin and end, threads end, probes are placed. Responsible for giving what records name a meaning before they
//! come; not for the records (see `record` in the parent).

use std::sync::{Arc, atomic::Ordering};

use trace_format::{
    DomainId, StackId, WriteError,
    event::{EndReason, Op, Walk},
    table::{MarkerValue, Origin, Process, Thread},
};

use super::{
    Caller, EntryRow, FastMap, Intake, Row,
    heap::Heap,
    markers::MarkerRow,
    nodes::NodeTable,
    target::{FIRST_PATIENCE_NS, Target},
};
use crate::notice::{Meaning, Plan, What};

/// Warnings that are told one by one, at most: a build may start thousands of processes.
const MOST_WARNINGS: usize = 24;

impl Intake {
    /// A change in the processes recorded. `now_ns` is its time.
    pub(crate) fn notice(&mut self, what: What, now_ns: u64) -> Result<(), WriteError> {
        let time_ns = self.later(now_ns);
        match what {
            What::Start { pid, parent, origin, name, command, shares_heap } => {
                self.start(time_ns, pid, parent, origin, name, command, shares_heap)
            }
            What::Plan { pid, plan } => {
                self.plan(pid, plan);
                Ok(())
            }
            What::ThreadEnd { tid, state } => {
                if let Some(state) = state {
                    self.count_calls(&state);
                }
                match self.callers.remove(&tid) {
                    Some(caller) => {
                        self.writer.push(time_ns, caller.id, StackId::EMPTY, Walk::NONE, &Op::ThreadEnd).map(drop)
                    }
                    None => Ok(()),
                }
            }
            What::End { pid, reason } => self.end(time_ns, pid, reason),
            What::Warning(text) => {
                if self.stats.warnings.len() < MOST_WARNINGS {
                    self.stats.warnings.push(text);
                } else {
                    self.further_warning_count += 1;
                }
                Ok(())
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of the notice")]
    fn start(
        &mut self,
        time_ns: u64,
        pid: u32,
        parent: Option<u32>,
        origin: Origin,
        name: String,
        command: Vec<String>,
        shares_heap: bool,
    ) -> Result<(), WriteError> {
        // An exec is preceded by the end of the image before, which stays here for its successor to name.
        let before = parent.and_then(|parent| self.targets.get(&parent));
        let parent_id =
            before.map(|target| target.id).or_else(|| parent.and_then(|parent| self.names.last_image(parent)));
        let mut ranges = Vec::new();
        let (mut nodes, mut frames) = (NodeTable::default(), FastMap::default());
        let mut domains = FastMap::default();
        let heap = match (before, origin) {
            (Some(parent), Origin::Fork) => {
                ranges.clone_from(&parent.ranges);
                nodes.clone_from(&parent.nodes);
                frames.clone_from(&parent.frames);
                domains.clone_from(&parent.domains);
                if shares_heap {
                    parent.heap
                } else {
                    // The child's copy does not count as live once more.
                    self.heaps.push(self.heaps[parent.heap].inherited());
                    self.heaps.len() - 1
                }
            }
            _ => {
                self.heaps.push(Heap::default());
                self.heaps.len() - 1
            }
        };
        let began_empty = origin != Origin::Attach && before.is_none_or(|parent| parent.began_empty);
        let command = if command.is_empty() { vec![name.clone()] } else { command };
        let process = Process { pid, parent: parent_id, origin, name: name.clone(), command, shares_heap };
        let id = self.writer.process(process);
        let main = self.writer.thread(Thread { tid: pid, process: id, name });
        self.names.began(pid, id);
        self.callers.insert(pid, Caller::new(main, pid));
        self.targets.insert(
            pid,
            Target {
                id,
                main,
                heap,
                began_empty,
                ranges,
                nodes,
                frames,
                domains,
                look_again_ns: 0,
                patience_ns: FIRST_PATIENCE_NS,
            },
        );
        self.progress.process_count.fetch_add(1, Ordering::Relaxed);
        self.writer.push(time_ns, main, StackId::EMPTY, Walk::NONE, &Op::ProcessStart { process: id }).map(drop)
    }

    fn end(&mut self, time_ns: u64, pid: u32, reason: EndReason) -> Result<(), WriteError> {
        let Some(target) = self.targets.remove(&pid) else { return Ok(()) };
        let shared = self.targets.values().any(|other| other.heap == target.heap);
        if !shared {
            let heap = std::mem::take(&mut self.heaps[target.heap]);
            let live = self.progress.live_bytes.load(Ordering::Relaxed).wrapping_sub(heap.live_bytes());
            self.progress.live_bytes.store(live, Ordering::Relaxed);
        }
        self.callers.retain(|_, caller| caller.pid != pid);
        let op = Op::ProcessEnd { process: target.id, reason };
        self.writer.push(time_ns, target.main, StackId::EMPTY, Walk::NONE, &op).map(drop)
    }

    fn plan(&mut self, pid: u32, plan: Plan) {
        let Some(target) = self.targets.get_mut(&pid) else { return };
        // A forked child has its parent's code.
        if !plan.ranges.is_empty() {
            target.ranges = plan.ranges;
            target.nodes.clear();
            target.frames.clear();
        }
        let mut fresh = Vec::new();
        for row in &plan.rows {
            match &row.meaning {
                Meaning::Entry { local_domain, domain, kind } => {
                    let (domain, entry) = self.names.entry(&mut self.writer, row, domain, *kind);
                    target.domains.insert(*local_domain, domain);
                    fresh.push((row, domain, entry, self.names.module(&mut self.writer, &row.module)));
                }
                Meaning::Marker { marker, kind } => {
                    let id = self.names.marker(&mut self.writer, marker);
                    let is_text = marker.value == MarkerValue::Text;
                    put(&mut self.rows, row.row, Row::Marker(MarkerRow { id, kind: *kind, is_text }));
                }
            }
        }
        for (row, domain, entry, module) in fresh {
            let cousins: Arc<[DomainId]> = target
                .domains
                .values()
                .copied()
                .filter(|other| *other != domain && self.writer.tables().domains[other.index()].module == module)
                .collect();
            let module = Arc::clone(&row.module);
            put(&mut self.rows, row.row, Row::Entry(EntryRow { entry, domain, cousins, module }));
        }
        let process = target.id;
        for probe in plan.probes {
            self.names.probe(&mut self.writer, process, probe);
        }
    }
}

/// Gives a row of the descriptor table its meaning.
fn put(rows: &mut Vec<Option<Row>>, row: u32, meaning: Row) {
    let index = row as usize;
    if rows.len() <= index {
        rows.resize(index + 1, None);
    }
    rows[index] = Some(meaning);
}
