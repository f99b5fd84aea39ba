//! Which allocations a report is about. Responsible for choosing processes and allocators by name; not for weighing them.

use trace_format::{DomainId, ProcessId, Tables};

use crate::error::AnalysisError;
use crate::metric::PeakOf;
use crate::replay::{Cell, Outcome};

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// A process, by pid, by name or by a part of its name.
    pub process: Option<String>,
    /// An allocator domain by name; else all backing ones.
    pub domain: Option<String>,
}

/// A set of processes and of allocators.
#[derive(Debug, Clone)]
pub struct Selection {
    /// By `ProcessId`.
    processes: Vec<bool>,
    /// By `EntryId`.
    entries: Vec<bool>,
    /// One process alone: then its own peak counts.
    pub single: Option<ProcessId>,
    /// What is selected, in words.
    pub scope: String,
}

impl Selection {
    /// Finds what was asked for.
    ///
    /// # Errors
    /// There is no such process or allocator; the message lists what there is.
    pub fn of(wanted: &Wanted, tables: &Tables, outcome: &Outcome) -> Result<Self, AnalysisError> {
        let (processes, mut scope) = match &wanted.process {
            None => (vec![true; tables.processes.len()], "all processes".to_owned()),
            Some(process) => (matching_processes(process, tables)?, String::new()),
        };
        let chosen: Vec<ProcessId> =
            processes.iter().enumerate().filter(|(_, on)| **on).map(|(at, _)| ProcessId::from(at)).collect();
        let single = match chosen[..] {
            [only] if wanted.process.is_some() || tables.processes.len() == 1 => Some(only),
            _ => None,
        };
        if let Some(only) = single {
            let process = &tables.processes[only.index()];
            scope = format!("{} (pid {})", process.name, process.pid);
        } else if let Some(process) = &wanted.process {
            scope = format!("{} processes called {process}", chosen.len());
        }
        let domain = wanted.domain.as_ref().map(|domain| matching_domain(domain, tables)).transpose()?;
        if let Some(domain) = domain {
            scope = format!("{scope}, allocator {}", tables.domains[domain.index()].name);
        }
        let entries = tables
            .entries
            .iter()
            .map(|entry| domain.map_or(outcome.layers.is_backing(entry.domain), |domain| domain == entry.domain))
            .collect();
        Ok(Self { processes, entries, single, scope })
    }

    /// Whether a cell is selected.
    pub fn includes(&self, cell: &Cell) -> bool {
        self.processes.get(cell.process.index()) == Some(&true) && self.entries.get(cell.entry.index()) == Some(&true)
    }

    /// Whether a process is selected.
    pub fn includes_process(&self, process: ProcessId) -> bool {
        self.processes.get(process.index()) == Some(&true)
    }

    /// Which peak is meant.
    pub fn peak(&self) -> PeakOf {
        if self.single.is_some() { PeakOf::Process } else { PeakOf::Total }
    }
}

fn matching_processes(wanted: &str, tables: &Tables) -> Result<Vec<bool>, AnalysisError> {
    let pick = |test: &dyn Fn(&trace_format::Process) -> bool| -> Option<Vec<bool>> {
        let on: Vec<bool> = tables.processes.iter().map(test).collect();
        on.contains(&true).then_some(on)
    };
    wanted
        .parse::<u32>()
        .ok()
        .and_then(|pid| pick(&|process| process.pid == pid))
        .or_else(|| pick(&|process| process.name == wanted))
        .or_else(|| pick(&|process| !wanted.is_empty() && process.name.contains(wanted)))
        .ok_or_else(|| AnalysisError::NoSuchProcess {
            wanted: wanted.to_owned(),
            known: listed(tables.processes.iter().map(|process| format!("{} ({})", process.name, process.pid))),
        })
}

fn matching_domain(wanted: &str, tables: &Tables) -> Result<DomainId, AnalysisError> {
    let find = |test: &dyn Fn(&str) -> bool| tables.domains.iter().position(|domain| test(&domain.name));
    find(&|name| name == wanted)
        .or_else(|| find(&|name| !wanted.is_empty() && name.contains(wanted)))
        .map(DomainId::from)
        .ok_or_else(|| AnalysisError::NoSuchDomain {
            wanted: wanted.to_owned(),
            known: listed(tables.domains.iter().map(|domain| domain.name.clone())),
        })
}

/// The first few of a list, in words.
fn listed(names: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 12;
    let names: Vec<String> = names.collect();
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    if text.is_empty() { "none".to_owned() } else { text }
}
