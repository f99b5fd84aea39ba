//! A process being recorded: what its addresses stand for. Responsible for naming the nodes of its stacks; not for when it begins
//! and ends (see `processes`).

use trace_format::{DomainId, FrameId, ProcessId, StackId, ThreadId, TraceWriter};

use super::{
    FastMap,
    names::Names,
    nodes::{NodeTable, Place},
    stacks::Nodes,
};
use crate::notice::CodeRange;

/// A process being recorded.
pub(super) struct Target {
    pub(super) id: ProcessId,
    pub(super) main: ThreadId,
    pub(super) heap: usize,
    /// Whether all its blocks were born under our eyes.
    pub(super) began_empty: bool,
    pub(super) ranges: Vec<CodeRange>,
    /// Nodes of the stack tree.
    pub(super) nodes: NodeTable,
    /// Frames by return address.
    pub(super) frames: FastMap<u64, FrameId>,
    /// Domains by their number within the process.
    pub(super) domains: FastMap<u16, DomainId>,
    /// When its mappings may be read again because it runs unknown code, and how long to wait after that. Code that was
    /// generated at run time stays unknown.
    pub(super) look_again_ns: u64,
    pub(super) patience_ns: u64,
}

impl Target {
    /// Whether unknown code is a reason to read the mappings now.
    pub(super) fn wants_another_look(&mut self, now_ns: u64) -> bool {
        if now_ns < self.look_again_ns {
            return false;
        }
        self.look_again_ns = now_ns + self.patience_ns;
        self.patience_ns = self.patience_ns.saturating_mul(2);
        true
    }
}

/// The first wait between two readings of mappings for unknown code; it doubles each time.
pub(super) const FIRST_PATIENCE_NS: u64 = 20_000_000;

/// The part of the intake that names stacks of a process.
pub(super) struct Naming<'a> {
    pub(super) names: &'a mut Names,
    pub(super) writer: &'a mut TraceWriter,
    pub(super) target: &'a mut Target,
}

impl Nodes for Naming<'_> {
    #[inline]
    fn node(&mut self, parent: Place, address: u64) -> Place {
        match self.target.nodes.find(parent, address) {
            Ok(place) => place,
            Err(unplaced) => {
                let (names, ranges) = (&mut *self.names, &self.target.ranges);
                let known = self.target.frames.entry(address);
                let frame = *known.or_insert_with(|| names.frame(self.writer, ranges, address));
                let node = self.writer.stack(parent.node, frame);
                self.target.nodes.insert(unplaced, node)
            }
        }
    }

    fn generation(&self) -> u32 {
        self.target.nodes.generation()
    }

    #[inline]
    fn foresee(&self, parent: Place, path: impl Iterator<Item = u64>) {
        self.target.nodes.foresee(parent, path);
    }

    fn same_function(&self, one: StackId, other: StackId) -> bool {
        let stacks = &self.writer.tables().stacks;
        let function = |node: StackId| self.names.function(stacks[node.index()].frame);
        function(one).is_some_and(|one| Some(one) == function(other))
    }
}
