//! Markers that were recorded live, as phases. Responsible for what a marker event means: which phase it begins or ends; not for
//! when phases are open (see `tracker`).
//!
//! A marker's row says by which rule of the recorder's profile it was placed. Its phase is called by its value: by text as it
//! is, by number as the profile names it (numbers without a name are no phases), else as the rule is. Markers that no profile
//! knows (a program's own, see `samples/heaptape.h`) are phases by their text.

use foldhash::{HashMap, HashMapExt};
use trace_format::{Marker, MarkerEnd, MarkerValue, Tables};

use super::rules::{PhaseId, Rules};
use crate::names::Names;
use crate::profile::{LiveRule, Profile, glob};
use crate::symbolise::demangle;

/// Begin, end, or point, as marker events say it.
const BEGIN: u8 = 1;
const END: u8 = 2;

/// Markers of a trace.
#[derive(Debug, Default)]
pub struct Markers {
    rows: Vec<Row>,
    texts: Vec<String>,
    /// Phases by row, profile and value; none for values that are no phases.
    known: HashMap<(u32, usize, u64), Option<PhaseId>>,
}

#[derive(Debug)]
struct Row {
    marker: Marker,
    /// Number of the marked function, if it is on any recorded stack.
    function: Option<u32>,
    /// Rule of the same name in each profile in use.
    rules: Vec<Option<LiveRule>>,
}

/// What a marker event does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hit {
    /// Nothing that concerns phases.
    Nothing,
    /// A phase begins.
    Begin {
        /// Which.
        phase: PhaseId,
        /// Number of the function whose activation it is.
        function: Option<u32>,
        /// Whether an end marker will come.
        ends: bool,
    },
    /// One ends: this, or the innermost.
    End {
        /// Which.
        phase: Option<PhaseId>,
    },
}

impl Markers {
    /// The markers of a trace. Phases of the profiles in use that markers begin are no longer opened by stacks.
    pub fn of(tables: &Tables, names: &Names, profiles: &[&Profile], rules: &mut [Rules]) -> Self {
        let rows = tables
            .markers
            .iter()
            .map(|marker| {
                let rule = |profile: &&Profile| profile.markers.iter().find(|rule| rule.name == marker.name).cloned();
                Row {
                    marker: marker.clone(),
                    function: names.function_called(&demangle(&marker.symbol).name),
                    rules: profiles.iter().map(rule).collect(),
                }
            })
            .collect::<Vec<Row>>();
        for (at, rules) in rules.iter_mut().enumerate() {
            for rule in rows.iter().filter_map(|row| row.rules.get(at)?.as_ref()) {
                if let Some(within) = &rule.within {
                    let within = rules.define(within, false);
                    let phase = rules.define(&rule.name, false);
                    rules.set_within(phase, within);
                }
                if let Some(until) = &rule.until {
                    let until = rules.define(until, false);
                    let phase = rules.define(&rule.name, false);
                    rules.set_until(phase, until);
                }
                let named = if rule.value.is_none() { Some(&rule.name) } else { None };
                for name in rule.names.values().chain(named) {
                    let phase = rules.define(name, false);
                    rules.leave_to_markers(phase);
                }
            }
        }
        if rows.iter().any(|row| row.marker.value == MarkerValue::Text) {
            for rules in rules {
                rules.leave_all_to_markers(&tables.texts);
            }
        }
        Self { rows, texts: tables.texts.clone(), known: HashMap::new() }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What a marker event does to a process with these rules, which are number `profile` of those in use.
    pub fn hit(&mut self, id: u32, kind: u8, value: u64, profile: usize, rules: &mut Rules) -> Hit {
        let Some(row) = self.rows.get(id as usize) else { return Hit::Nothing };
        if kind != BEGIN && kind != END {
            return Hit::Nothing;
        }
        // An end that says nothing ends the innermost; one that says what is no phase ends nothing.
        if kind == END && row.marker.value == MarkerValue::None {
            return Hit::End { phase: None };
        }
        let phase = match self.known.get(&(id, profile, value)) {
            Some(phase) => *phase,
            None => {
                let phase = row.name(profile, value, &self.texts).map(|name| rules.define(&name, false));
                self.known.insert((id, profile, value), phase);
                phase
            }
        };
        match phase {
            None => Hit::Nothing,
            Some(phase) if kind == END => Hit::End { phase: Some(phase) },
            Some(phase) => {
                Hit::Begin { phase, function: row.function, ends: row.marker.ends_by == MarkerEnd::Explicit }
            }
        }
    }

    /// Whether end markers of one row belong to begin markers of another.
    pub fn ends(&self, end: u32, begin: u32) -> bool {
        let name = |id: u32| self.rows.get(id as usize).map(|row| &row.marker.name);
        end == begin || name(end) == name(begin)
    }
}

impl Row {
    /// The name of the phase that a value stands for.
    fn name(&self, profile: usize, value: u64, texts: &[String]) -> Option<String> {
        let rule = self.rules.get(profile).and_then(Option::as_ref);
        match self.marker.value {
            MarkerValue::None => Some(self.marker.name.clone()),
            MarkerValue::Number => match rule {
                Some(rule) => rule.names.get(&value.to_string()).cloned(),
                None => Some(format!("{} {value}", self.marker.name)),
            },
            MarkerValue::Text => {
                let text = usize::try_from(value).ok().and_then(|value| texts.get(value))?;
                let ignored = rule.is_some_and(|rule| rule.ignore.iter().any(|pattern| glob(pattern, text)));
                (!ignored).then(|| text.clone())
            }
        }
    }
}
