//! Gives ids to modules, frames, domains and entry points. Responsible for one id per thing, over all processes; not
//! for when they appear.

use std::{
    collections::{HashMap, HashSet},
    fs,
    fs::File,
    sync::Arc,
};

use trace_format::{
    DomainId, EntryId, FrameId, ModuleId, ProcessId, StackId, TraceWriter,
    table::{Domain, Entry, EntryKind, Frame, Marker, Module, Probe},
};

use super::FastMap;
use crate::notice::{CodeRange, ModuleFile, PlannedRow, ProbeReport};

/// Who named nodes of the stack tree, to know which nodes cannot be there yet: looking for each new one cost a fifth of the
/// intake's time.
///
/// A process looks for a node in its own table first. While it is the only one that names any, what its table does not
/// have can only be there from before its code last changed, and then both the node's parent and its frame are.
#[derive(Debug, Default)]
enum Namer {
    #[default]
    Nobody,
    /// One process, what there was when its code last changed, and the frames it has met since.
    One { process: ProcessId, generation: u32, stacks: usize, frames: usize, met: HashSet<FrameId> },
    /// Several, or one with the same code at two addresses: what is not in a table may be in another, or in the same one.
    Many,
}

impl Namer {
    /// An address of the process turns out to be in this frame.
    fn meets(&mut self, frame: FrameId) {
        if let Self::One { met, .. } = self
            && !met.insert(frame)
        {
            *self = Self::Many;
        }
    }
}

#[derive(Default)]
pub(super) struct Names {
    /// By the address of the shared description, which stays alive in `files`.
    modules: HashMap<usize, ModuleId>,
    files: Vec<(ModuleId, Arc<ModuleFile>)>,
    frames: FastMap<(ModuleId, u64), FrameId>,
    /// Who names nodes of the stack tree.
    namer: Namer,
    /// Where the function of each frame begins, in its module; `None` where that is not known.
    functions: Vec<Option<(ModuleId, u64)>>,
    domains: HashMap<(ModuleId, String), DomainId>,
    entries: HashMap<(DomainId, String), EntryId>,
    markers: HashMap<Marker, u32>,
    images: HashMap<u32, ProcessId>,
    unknown: Option<ModuleId>,
}

impl Names {
    pub(super) fn module(&mut self, writer: &mut TraceWriter, module: &Arc<ModuleFile>) -> ModuleId {
        if let Some(id) = self.modules.get(&(Arc::as_ptr(module) as usize)) {
            return *id;
        }
        let id = writer.module(Module {
            path: module.path.clone(),
            build_id: module.build_id.clone(),
            size_bytes: module.size_bytes,
        });
        self.modules.insert(Arc::as_ptr(module) as usize, id);
        self.files.push((id, Arc::clone(module)));
        id
    }

    /// The frame of a return address. An address in no known code keeps its absolute value.
    pub(super) fn frame(&mut self, writer: &mut TraceWriter, ranges: &[CodeRange], address: u64) -> FrameId {
        let range = range_of(ranges, address);
        let (module, address) = match range {
            Some(range) => (self.module(writer, &range.module), address.wrapping_sub(range.bias)),
            None => (self.unknown_module(writer), address),
        };
        if let Some(frame) = self.frames.get(&(module, address)) {
            self.namer.meets(*frame);
            return *frame;
        }
        let frame = writer.frame(Frame { module, address });
        self.frames.insert((module, address), frame);
        self.namer.meets(frame);
        self.functions.resize(frame.index() + 1, None);
        self.functions[frame.index()] = range.and_then(|range| {
            let starts = range.module.functions.get()?;
            let after = starts.partition_point(|start| *start < address);
            starts.get(after.checked_sub(1)?).map(|start| (module, *start))
        });
        frame
    }

    /// A process is about to name a node. Its generation rises when its code changes.
    pub(super) fn named_by(&mut self, writer: &TraceWriter, process: ProcessId, generation: u32) {
        self.namer = match &self.namer {
            Namer::One { process: namer, generation: of, .. } if (*namer, *of) == (process, generation) => return,
            Namer::Many => return,
            Namer::One { process: namer, .. } if *namer != process => Namer::Many,
            Namer::Nobody | Namer::One { .. } => {
                let tables = writer.tables();
                let (stacks, frames) = (tables.stacks.len(), tables.frames.len());
                Namer::One { process, generation, stacks, frames, met: HashSet::new() }
            }
        }
    }

    /// The node of a frame under another one, which the process that names it (see `named_by`) does not know.
    pub(super) fn node(&self, writer: &mut TraceWriter, parent: StackId, frame: FrameId) -> StackId {
        if self.is_new(parent, frame) { writer.new_stack(parent, frame) } else { writer.stack(parent, frame) }
    }

    /// Whether there cannot be a node of the frame under the other one, if the process that names them knows of none.
    pub(super) fn is_new(&self, parent: StackId, frame: FrameId) -> bool {
        match &self.namer {
            Namer::One { stacks, frames, .. } => parent.index() >= *stacks || frame.index() >= *frames,
            Namer::Nobody | Namer::Many => false,
        }
    }

    /// The function of a frame: its module and where it begins there.
    pub(super) fn function(&self, frame: FrameId) -> Option<(ModuleId, u64)> {
        self.functions.get(frame.index()).copied().flatten()
    }

    fn unknown_module(&mut self, writer: &mut TraceWriter) -> ModuleId {
        *self.unknown.get_or_insert_with(|| {
            writer.module(Module { path: "[anonymous]".into(), build_id: Vec::new(), size_bytes: 0 })
        })
    }

    pub(super) fn entry(
        &mut self,
        writer: &mut TraceWriter,
        row: &PlannedRow,
        name: &str,
        kind: EntryKind,
    ) -> (DomainId, EntryId) {
        let module = self.module(writer, &row.module);
        let domain = *self
            .domains
            .entry((module, name.to_owned()))
            .or_insert_with(|| writer.domain(Domain { name: name.to_owned(), module, layer: 0 }));
        let entry = *self
            .entries
            .entry((domain, row.symbol.clone()))
            .or_insert_with(|| writer.entry(Entry { domain, symbol: row.symbol.clone(), kind }));
        (domain, entry)
    }

    pub(super) fn marker(&mut self, writer: &mut TraceWriter, marker: &Marker) -> u32 {
        *self.markers.entry(marker.clone()).or_insert_with(|| writer.marker(marker.clone()))
    }

    pub(super) fn probe(&mut self, writer: &mut TraceWriter, process: ProcessId, report: ProbeReport) {
        let module = self.module(writer, &report.module);
        writer.probe(Probe {
            process,
            module,
            symbol: report.symbol,
            function_offset: report.function_offset,
            instruction_offset: report.instruction_offset,
            instruction: report.instruction,
            emulated: report.emulated,
            result: report.result,
            reason: report.reason,
            placed: report.placed,
        });
    }

    pub(super) fn began(&mut self, pid: u32, image: ProcessId) {
        self.images.insert(pid, image);
    }

    /// The latest image that a pid had.
    pub(super) fn last_image(&self, pid: u32) -> Option<ProcessId> {
        self.images.get(&pid).copied()
    }

    /// Where the function of each frame begins.
    pub(super) fn function_starts(&self) -> Vec<Option<u64>> {
        self.functions.iter().map(|function| function.map(|(_, start)| start)).collect()
    }

    /// The files of all modules that have one.
    pub(super) fn into_files(self) -> Vec<(ModuleId, File)> {
        self.files.iter().filter_map(|(id, module)| Some((*id, module.file.as_ref()?.try_clone().ok()?))).collect()
    }
}

/// A thread's name, empty once it is gone.
pub(super) fn thread_name(pid: u32, tid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

/// The code a call that returns to `address` stands in.
fn range_of(ranges: &[CodeRange], address: u64) -> Option<&CodeRange> {
    // Look up the call, not what follows it: the return address may be one past the function.
    let call = address.wrapping_sub(1);
    let index = ranges.partition_point(|range| range.end <= call);
    ranges.get(index).filter(|range| range.start <= call)
}

/// The module a call that returns to `address` stands in.
pub(super) fn module_of(ranges: &[CodeRange], address: u64) -> Option<&Arc<ModuleFile>> {
    range_of(ranges, address).map(|range| &range.module)
}
