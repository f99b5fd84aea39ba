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
use trace_format::{FrameId, ProcessId, Sequence, StackId};

use super::survey::Origin;
use crate::names::{Names, Place, PlaceId, base_name};
use crate::site_tree::SiteTree;

/// Callers that a group is told apart by.
const DEEPEST: usize = 6;
/// A smaller part of survivors is a minority.
pub(super) const MINORITY: f64 = 0.05;
/// Fewer chains are too few to speak of a minority.
pub(super) const MANY: u64 = 30;

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
    /// All stacks that chains began at.
    pub origins: Vec<StackId>,
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

    /// A place of a function.
    pub(crate) fn place(&self, function: u32) -> &Place {
        self.names.place(self.places[function as usize])
    }

    /// Functions there are.
    pub fn count(&self) -> u32 {
        self.places.len() as u32
    }

    /// The function that owns a frame's code.
    pub fn of_frames(&self, frame_count: usize) -> Vec<u32> {
        let owner =
            |frame| self.names.places(FrameId::from(frame)).last().map_or(u32::MAX, |place| self.number(*place));
        (0..frame_count).map(owner).collect()
    }

    /// Whether a symbol names it.
    pub fn is_named(&self, function: u32) -> bool {
        self.places.get(function as usize).is_some_and(|place| self.names.place(*place).resolved)
    }

    /// Whether it belongs to a language's library.
    pub fn is_library(&self, function: u32) -> bool {
        self.places.get(function as usize).is_some_and(|place| is_library(self.names.place(*place)))
    }

    /// The library code that a stack allocates through, innermost first; what `path` leaves out.
    pub fn library<'s>(&'s self, tree: &'s SiteTree, stack: StackId) -> Vec<u32> {
        let places = tree.path(tree.site(stack));
        places.take_while(|place| is_library(self.names.place(*place))).map(|place| self.number(place)).collect()
    }

    /// The functions of a stack, innermost first, without wrappers and library code at its leaf: whose doing it is. If there is
    /// nothing else, they stay.
    pub fn path<'s>(&'s self, tree: &'s SiteTree, stack: StackId) -> impl Iterator<Item = u32> + 's {
        let site = tree.site(stack);
        let theirs = tree.path(site).take_while(|place| is_library(self.names.place(*place))).count();
        let all = tree.path(site).count();
        tree.path(site).skip(if theirs == all { 0 } else { theirs }).map(|place| self.number(place))
    }
}

/// Crates and namespaces of the languages' libraries.
const LIBRARIES: [&str; 9] =
    ["std::", "alloc::", "core::", "hashbrown::", "__gnu_cxx::", "__cxxabiv1::", "std[", "__rustc::", "indexmap::"];
/// Shared objects of the C and C++ runtimes.
const RUNTIMES: [&str; 6] = ["libc.so", "libstdc++.so", "libc++.so", "libgcc_s.so", "ld-linux", "libpthread"];

/// Beginnings of raw C++ names in `std`, which the demangler gave up on.
const RAW_STD: [&str; 3] = ["_ZSt", "_ZNSt", "_ZNKSt"];

/// Whether a function belongs to a language's library: what it allocates and frees is its caller's doing.
fn is_library(place: &Place) -> bool {
    let name = place.function.as_str();
    RAW_STD.iter().any(|raw| name.starts_with(raw))
        || is_library_path(name)
        || RUNTIMES.iter().any(|runtime| base_name(&place.module).starts_with(runtime))
}

fn is_library_path(name: &str) -> bool {
    let mut path = name;
    while let Some(inner) =
        ["<", "&", "*", "[", "(", "mut ", "const ", "dyn "].iter().find_map(|prefix| path.strip_prefix(prefix))
    {
        path = inner;
    }
    if LIBRARIES.iter().any(|library| path.starts_with(library)) {
        return true;
    }
    // A method of a type parameter or of a type of the language: `<T as alloc::…>::f`, `<str>::repeat`.
    let word = path.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(path.len());
    let of_the_language = matches!(
        &path[..word],
        "str"
            | "char"
            | "bool"
            | "u8"
            | "u16"
            | "u32"
            | "u64"
            | "u128"
            | "usize"
            | "i8"
            | "i16"
            | "i32"
            | "i64"
            | "i128"
            | "isize"
            | "f32"
            | "f64"
    ) || word == 1 && path.starts_with(|letter: char| letter.is_ascii_uppercase());
    if !name.starts_with('<') || !of_the_language || path[word..].starts_with("::") {
        return false;
    }
    match path[word..].split_once(" as ") {
        Some((_, of_trait)) => is_library_path(of_trait),
        None => true,
    }
}

/// Stacks that chains began at.
type Members<'o> = Vec<(StackId, &'o Origin)>;

/// The groups of all survivors.
pub(super) fn groups(
    origins: &HashMap<(ProcessId, StackId), Origin>,
    tree: &SiteTree,
    functions: &Functions<'_>,
) -> Vec<Group> {
    // One function may allocate in several ways through a library: those are different things.
    let mut by_function: HashMap<(ProcessId, u32, Vec<u32>), Members<'_>> = HashMap::new();
    for ((process, stack), origin) in origins {
        let function = functions.path(tree, *stack).next().unwrap_or(u32::MAX);
        let key = (*process, function, functions.library(tree, *stack));
        by_function.entry(key).or_default().push((*stack, origin));
    }
    let mut found = Vec::new();
    for ((process, function, _), members) in by_function {
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
        group.origins.push(*stack);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn library_code_is_told_from_the_programs_own() {
        let place = |function: &str, module: &str| Place {
            function: function.into(),
            module: module.into(),
            ..Place::default()
        };
        for (function, expected) in [
            ("std::vector<Own, std::allocator<Own> >::reserve", true),
            ("<alloc::vec::Vec<own::T>>::push", true),
            ("<T as alloc::vec::spec_from_elem::SpecFromElem>::from_elem", true),
            ("<&str as <alloc::ffi::c_str::CString>::new::SpecNewImpl>::spec_new_impl", true),
            ("<str>::repeat", true),
            ("<[T]>::to_vec", true),
            ("core::ptr::drop_in_place<own::Body>", true),
            ("_ZSt11make_sharedI5ScopeJE", true),
            ("own::make", false),
            ("<own::Maker as core::ops::drop::Drop>::drop", false),
            ("<T as own::Make>::make", false),
            ("U::make", false),
            ("stdout_writer", false),
            ("main", false),
        ] {
            assert_eq!(is_library(&place(function, "/tmp/own")), expected, "{function}");
        }
        assert!(is_library(&place("fopen", "/lib/x86_64-linux-gnu/libc.so.6")));
    }
}
