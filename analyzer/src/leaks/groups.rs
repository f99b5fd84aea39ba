//! Which survivors belong together. Responsible for cutting the allocating stacks with survivors into groups of equal fate; not
//! for what the fate means (see `classify`).
//!
//! A group is a function that allocates, with as many of its callers as it takes to tell those whose blocks stay from those
//! whose blocks are freed:
//!
//! ```text
//!   new_node ─┬─ parse_type   200 of 200 stay        ▶ group new_node ← parse_type: all stay
//!             └─ parse_expr     3 of 900 stay        ▶ group new_node ← parse_expr: a few stay
//! ```
//!
//! Going on to the callers ends when all stay, when few do, when the callers do not differ, or after [`DEEPEST`] functions.

use foldhash::{HashMap, HashMapExt};
use trace_format::{ProcessId, Sequence, StackId};

use super::survey::Origin;
use crate::names::{Names, PlaceId};
use crate::site_tree::SiteTree;

/// Callers that a group is told apart by.
const DEEPEST: usize = 6;
/// A smaller part of survivors is a minority.
pub const MINORITY: f64 = 0.05;
/// Fewer chains are too few to speak of a minority.
pub const MANY: u64 = 30;

/// Survivors of equal fate, and their siblings.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// The process.
    pub process: ProcessId,
    /// The allocating function and callers, innermost first: numbers as in [`Functions`].
    pub functions: Vec<u32>,
    /// Chains begun there.
    pub count: u64,
    /// Of them, alive at the end.
    pub survivor_count: u64,
    /// Their bytes.
    pub survivor_bytes: u64,
    /// The latest begin of one that was freed.
    pub last_freed_birth: Option<Sequence>,
    /// The earliest begin of one that was not.
    pub first_survivor_birth: Option<Sequence>,
    /// Stacks that survivors began at, the most frequent first, with how many.
    pub stacks: Vec<(StackId, u64)>,
    /// Stacks of the last steps of survivors, the most frequent first.
    pub last_steps: Vec<(StackId, u64)>,
}

/// Functions by number, wrappers told apart.
#[derive(Debug)]
pub struct Functions<'n> {
    names: &'n Names,
    of_place: Vec<u32>,
    /// A place of each function.
    places: Vec<PlaceId>,
}

impl<'n> Functions<'n> {
    /// The functions of all places.
    pub fn of(names: &'n Names) -> Self {
        let mut numbers: HashMap<(&str, &str), u32> = HashMap::new();
        let mut places = Vec::new();
        let of_place = (0..names.place_count() as u32)
            .map(|place| {
                let at = names.place(PlaceId(place));
                *numbers.entry((&at.module, &at.function)).or_insert_with(|| {
                    places.push(PlaceId(place));
                    places.len() as u32 - 1
                })
            })
            .collect();
        Self { names, of_place, places }
    }

    /// The function of a place.
    pub fn number(&self, place: PlaceId) -> u32 {
        self.of_place[place.0 as usize]
    }

    /// Its name.
    pub fn name(&self, function: u32) -> &str {
        &self.names.place(self.places[function as usize]).function
    }

    /// The functions of a stack without the wrappers at its leaf, innermost first.
    pub fn path<'s>(&'s self, tree: &'s SiteTree, stack: StackId) -> impl Iterator<Item = u32> + 's {
        tree.path(tree.site(stack)).map(|place| self.number(place))
    }
}

/// The groups of all survivors.
pub fn groups(
    origins: &HashMap<(ProcessId, StackId), Origin>,
    tree: &SiteTree,
    functions: &Functions<'_>,
) -> Vec<Group> {
    let mut by_function: HashMap<(ProcessId, u32), Vec<(StackId, &Origin)>> = HashMap::new();
    for ((process, stack), origin) in origins {
        let function = functions.path(tree, *stack).next().unwrap_or(u32::MAX);
        by_function.entry((*process, function)).or_default().push((*stack, origin));
    }
    let mut found = Vec::new();
    for ((process, function), members) in by_function {
        if members.iter().any(|(_, origin)| origin.survivor_count > 0) {
            let functions_so_far = if function == u32::MAX { Vec::new() } else { vec![function] };
            cut(process, functions_so_far, members, tree, functions, &mut found);
        }
    }
    found.sort_unstable_by(|one, other| {
        (other.survivor_bytes, other.survivor_count, &other.functions)
            .cmp(&(one.survivor_bytes, one.survivor_count, &one.functions))
            .then(one.process.cmp(&other.process))
    });
    found
}

fn cut(
    process: ProcessId,
    path: Vec<u32>,
    members: Vec<(StackId, &Origin)>,
    tree: &SiteTree,
    functions: &Functions<'_>,
    found: &mut Vec<Group>,
) {
    let group = gather(process, path, &members);
    if group.survivor_count == 0 {
        return;
    }
    let part = group.survivor_count as f64 / group.count as f64;
    let is_minority = group.count >= MANY && part < MINORITY;
    if group.survivor_count == group.count
        || is_minority
        || group.functions.len() >= DEEPEST
        || group.functions.is_empty()
    {
        found.push(group);
        return;
    }
    let depth = group.functions.len();
    let mut by_caller: HashMap<Option<u32>, Vec<(StackId, &Origin)>> = HashMap::new();
    for (stack, origin) in members {
        by_caller.entry(functions.path(tree, stack).nth(depth)).or_default().push((stack, origin));
    }
    let mut fates: Vec<(Option<u32>, u64, u64)> = by_caller
        .iter()
        .map(|(caller, members)| {
            let survivors = members.iter().map(|(_, origin)| origin.survivor_count).sum();
            (*caller, members.iter().map(|(_, origin)| origin.count).sum(), survivors)
        })
        .collect();
    fates.sort_unstable();
    // The callers tell fates apart if one of them keeps all or none and another does otherwise.
    let pure = |(_, count, survivors): &&(Option<u32>, u64, u64)| *survivors == 0 || survivors == count;
    let useful = fates.len() > 1 && fates.iter().any(|fate| pure(&fate));
    let deeper_useful = fates.len() == 1 && fates[0].0.is_some();
    if !useful && !deeper_useful {
        found.push(group);
        return;
    }
    let before = found.len();
    for (caller, members) in by_caller {
        let Some(caller) = caller else {
            cut_end(process, group.functions.clone(), &members, found);
            continue;
        };
        let mut path = group.functions.clone();
        path.push(caller);
        cut(process, path, members, tree, functions, found);
    }
    // Nothing was told apart all the way up: the function alone says it best.
    if deeper_useful
        && found.len() == before + 1
        && found[before].survivor_count == group.survivor_count
        && found[before].count == group.count
    {
        found[before] = group;
    }
}

fn cut_end(process: ProcessId, path: Vec<u32>, members: &[(StackId, &Origin)], found: &mut Vec<Group>) {
    let group = gather(process, path, members);
    if group.survivor_count > 0 {
        found.push(group);
    }
}

fn gather(process: ProcessId, functions: Vec<u32>, members: &[(StackId, &Origin)]) -> Group {
    let mut group = Group { process, functions, ..Group::default() };
    for (stack, origin) in members {
        group.count += origin.count;
        group.survivor_count += origin.survivor_count;
        group.survivor_bytes += origin.survivor_bytes;
        group.last_freed_birth = group.last_freed_birth.max(origin.last_freed_birth);
        group.first_survivor_birth = match (group.first_survivor_birth, origin.first_survivor_birth) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        if origin.survivor_count > 0 {
            group.stacks.push((*stack, origin.survivor_count));
            group.last_steps.extend(&origin.last_steps);
        }
    }
    for list in [&mut group.stacks, &mut group.last_steps] {
        list.sort_unstable_by_key(|(stack, count)| (std::cmp::Reverse(*count), *stack));
    }
    group
}
