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
                names.named_by(self.writer, self.target.id, self.target.nodes.generation());
                let known = self.target.frames.entry(address);
                let frame = *known.or_insert_with(|| names.frame(self.writer, ranges, address));
                let node = names.node(self.writer, parent.node, frame);
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

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        io,
        path::Path,
        sync::{Arc, OnceLock},
    };

    use trace_format::{
        Header, WriterOptions,
        table::{Origin, Process},
    };

    use super::*;
    use crate::notice::ModuleFile;

    const BIASES: [u64; 2] = [0x1000, 0x9000];

    struct Random(u64);

    impl Random {
        fn below(&mut self, end: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % end
        }
    }

    fn target(writer: &mut TraceWriter, ranges: Vec<CodeRange>) -> Target {
        let id = writer.process(Process { origin: Origin::Launch, ..Process::default() });
        Target {
            id,
            main: ThreadId(0),
            heap: 0,
            began_empty: true,
            ranges,
            nodes: NodeTable::default(),
            frames: FastMap::default(),
            domains: FastMap::default(),
            look_again_ns: 0,
            patience_ns: 0,
        }
    }

    /// A path has one node, whichever processes name it, whenever their code changes, wherever the same code lies.
    #[test]
    fn a_path_has_one_node() {
        let file = Arc::new(ModuleFile {
            path: "code".to_owned(),
            build_id: Vec::new(),
            size_bytes: 0x1000,
            file: None,
            functions: OnceLock::new(),
        });
        let ranges = BIASES.map(|bias| CodeRange { start: bias, end: bias + 0x1000, bias, module: Arc::clone(&file) });
        let mut appended_unseen = 0;
        for seed in 0..300 {
            let mut random = Random(seed);
            let mut writer =
                TraceWriter::create(io::sink(), Path::new("trace"), &Header::default(), WriterOptions::default())
                    .expect("a sink takes all");
            let mut names = Names::default();
            // In a third of the runs there is one process, in a third code lies at one place.
            let (most, biases) = (1 + seed as usize % 3, 1 + (seed as usize / 3) % 2);
            let mut targets = vec![(target(&mut writer, ranges.to_vec()), vec![Place::ROOT])];
            let mut nodes = HashSet::new();
            for _ in 0..300 {
                let at = random.below(targets.len());
                match random.below(100) {
                    0 => {
                        let (target, places) = &mut targets[at];
                        target.nodes.clear();
                        target.frames.clear();
                        *places = vec![Place::ROOT];
                    }
                    1 if targets.len() < most => {
                        let fresh = target(&mut writer, ranges.to_vec());
                        targets.push((fresh, vec![Place::ROOT]));
                    }
                    2 if targets.len() < most => {
                        let mut child = target(&mut writer, ranges.to_vec());
                        child.nodes.clone_from(&targets[at].0.nodes);
                        child.frames.clone_from(&targets[at].0.frames);
                        let places = targets[at].1.clone();
                        targets.push((child, places));
                    }
                    _ => {
                        let (target, places) = &mut targets[at];
                        let parent = places[random.below(places.len())];
                        let offset = 0x10 * (1 + random.below(6)) as u64;
                        let address = BIASES[random.below(biases)] + offset;
                        let before = writer.tables().stacks.len();
                        let place = Naming { names: &mut names, writer: &mut writer, target }.node(parent, address);
                        let node = writer.tables().stacks[place.node.index()];
                        assert_eq!(node.parent, parent.node);
                        assert_eq!(writer.tables().frames[node.frame.index()].address, offset);
                        if writer.tables().stacks.len() > before {
                            assert!(nodes.insert(node), "seed {seed}: a second node for {node:?}");
                            appended_unseen += u32::from(names.is_new(parent.node, node.frame));
                        }
                        places.push(place);
                    }
                }
            }
        }
        assert!(appended_unseen > 1000, "hardly any node was known to be new: {appended_unseen}");
    }
}
