//! Which phase an arena is open in. Responsible for reading that from paths of functions: phases that markers begin and end are among them
//! (see `phases::View`), the others are found by the rules of profiles.

use super::Input;
use super::atoms::{Book, NameId};
use crate::phases::phase_of;
use crate::profile::{PhaseRule, Profile, choose, glob};

/// Phases of the programs at hand.
pub(super) struct Phases<'a>(Vec<&'a PhaseRule>);

impl<'a> Phases<'a> {
    /// Those of the profiles that the processes of some traces have.
    pub(super) fn of(profiles: &'a [Profile], inputs: &[Input<'_>]) -> Self {
        let processes = || inputs.iter().flat_map(|input| &input.trace.tables.processes);
        let has_process = |profile: &&Profile| {
            processes().any(|process| choose(profiles, process).is_some_and(|chosen| chosen.name == profile.name))
        };
        Self(profiles.iter().filter(has_process).flat_map(|profile| &profile.phases).collect())
    }

    /// The innermost phase that functions open, given from the inside out.
    pub(super) fn innermost<'s>(
        &'s self,
        book: &'s Book,
        mut functions: impl Iterator<Item = NameId>,
    ) -> Option<&'s str> {
        let opens = |rule: &&&PhaseRule, function: &str| rule.stack.iter().any(|pattern| glob(pattern, function));
        functions.find_map(|function| {
            let name = book.name(function);
            phase_of(name).or_else(|| self.0.iter().find(|rule| opens(rule, name)).map(|rule| rule.name.as_str()))
        })
    }
}
