//! Stack rules of a profile, applied to the frames of a trace. Responsible for which phases a code address stands for; not for
//! when they are open (see `tracker`).

use std::ops::Range;

use trace_format::{FrameId, StackId, Tables};

use crate::names::{Names, PlaceId};
use crate::profile::{PhaseRule, Profile, glob};

/// Number of a phase in a profile: `Rules::definitions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PhaseId(pub u32);

/// A phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// Only inside of this one.
    pub within: Option<PhaseId>,
    /// Over as soon as this one begins.
    pub until: Option<PhaseId>,
    /// Whether stacks may open it.
    pub by_stack: bool,
    /// Whether a frame that goes back is another call.
    pub repeats: bool,
}

/// A profile's phases and the frames that open them.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Name of the profile.
    pub profile: String,
    definitions: Vec<Definition>,
    /// Phases of all frames, frame after frame, outermost function first.
    flat: Vec<PhaseId>,
    of_frame: Vec<Range<u32>>,
    /// By stack, for segments: they are opened by whole paths, not by frames.
    of_stack: Option<Vec<Option<PhaseId>>>,
}

impl Rules {
    /// The rules of a profile for the frames of a trace. Time: distinct places × patterns.
    pub fn of(profile: &Profile, tables: &Tables, names: &Names) -> Self {
        let mut rules = Self { profile: profile.name.clone(), ..Self::default() };
        let phases: Vec<PhaseId> = profile.phases.iter().map(|rule| rules.define(&rule.name, true)).collect();
        for (rule, phase) in profile.phases.iter().zip(&phases) {
            rules.definitions[phase.0 as usize].repeats |= rule.repeats;
            if let Some(within) = &rule.within {
                rules.definitions[phase.0 as usize].within = Some(rules.define(within, false));
            }
            if let Some(until) = &rule.until {
                rules.definitions[phase.0 as usize].until = Some(rules.define(until, false));
            }
        }
        let mut of_place: Vec<Option<Option<PhaseId>>> = vec![None; names.place_count()];
        for at in 0..tables.frames.len() {
            let from = rules.flat.len() as u32;
            for place in names.places(FrameId::from(at)).iter().rev() {
                let phase = *of_place[place.0 as usize]
                    .get_or_insert_with(|| opened_by(&profile.phases, &phases, names, *place));
                // A function inlined into itself, or two functions of one phase, open it once.
                if let Some(phase) = phase
                    && !rules.flat[from as usize..].contains(&phase)
                {
                    rules.flat.push(phase);
                }
            }
            rules.of_frame.push(from..rules.flat.len() as u32);
        }
        rules
    }

    /// Phases that whole paths of functions open.
    pub fn by_paths() -> Self {
        Self { of_stack: Some(Vec::new()), ..Self::default() }
    }

    /// Says which phase each stack opens, if any.
    pub fn set_paths(&mut self, of_stack: Vec<Option<PhaseId>>) {
        self.of_stack = Some(of_stack);
    }

    /// Whether paths open phases.
    pub fn are_segments(&self) -> bool {
        self.of_stack.is_some()
    }

    /// Whether there is a phase of this name.
    pub fn has(&self, name: &str) -> bool {
        self.definitions.iter().any(|definition| definition.name == name)
    }

    /// Phases that a stack's innermost frame opens, outermost first.
    pub fn opened_by(&self, tables: &Tables, stack: StackId) -> &[PhaseId] {
        match &self.of_stack {
            None => self.of_frame(tables.stacks[stack.index()].frame),
            Some(of_stack) => of_stack.get(stack.index()).and_then(Option::as_ref).map_or(&[], std::slice::from_ref),
        }
    }

    /// The number of a phase, which is made if it is new.
    pub fn define(&mut self, name: &str, by_stack: bool) -> PhaseId {
        let at = self.definitions.iter().position(|definition| definition.name == name).unwrap_or_else(|| {
            self.definitions.push(Definition {
                name: name.to_owned(),
                within: None,
                until: None,
                by_stack,
                repeats: false,
            });
            self.definitions.len() - 1
        });
        PhaseId(at as u32)
    }

    /// Has stacks open no phase of this name any more: markers do.
    pub fn leave_to_markers(&mut self, phase: PhaseId) {
        self.definitions[phase.0 as usize].by_stack = false;
    }

    /// Has stacks open no phase that is called by one of these names.
    pub fn leave_all_to_markers(&mut self, names: &[String]) {
        for definition in self.definitions.iter_mut().filter(|definition| names.contains(&definition.name)) {
            definition.by_stack = false;
        }
    }

    /// Has a phase be one only inside of another.
    pub fn set_within(&mut self, phase: PhaseId, within: PhaseId) {
        self.definitions[phase.0 as usize].within = Some(within);
    }

    /// Has a phase be over as soon as another begins.
    pub fn set_until(&mut self, phase: PhaseId, until: PhaseId) {
        self.definitions[phase.0 as usize].until = Some(until);
    }

    /// What a phase is.
    pub fn definition(&self, phase: PhaseId) -> &Definition {
        &self.definitions[phase.0 as usize]
    }

    /// All phases.
    pub fn definitions(&self) -> &[Definition] {
        &self.definitions
    }

    /// Whether none of its phases is on any stack of the trace.
    pub fn is_blind(&self) -> bool {
        self.flat.is_empty() && self.of_stack.is_none()
    }

    /// Names of phases that no frame of the trace opens.
    pub fn unseen(&self) -> Vec<String> {
        let mut seen = vec![false; self.definitions.len()];
        for phase in &self.flat {
            seen[phase.0 as usize] = true;
        }
        let unseen =
            |(definition, seen): (&Definition, &bool)| (definition.by_stack && !seen).then(|| definition.name.clone());
        self.definitions.iter().zip(&seen).filter_map(unseen).collect()
    }

    /// Phases that a frame opens, outermost first.
    pub fn of_frame(&self, frame: FrameId) -> &[PhaseId] {
        let range = self.of_frame.get(frame.index()).map_or(0..0, |range| range.start as usize..range.end as usize);
        &self.flat[range]
    }
}

/// The phase of the first rule that names a function.
fn opened_by(rules: &[PhaseRule], phases: &[PhaseId], names: &Names, place: PlaceId) -> Option<PhaseId> {
    let function = &names.place(place).function;
    let at = rules.iter().position(|rule| rule.stack.iter().any(|pattern| glob(pattern, function)))?;
    Some(phases[at])
}
