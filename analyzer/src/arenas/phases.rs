//! Which phase an arena is open in. Responsible for reading that from paths of functions by the rules of profiles; phases that only
//! markers tell are not seen here (see `phases` of the crate for all of them).

use super::Input;
use super::atoms::{Book, NameId};
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
    pub(super) fn innermost(&self, book: &Book, mut functions: impl Iterator<Item = NameId>) -> Option<&'a str> {
        let opens = |rule: &&&PhaseRule, function: &str| rule.stack.iter().any(|pattern| glob(pattern, function));
        functions.find_map(|function| {
            let name = book.name(function);
            self.0.iter().find(|rule| opens(rule, name)).map(|rule| rule.name.as_str())
        })
    }
}
