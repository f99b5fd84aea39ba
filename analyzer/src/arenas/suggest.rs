//! What a plan asks of an engineer. Responsible for saying of each arena which sites move, which functions must pass an allocator on,
//! what must stay and what should be sealed before; not for choosing.

use foldhash::{HashMap, HashMapExt};
use serde::Serialize;

use super::atoms::{AtomFacts, Atoms, Book, NameId};
use super::choose::Scope;
use super::keys::Key;
use super::phases::Phases;
use super::plan::{AtEnd, Nesting, Plan, functions, scope_frame};
use super::proof::change;
use super::simulate::Simulated;
use crate::phases::phase_of;
use crate::sites::ratio;

/// Rows of each list of a suggestion.
const LISTED: usize = 12;
/// Callers of a site that are named.
const CALLERS: usize = 2;

/// One kind of arena: what to do, and what it comes to on the traces it was made from.
#[derive(Debug, Clone, Serialize)]
pub struct Suggestion {
    /// From 1.
    pub rank: u64,
    /// What it is, in words.
    pub name: String,
    /// The function whose activations it lives with, or `phase NAME`: a phase that markers begin and end.
    pub scope: String,
    /// Which of these.
    pub scope_kind: ScopeKind,
    /// Of several activations on the stack, which one.
    pub nesting: Nesting,
    /// Phases that it is open in, those with the most of its objects first, by markers and by the functions of a compiler's profile;
    /// none where no profile fits and no markers are.
    pub phases: Vec<InPhase>,
    /// What becomes of its memory at the end of an activation.
    pub at_end: AtEnd,
    /// Times it was opened.
    pub instances: u64,
    /// Objects in it: blocks born by alloc.
    pub objects: u64,
    /// The same as a part of all objects.
    pub object_share: f64,
    /// Their bytes, reallocs included.
    pub bytes: u64,
    /// Frees that its end makes needless, less those of its chunks.
    pub frees_saved: u64,
    /// Chunks that it takes from malloc.
    pub chunks: u64,
    /// Most bytes that its open instances held at a time, in one trace.
    pub held_peak_bytes: u64,
    /// How much higher the peak would be with this arena alone, as a part; the worst trace.
    pub peak_change: f64,
    /// Mean memory in use with its dead blocks kept, as a multiple of what is alive.
    pub drag: f64,
    /// Held and never handed out when an instance ended, sum of bytes.
    pub tail_bytes: u64,
    /// Left behind by reallocs that had to move, sum of bytes.
    pub left_bytes: u64,
    /// Paths that say what belongs to it.
    pub key_count: u64,
    /// Functions that allocate for it; `sites` may hold fewer.
    pub site_count: u64,
    /// Those with the most objects.
    pub sites: Vec<Site>,
    /// Functions between the scope and the sites; `pass_on` may hold fewer.
    pub pass_on_count: u64,
    /// Functions to give an allocator parameter, those that the most objects come through first.
    pub pass_on: Vec<Passed>,
    /// Sites below the scope that stay with malloc because some of their objects live longer; `escapees` may hold fewer.
    pub escapee_count: u64,
    /// Those with the most objects.
    pub escapees: Vec<Escapee>,
    /// Sites in it whose blocks grow: to be sealed, or given their final size, before they go into an arena.
    pub builders: Vec<Builder>,
    /// What it did on traces that it was not made from.
    pub tests: Vec<Tested>,
}

/// What an arena lives with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScopeKind {
    /// Calls of a function.
    Function,
    /// Instances of a phase.
    Phase,
}

/// A phase that an arena is open in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InPhase {
    /// Its name.
    pub phase: String,
    /// Objects of the arena.
    pub objects: u64,
}

/// Who allocates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Site {
    /// The allocating function.
    pub function: String,
    /// Its most frequent callers, innermost first.
    pub callers: Vec<String>,
    /// Objects.
    pub objects: u64,
    /// Bytes, reallocs included.
    pub bytes: u64,
}

/// A function between a scope and its sites.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Passed {
    /// The function.
    pub function: String,
    /// Objects that come through it.
    pub objects: u64,
}

/// A site that must stay with malloc.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Escapee {
    /// The allocating function.
    pub function: String,
    /// Its most frequent callers, innermost first.
    pub callers: Vec<String>,
    /// Objects.
    pub objects: u64,
    /// Of them, those that outlive the activation: to be promoted.
    pub escaping: u64,
    /// Of those, freed by another thread.
    pub handed_over: u64,
    /// Of those, alive at the end.
    pub survive: u64,
}

/// A site whose blocks grow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Builder {
    /// The function that begins them.
    pub function: String,
    /// Its most frequent callers, innermost first.
    pub callers: Vec<String>,
    /// Blocks begun.
    pub objects: u64,
    /// Reallocs of them.
    pub reallocs: u64,
}

/// A suggestion on a trace that it was not made from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tested {
    /// The trace.
    pub trace: String,
    /// Whether the plan that was made without this trace has this arena at all.
    pub found: bool,
    /// Objects in it.
    pub objects: u64,
    /// Objects that are freed after it is gone.
    pub outlived: u64,
    /// Objects that another thread frees.
    pub handed_over: u64,
}

/// What suggestions are made of.
pub(super) struct Material<'a> {
    pub(super) book: &'a Book,
    pub(super) atoms: &'a Atoms,
    /// By atom, of all traces the plan was made from.
    pub(super) facts: &'a [AtomFacts],
    pub(super) phases: &'a Phases<'a>,
    pub(super) plan: &'a Plan,
    /// By arena.
    pub(super) scopes: &'a [Scope],
    pub(super) keys: &'a [Key],
    /// By trace the plan was made from.
    pub(super) simulated: &'a [&'a Simulated],
}

#[derive(Default)]
struct Sums {
    objects: u64,
    bytes: u64,
    escaping: u64,
    handed_over: u64,
    survive: u64,
    reallocs: u64,
    /// Objects by callers.
    callers: HashMap<Vec<NameId>, u64>,
}

impl Sums {
    fn add(&mut self, path: &[NameId], facts: &AtomFacts) {
        self.objects += facts.count;
        self.bytes += facts.bytes;
        self.reallocs += facts.realloc_count;
        let callers: Vec<NameId> = functions(path).skip(1).take(CALLERS).map(|(name, _)| name).collect();
        *self.callers.entry(callers).or_default() += facts.count;
    }
}

/// The arenas of a plan, those with the most objects first.
pub(super) fn suggestions(material: &Material<'_>) -> Vec<Suggestion> {
    let keys: HashMap<&[NameId], usize> = material.keys.iter().map(|key| (key.path.as_slice(), key.scope)).collect();
    let longest = material.keys.iter().map(|key| key.path.len()).max().unwrap_or(0);
    let arena_of: Vec<Option<usize>> = material
        .atoms
        .paths
        .iter()
        .map(|path| {
            let arena = (1..=longest.min(path.len())).rev().find_map(|length| keys.get(&path[..length]).copied())?;
            let scope = material.scopes[arena];
            scope_frame(path, scope.name, scope.nesting).map(|_| arena)
        })
        .collect();
    let objects: u64 = material.simulated.iter().map(|simulated| simulated.alloc_count).sum();
    let mut found: Vec<Suggestion> =
        (0..material.scopes.len()).map(|arena| suggestion(material, arena, &arena_of, objects)).collect();
    found.sort_by(|one, other| other.objects.cmp(&one.objects).then_with(|| one.scope.cmp(&other.scope)));
    for (suggestion, rank) in found.iter_mut().zip(1..) {
        suggestion.rank = rank;
    }
    found
}

fn suggestion(material: &Material<'_>, arena: usize, arena_of: &[Option<usize>], all_objects: u64) -> Suggestion {
    let scope = material.scopes[arena];
    let mut sites: HashMap<NameId, Sums> = HashMap::new();
    let mut escapees: HashMap<NameId, Sums> = HashMap::new();
    let mut passed: HashMap<NameId, u64> = HashMap::new();
    let mut phases: HashMap<&str, u64> = HashMap::new();
    let rows = material.atoms.paths.iter().zip(material.facts).zip(arena_of);
    for ((path, facts), home) in rows.filter(|((_, facts), _)| facts.count > 0) {
        let Some(frame) = scope_frame(path, scope.name, scope.nesting) else { continue };
        let leaf = path.first().copied().unwrap_or(u32::MAX);
        if *home == Some(arena) {
            sites.entry(leaf).or_default().add(path, facts);
            let outward = path.iter().step_by(2).skip(path.len() / 2 - 1 - frame).copied();
            if let Some(phase) = material.phases.innermost(material.book, outward) {
                *phases.entry(phase).or_default() += facts.count;
            }
            for (name, _) in functions(path).take_while(|(_, at)| *at > frame) {
                *passed.entry(name).or_default() += facts.count;
            }
        } else if home.is_none() {
            let fitting = facts.fitting.get(frame).copied().unwrap_or(0);
            if fitting < facts.count {
                let sums = escapees.entry(leaf).or_default();
                sums.add(path, facts);
                sums.escaping += facts.count - fitting;
                sums.handed_over += facts.elsewhere_count;
                sums.survive += facts.survivor_count;
            }
        }
    }
    let name = |id: NameId| material.book.name(id).to_owned();
    let callers = |sums: &Sums| -> Vec<String> {
        let most = sums.callers.iter().max_by(|one, other| one.1.cmp(other.1).then_with(|| other.0.cmp(one.0)));
        most.map_or_else(Vec::new, |(callers, _)| callers.iter().map(|caller| name(*caller)).collect())
    };
    let ranked = |sums: &HashMap<NameId, Sums>| {
        let mut rows: Vec<(u64, NameId)> = sums.iter().map(|(id, sums)| (sums.objects, *id)).collect();
        rows.sort_unstable_by_key(|(objects, id)| (std::cmp::Reverse(*objects), *id));
        rows.into_iter().map(|(_, id)| id).collect::<Vec<_>>()
    };
    let (site_count, escapee_count, pass_on_count) = (sites.len() as u64, escapees.len() as u64, passed.len() as u64);
    let listed = ranked(&sites);
    let mut builders: Vec<&NameId> = listed.iter().filter(|id| sites[*id].reallocs > 0).collect();
    builders.sort_by_key(|id| std::cmp::Reverse(sites[*id].reallocs));
    let builders = builders.into_iter().take(LISTED).map(|id| Builder {
        function: name(*id),
        callers: callers(&sites[id]),
        objects: sites[id].objects,
        reallocs: sites[id].reallocs,
    });
    let mut pass_on: Vec<Passed> =
        passed.into_iter().map(|(id, objects)| Passed { function: name(id), objects }).collect();
    pass_on.sort_by(|one, other| other.objects.cmp(&one.objects).then_with(|| one.function.cmp(&other.function)));
    pass_on.truncate(LISTED);
    let mut phases: Vec<InPhase> =
        phases.into_iter().map(|(phase, objects)| InPhase { phase: phase.to_owned(), objects }).collect();
    phases.sort_by(|one, other| other.objects.cmp(&one.objects).then_with(|| one.phase.cmp(&other.phase)));
    let figures = || material.simulated.iter().map(|simulated| (&simulated.arenas[arena], *simulated));
    let sum = |of: fn(&super::ArenaFigures) -> u64| figures().map(|(figures, _)| of(figures)).sum::<u64>();
    let objects = sum(|figures| figures.object_count);
    let drag: f64 = figures().map(|(figures, _)| figures.drag_byte_bytes).sum();
    let live: f64 = figures().map(|(_, simulated)| simulated.live_byte_bytes).sum();
    let function = name(scope.name);
    let (scope_kind, each) = match phase_of(&function) {
        None => (ScopeKind::Function, "call"),
        Some(_) => (ScopeKind::Phase, "instance"),
    };
    Suggestion {
        rank: 0,
        name: match scope.nesting {
            Nesting::Innermost => format!("arena per {each} of {function}"),
            Nesting::Outermost => format!("arena per outermost {each} of {function}"),
        },
        scope_kind,
        nesting: scope.nesting,
        phases,
        at_end: material.plan.arenas[arena].at_end,
        instances: sum(|figures| figures.instance_count),
        objects,
        object_share: ratio(objects, all_objects),
        bytes: sum(|figures| figures.bytes),
        frees_saved: sum(|figures| figures.free_count).saturating_sub(sum(|figures| figures.chunk_count)),
        chunks: sum(|figures| figures.chunk_count),
        held_peak_bytes: figures().map(|(figures, _)| figures.held_peak_bytes).max().unwrap_or(0),
        peak_change: figures()
            .map(|(figures, simulated)| change(simulated.plain_peak_bytes, figures.alone_peak_bytes))
            .fold(f64::NEG_INFINITY, f64::max),
        drag: 1.0 + drag / live.max(1.0),
        tail_bytes: sum(|figures| figures.tail_bytes),
        left_bytes: sum(|figures| figures.left_bytes),
        key_count: material.plan.arenas[arena].keys.len() as u64,
        site_count,
        sites: listed
            .iter()
            .take(LISTED)
            .map(|id| Site {
                function: name(*id),
                callers: callers(&sites[id]),
                objects: sites[id].objects,
                bytes: sites[id].bytes,
            })
            .collect(),
        pass_on_count,
        pass_on,
        escapee_count,
        escapees: ranked(&escapees)
            .iter()
            .take(LISTED)
            .map(|id| Escapee {
                function: name(*id),
                callers: callers(&escapees[id]),
                objects: escapees[id].objects,
                escaping: escapees[id].escaping,
                handed_over: escapees[id].handed_over,
                survive: escapees[id].survive,
            })
            .collect(),
        builders: builders.collect(),
        tests: Vec::new(),
        scope: function,
    }
}

/// Adds what a plan that was not made from a trace did on it, to the suggestions that it has too.
pub(super) fn add_test(suggestions: &mut [Suggestion], trace: &str, plan: &Plan, simulated: &Simulated) {
    for suggestion in suggestions {
        let arena = plan
            .arenas
            .iter()
            .position(|arena| (&arena.scope, arena.nesting) == (&suggestion.scope, suggestion.nesting));
        let broken = simulated.broken.iter().filter(|((at, _), _)| Some(*at) == arena);
        let (outlived, handed_over) = broken.fold((0, 0), |(outlived, handed_over), (_, broken)| {
            (outlived + broken.outlived.count, handed_over + broken.handed_over.count)
        });
        suggestion.tests.push(Tested {
            trace: trace.to_owned(),
            found: arena.is_some(),
            objects: arena.map_or(0, |arena| simulated.arenas[arena].object_count),
            outlived,
            handed_over,
        });
    }
}
