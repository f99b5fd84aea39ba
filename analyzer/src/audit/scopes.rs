//! What is born where. Responsible for adding up cells and phases of a study, and what arenas take of them, by phase, by thread and by
//! function; not for what is said of it.

use std::collections::BTreeMap;

use foldhash::{HashMap, HashMapExt};
use trace_format::{ProcessId, ThreadId, Trace};

use super::homes::Homes;
use crate::error::AnalysisError;
use crate::function_names::generic;
use crate::grouping::namespace;
use crate::leaks::Functions;
use crate::lifetimes::{Class, Study};
use crate::names::Names;
use crate::phases::{OUTSIDE, PhaseSource};
use crate::replay::Amount;
use crate::selection::{Selection, Wanted};
use crate::site_tree::SiteTree;
use crate::wrappers::Wrappers;

/// Classes of lifetimes with their amounts.
pub(super) type Classes = [Amount; Class::COUNT];

/// A phase on all threads of a process that have it.
#[derive(Debug, Clone, Default)]
pub(super) struct PhaseScope {
    /// Names of it and of the phases around it, joined by ` › `.
    pub(super) path: String,
    /// Its own name.
    pub(super) name: String,
    /// No phase is open.
    pub(super) is_outside: bool,
    pub(super) process: ProcessId,
    pub(super) process_name: String,
    /// Threads that have it, by name.
    pub(super) threads: BTreeMap<String, u64>,
    pub(super) instances: u64,
    pub(super) time_ns: u64,
    pub(super) begin_ns: u64,
    /// Blocks born in it and in no phase inside.
    pub(super) born: Amount,
    pub(super) realloc_count: u64,
    /// Blocks that died in it.
    pub(super) died: Amount,
    pub(super) classes: Classes,
    /// Alive at the ends of its instances, phases inside included.
    pub(super) left_behind: Amount,
    /// Most bytes born in it alive at a time, summed over threads.
    pub(super) own_peak_bytes: u64,
    /// What of its own was alive when its process had most alive.
    pub(super) at_peak_bytes: u64,
    /// By function, the most bytes first.
    pub(super) sites: Vec<PhaseSite>,
    /// Blocks of stacks that a suggested arena takes, by arena of the plan.
    pub(super) homes: BTreeMap<usize, Amount>,
}

impl PhaseScope {
    pub(super) fn class(&self, class: Class) -> Amount {
        self.classes[class.index()]
    }

    /// Scratch that an arena of the phase would keep to the end of an instance, on average.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.class(Class::Scratch).bytes.checked_div(self.instances).unwrap_or(0)
    }

    /// Blocks of stacks that any suggested arena takes.
    pub(super) fn placed(&self) -> Amount {
        sum(self.homes.values())
    }
}

/// A function that allocates in a phase.
#[derive(Debug, Clone, Default)]
pub(super) struct PhaseSite {
    pub(super) function: String,
    pub(super) born: Amount,
    pub(super) survived: Amount,
    /// Freed by their own thread after the phase instance that they were born in.
    pub(super) left: Amount,
    /// Crate, namespace, or program in brackets.
    pub(super) namespace: String,
}

/// Threads of one name.
#[derive(Debug, Clone, Default)]
pub(super) struct ThreadScope {
    pub(super) process_name: String,
    pub(super) name: String,
    pub(super) thread_count: u64,
    /// Whether it is the first of its process.
    pub(super) is_main: bool,
    pub(super) born: Amount,
    pub(super) realloc_count: u64,
    pub(super) died: Amount,
    pub(super) classes: Classes,
    pub(super) own_peak_bytes: u64,
    pub(super) homes: BTreeMap<usize, Amount>,
    /// By function, blocks.
    pub(super) functions: HashMap<u32, Amount>,
    pub(super) top: Vec<Owner>,
}

/// Who makes how much.
#[derive(Debug, Clone, Default)]
pub(super) struct Owner {
    pub(super) function: String,
    pub(super) namespace: String,
    pub(super) born: Amount,
}

/// A function that allocates.
#[derive(Debug, Clone, Default)]
pub(super) struct FunctionFacts {
    pub(super) namespace: String,
    pub(super) function: String,
    pub(super) born: Amount,
    pub(super) classes: Classes,
    /// Path of the phase that most of its blocks were born in.
    pub(super) phase: String,
}

/// A function of an allocator that sites call.
#[derive(Debug, Clone, Default)]
pub(super) struct Reached {
    pub(super) function: String,
    pub(super) alloc_count: u64,
    pub(super) realloc_count: u64,
    pub(super) bytes: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Scopes {
    pub(super) phases: Vec<PhaseScope>,
    pub(super) threads: Vec<ThreadScope>,
    /// The most bytes first.
    pub(super) functions: Vec<FunctionFacts>,
    /// The most calls first.
    pub(super) reached: Vec<Reached>,
    pub(super) total: Amount,
}

impl Scopes {
    pub(super) fn of(
        trace: &Trace,
        study: &Study,
        names: &Names,
        wrappers: &Wrappers,
        homes: &Homes,
    ) -> Result<Self, AnalysisError> {
        let tables = &trace.tables;
        let selection = Selection::of(&Wanted::default(), tables, &study.outcome)?;
        let functions = Functions::of(names);
        let tree = SiteTree::of(tables, names, wrappers);
        let mut scopes = Self::default();
        let (phase_of_row, thread_of_row) = scopes.add_rows(trace, study);
        let mut in_phase: HashMap<(usize, u32), PhaseSite> = HashMap::new();
        let mut of_function: HashMap<u32, FunctionFacts> = HashMap::new();
        let mut phases_of_function: HashMap<(u32, usize), u64> = HashMap::new();
        let mut reached: HashMap<String, Reached> = HashMap::new();
        for (cell, life) in
            study.outcome.cells.iter().zip(&study.collected.cells).filter(|(cell, _)| selection.includes(cell))
        {
            let function = functions.path(&tree, cell.stack).next().unwrap_or(u32::MAX);
            let facts = of_function.entry(function).or_default();
            for (sum, amount) in facts.classes.iter_mut().zip(&life.classes) {
                *sum += *amount;
            }
            for part in &life.rows {
                facts.born += part.born;
                scopes.total += part.born;
                let row = part.row.0 as usize;
                let (phase, thread) = (phase_of_row[row], thread_of_row[row]);
                *phases_of_function.entry((function, phase)).or_default() += part.born.count;
                let site = in_phase.entry((phase, function)).or_default();
                site.born += part.born;
                site.survived += part.survived;
                site.left += part.left;
                let thread = &mut scopes.threads[thread];
                *thread.functions.entry(function).or_default() += part.born;
            }
            let wrapper = outermost_wrapper(&tree, names, cell.stack)
                .unwrap_or_else(|| tables.entries.get(cell.entry.index()).map_or("?", |entry| &entry.symbol));
            // Instances of one generic function are one way.
            let way = reached.entry(generic(wrapper)).or_default();
            way.alloc_count += cell.alloc_count;
            way.realloc_count += cell.realloc_count;
            way.bytes += cell.alloc_bytes;
        }
        let row_at: HashMap<(ThreadId, &str), usize> = study
            .collected
            .phases
            .iter()
            .enumerate()
            .map(|(at, row)| ((row.thread, scopes.phases[phase_of_row[at]].path.as_str()), at))
            .collect();
        let found: Vec<(usize, usize, Amount)> = homes
            .iter()
            .filter_map(|((thread, path, home), amount)| {
                Some((*row_at.get(&(*thread, path.as_str()))?, *home, *amount))
            })
            .collect();
        for (row, home, amount) in found {
            *scopes.phases[phase_of_row[row]].homes.entry(home).or_default() += amount;
            *scopes.threads[thread_of_row[row]].homes.entry(home).or_default() += amount;
        }
        let name = |function: u32| {
            if function == u32::MAX { "[no stack]".to_owned() } else { functions.name(function).to_owned() }
        };
        let namespace = |function: u32| {
            if function == u32::MAX { "[no stack]".to_owned() } else { namespace(functions.place(function)) }
        };
        for ((phase, function), site) in in_phase {
            let site = PhaseSite { function: name(function), namespace: namespace(function), ..site };
            scopes.phases[phase].sites.push(site);
        }
        for phase in &mut scopes.phases {
            phase.sites.sort_by(|one, other| (other.born.bytes, &one.function).cmp(&(one.born.bytes, &other.function)));
        }
        for thread in &mut scopes.threads {
            let owner = |(function, born)| Owner { function: name(function), namespace: namespace(function), born };
            thread.top = thread.functions.drain().map(owner).collect();
            thread.top.sort_by(|one, other| (other.born.bytes, &one.function).cmp(&(one.born.bytes, &other.function)));
        }
        let mut most: HashMap<u32, (u64, usize)> = HashMap::new();
        for ((function, phase), count) in phases_of_function {
            let known = most.entry(function).or_insert((count, phase));
            if (count, phase) > *known {
                *known = (count, phase);
            }
        }
        scopes.functions = of_function
            .into_iter()
            .map(|(function, facts)| FunctionFacts {
                function: name(function),
                namespace: namespace(function),
                phase: most.get(&function).map_or_else(String::new, |(_, phase)| scopes.phases[*phase].path.clone()),
                ..facts
            })
            .collect();
        scopes
            .functions
            .sort_by(|one, other| (other.born.bytes, &one.function).cmp(&(one.born.bytes, &other.function)));
        scopes.reached = reached.into_iter().map(|(function, way)| Reached { function, ..way }).collect();
        scopes.reached.sort_by(|one, other| {
            let calls = |way: &Reached| way.alloc_count + way.realloc_count;
            (calls(other), &one.function).cmp(&(calls(one), &other.function))
        });
        Ok(scopes)
    }

    /// Phases and threads from the rows of a study; which of them each row belongs to.
    fn add_rows(&mut self, trace: &Trace, study: &Study) -> (Vec<usize>, Vec<usize>) {
        let tables = &trace.tables;
        let found = &study.collected;
        let mut phase_at: HashMap<(ProcessId, String), usize> = HashMap::new();
        let mut thread_at: HashMap<(ProcessId, String, bool), usize> = HashMap::new();
        let mut first_thread: HashMap<ProcessId, usize> = HashMap::new();
        for (at, thread) in tables.threads.iter().enumerate() {
            first_thread.entry(thread.process).or_insert(at);
        }
        let mut threads_seen: HashMap<usize, usize> = HashMap::new();
        let (mut of_row, mut thread_of_row) = (Vec::new(), Vec::new());
        for (at, (row, life)) in found.phases.iter().zip(&found.rows).enumerate() {
            let thread = &tables.threads[row.thread.index()];
            let process_name = tables.processes[thread.process.index()].name.clone();
            let path = crate::lifetimes::path(study, crate::phases::RowId(at as u32));
            let phase_at = *phase_at.entry((thread.process, path.clone())).or_insert_with(|| {
                self.phases.push(PhaseScope {
                    path,
                    name: row.name.clone(),
                    is_outside: row.source == PhaseSource::None || row.name == OUTSIDE,
                    process: thread.process,
                    process_name: process_name.clone(),
                    begin_ns: life.begin_ns,
                    ..PhaseScope::default()
                });
                self.phases.len() - 1
            });
            let phase = &mut self.phases[phase_at];
            *phase.threads.entry(thread.name.clone()).or_default() += 1;
            phase.instances += life.instance_count;
            phase.time_ns += life.time_ns;
            phase.begin_ns = phase.begin_ns.min(life.begin_ns);
            phase.born += life.born;
            phase.realloc_count += life.realloc_count;
            phase.died += life.died;
            phase.left_behind += life.left_behind;
            phase.own_peak_bytes += life.own_peak_bytes;
            let is_main = first_thread.get(&thread.process) == Some(&row.thread.index());
            let thread_at = *thread_at.entry((thread.process, thread.name.clone(), is_main)).or_insert_with(|| {
                self.threads.push(ThreadScope {
                    process_name,
                    name: thread.name.clone(),
                    is_main,
                    ..ThreadScope::default()
                });
                self.threads.len() - 1
            });
            let scope = &mut self.threads[thread_at];
            if threads_seen.insert(row.thread.index(), at).is_none() {
                scope.thread_count += 1;
            }
            scope.born += life.born;
            scope.realloc_count += life.realloc_count;
            scope.died += life.died;
            scope.own_peak_bytes += life.own_peak_bytes;
            for class in Class::ALL {
                let amount = life.classes[class.index()];
                self.phases[phase_at].classes[class.index()] += amount;
                self.threads[thread_at].classes[class.index()] += amount;
            }
            of_row.push(phase_at);
            thread_of_row.push(thread_at);
        }
        self.add_holders(trace, study, &of_row);
        (of_row, thread_of_row)
    }

    /// Whose blocks a process's highest moment was made of.
    fn add_holders(&mut self, trace: &Trace, study: &Study, of_row: &[usize]) {
        let found = &study.collected;
        for process in 0..trace.tables.processes.len() {
            let of_process = |at: &usize| {
                let thread = &trace.tables.threads[found.phases[*at].thread.index()];
                thread.process.index() == process
            };
            let highest = (0..found.rows.len()).filter(of_process).max_by_key(|at| found.rows[*at].peak.bytes);
            for (row, bytes) in highest.map_or(&[][..], |at| found.rows[at].peak.holders()) {
                self.phases[of_row[row.0 as usize]].at_peak_bytes += bytes;
            }
        }
    }
}

/// The function that the site of a stack calls for memory, if it is a known wrapper.
fn outermost_wrapper<'n>(tree: &SiteTree, names: &'n Names, stack: trace_format::StackId) -> Option<&'n str> {
    let (all, own) = (tree.path(tree.full(stack)).count(), tree.path(tree.site(stack)).count());
    let place = tree.path(tree.full(stack)).nth(all.checked_sub(own + 1)?)?;
    Some(&names.place(place).function)
}

/// Amounts added up.
pub(super) fn sum<'a>(amounts: impl IntoIterator<Item = &'a Amount>) -> Amount {
    amounts.into_iter().fold(Amount::default(), |mut sum, amount| {
        sum += *amount;
        sum
    })
}
