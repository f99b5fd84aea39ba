//! What heaptape knows of a compiler: its phases, its allocator wrappers, what it leaks on purpose. Responsible for reading
//! profiles (TOML, see `samples/README.md`) and for choosing one for a process; not for applying it (see `phases`, `leaks`,
//! and the recorder for live markers).

mod check;

pub use check::{Check, Named, check_binaries, check_trace};

use serde::Deserialize;
use trace_format::{Process, Tables};

use crate::error::AnalysisError;
use crate::names::base_name;

/// A compiler's profile.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Profile {
    /// Such as `gcc`.
    pub name: String,
    /// File names of the executables it is for; `*` stands for anything.
    pub executables: Vec<String>,
    /// A symbol that one of the process's modules must have for its markers to be placed, by its linkage name.
    #[serde(default)]
    pub requires: Option<String>,
    /// Phases that stacks show.
    #[serde(default, rename = "phase")]
    pub phases: Vec<PhaseRule>,
    /// Functions to mark phases by while recording.
    #[serde(default, rename = "marker")]
    pub markers: Vec<LiveRule>,
    /// Functions that allocate on behalf of others, beside those known for all programs.
    #[serde(default)]
    pub wrappers: Vec<String>,
    /// Functions whose allocations, or whose callees' allocations, are meant to stay.
    #[serde(default)]
    pub intentional: Vec<String>,
    /// Why survivors of this compiler are expected, if it does not free what it has at its end.
    #[serde(default)]
    pub keeps: Option<String>,
}

/// A phase as stacks show it: open on a thread while one of these functions is on its stack.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PhaseRule {
    /// What to call it.
    pub name: String,
    /// Demangled names without parameters; `*` stands for anything. An inlined function counts where its stack frame shows it.
    pub stack: Vec<String>,
    /// Only inside of this phase.
    #[serde(default)]
    pub within: Option<String>,
    /// Over as soon as this phase begins, although the function goes on.
    #[serde(default)]
    pub until: Option<String>,
    /// It is begun again and again from one place, such as once per function compiled: then a frame of it that goes back in its
    /// code is taken for another call, not for a loop.
    #[serde(default)]
    pub repeats: bool,
}

/// Functions that mark phases while recording.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LiveRule {
    /// Name of the marker; the phase's name too, unless `value` says it.
    pub name: String,
    /// Entering one of these begins a phase: linkage names, or demangled paths with `*`.
    #[serde(default)]
    pub begin: Vec<String>,
    /// Entering one of these ends it. Without any, it ends when the function that began it has returned.
    #[serde(default)]
    pub end: Vec<String>,
    /// Entering one of these is a point in time.
    #[serde(default)]
    pub point: Vec<String>,
    /// Where the begin says which phase it is: a register with a number (`edi`), text at a pointer (`text rdx rcx` with its
    /// length, `text *(rdi+16)` up to a NUL).
    #[serde(default)]
    pub value: Option<String>,
    /// Phases by number: other numbers are no phases.
    #[serde(default)]
    pub names: std::collections::BTreeMap<String, String>,
    /// Texts that are no phases; `*` stands for anything.
    #[serde(default)]
    pub ignore: Vec<String>,
    /// Only inside of this phase.
    #[serde(default)]
    pub within: Option<String>,
    /// Over as soon as this phase begins, although the function goes on.
    #[serde(default)]
    pub until: Option<String>,
}

/// The profiles that come with heaptape, by file name.
const BUILT_IN: [(&str, &str); 5] = [
    ("gcc.toml", include_str!("../../samples/compilers/gcc.toml")),
    ("clang.toml", include_str!("../../samples/compilers/clang.toml")),
    ("rustc.toml", include_str!("../../samples/compilers/rustc.toml")),
    ("chibicc.toml", include_str!("../../samples/compilers/chibicc.toml")),
    ("tcc.toml", include_str!("../../samples/compilers/tcc.toml")),
];

impl Profile {
    /// Reads a profile. `path` is for messages.
    ///
    /// # Errors
    /// It is no TOML or says what no profile says; the message names line and field.
    pub fn parse(text: &str, path: &str) -> Result<Self, AnalysisError> {
        let profile: Self = toml::from_str(text)
            .map_err(|source| AnalysisError::Profile { path: path.to_owned(), what: source.to_string() })?;
        let wrong = |what: String| Err(AnalysisError::Profile { path: path.to_owned(), what });
        if profile.executables.is_empty() {
            return wrong("`executables` names none: it would never be chosen".to_owned());
        }
        for rule in &profile.phases {
            if rule.stack.is_empty() {
                return wrong(format!("the phase `{}` names no function", rule.name));
            }
        }
        for rule in &profile.markers {
            if rule.begin.is_empty() && rule.point.is_empty() {
                return wrong(format!("the marker `{}` names no function", rule.name));
            }
        }
        Ok(profile)
    }

    /// Whether it is for an executable, by the name of its file.
    pub fn is_for(&self, executable: &str) -> bool {
        self.executables.iter().any(|pattern| glob(pattern, base_name(executable)))
    }
}

/// The profiles that come with heaptape.
pub fn built_in() -> Vec<Profile> {
    BUILT_IN
        .iter()
        .map(|(name, text)| Profile::parse(text, name).unwrap_or_else(|error| panic!("built-in profile: {error}")))
        .collect()
}

/// The first profile for a process, by the name of its executable.
pub fn choose<'p>(profiles: &'p [Profile], process: &Process) -> Option<&'p Profile> {
    profiles.iter().find(|profile| profile.is_for(&process.name))
}

/// The profiles of a trace's processes, and which of them each process has.
pub(crate) fn in_use<'p>(profiles: &'p [Profile], tables: &Tables) -> (Vec<&'p Profile>, Vec<Option<usize>>) {
    let mut used: Vec<&Profile> = Vec::new();
    let of_process = tables.processes.iter().map(|process| {
        let profile = choose(profiles, process)?;
        Some(used.iter().position(|known| known.name == profile.name).unwrap_or_else(|| {
            used.push(profile);
            used.len() - 1
        }))
    });
    let of_process = of_process.collect();
    (used, of_process)
}

/// Whether a text fits a pattern in which `*` stands for any text. O(pattern × text) at worst.
pub fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(mut last) = parts.next() else { return rest.is_empty() };
    for next in parts {
        match rest.find(last) {
            Some(at) => rest = &rest[at + last.len()..],
            None => return false,
        }
        last = next;
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_profiles_are_sound_and_chosen_by_executable() {
        let profiles = built_in();
        for (executable, expected) in [
            ("cc1plus", Some("gcc")),
            ("/usr/lib/gcc/x86_64-linux-gnu/12/cc1", Some("gcc")),
            ("clang-19", Some("clang")),
            ("rustc", Some("rustc")),
            ("chibicc", Some("chibicc")),
            ("tcc", Some("tcc")),
            ("as", None),
        ] {
            let found = profiles.iter().find(|profile| profile.is_for(executable)).map(|profile| profile.name.as_str());
            assert_eq!(found, expected, "{executable}");
        }
    }

    #[test]
    fn globs_match_whole_texts() {
        for (pattern, text, expected) in [
            ("a*c", "abc", true),
            ("a*c", "abcd", false),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("*::run", "x::run", true),
            ("a*a", "a", false),
            ("**", "x", true),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_wrong_profile_says_where() {
        let error =
            Profile::parse("name = 'x'\nexecutables = ['x']\nphases = []\n", "my.toml").unwrap_err().to_string();
        assert!(error.contains("my.toml") && error.contains("phases"), "{error}");
        let error = Profile::parse("name = 'x'\nexecutables = []\n", "my.toml").unwrap_err().to_string();
        assert!(error.contains("never be chosen"), "{error}");
    }
}
