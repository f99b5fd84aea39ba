//! Names of functions in profiles. Responsible for whether a symbol is meant; not for where symbols are.

use cpp_demangle::{DemangleOptions, ParseOptions};

/// Longest linkage name that is demangled.
const LONGEST_LINKAGE_NAME: usize = 16 << 10;
/// Nesting that C++ names may have.
const DEEPEST_CPP_NAME: u32 = 128;
/// Suffixes of parts of a function: entering one is not entering the function.
const FRAGMENTS: [&str; 3] = ["cold", "warm", "part"];
/// Suffixes of copies whose arguments may be passed otherwise.
const CHANGED: [&str; 2] = ["isra", "constprop"];
/// Words that mangled names abbreviate or do not hold.
const ABBREVIATED: [&str; 28] = [
    "allocator",
    "anonymous",
    "basic_string",
    "basic_istream",
    "basic_ostream",
    "basic_iostream",
    "clone",
    "closure",
    "const",
    "double",
    "extern",
    "false",
    "float",
    "guard",
    "isize",
    "lambda",
    "namespace",
    "operator",
    "short",
    "signed",
    "string",
    "thunk",
    "typeinfo",
    "unsafe",
    "unsigned",
    "usize",
    "virtual",
    "wchar_t",
];

/// Which functions are meant.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    pub(super) text: String,
    is_path: bool,
    /// A word that every mangled name of the path holds; empty if there is none.
    word: String,
}

impl Pattern {
    pub(super) fn new(text: &str) -> Self {
        let is_path = text.contains("::") || text.contains(['*', '<']);
        Self { text: text.to_owned(), is_path, word: most_telling_word(text) }
    }

    /// What every linkage name that is meant holds; empty if nothing is sure.
    pub(super) fn needle(&self) -> &str {
        if self.is_path { &self.word } else { &self.text }
    }

    /// Whether a symbol is meant. `plain_arguments`: the arguments must stand where the function's type says.
    pub(super) fn is_for(&self, symbol: &str, plain_arguments: bool) -> bool {
        if !self.is_path {
            return symbol == self.text;
        }
        if !symbol.contains(self.word.as_str()) {
            return false;
        }
        let mut suffixes = symbol.split('.').skip(1);
        if suffixes.any(|suffix| FRAGMENTS.contains(&suffix) || (plain_arguments && CHANGED.contains(&suffix))) {
            return false;
        }
        glob(&self.text, &path(symbol))
    }
}

/// The most telling word of a pattern that its mangled names are sure to hold: a long one, and the last of its path if
/// possible, since crates and namespaces are in many names.
fn most_telling_word(pattern: &str) -> String {
    // Next to a `*`, a word may be a part of one, which mangled names hold as well.
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut best = ("", false);
    let mut rest = pattern.trim_start_matches(|letter| !is_part(letter));
    while !rest.is_empty() {
        let end = rest.find(|letter| !is_part(letter)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        // A digit in front would be taken for a part of the length that mangled names give.
        let starts_well = !word.starts_with(|letter: char| letter.is_ascii_digit());
        let is_last = !behind.starts_with("::");
        let is_sure = word.len() >= 5 && word.is_ascii() && starts_well && !ABBREVIATED.contains(&word);
        if is_sure && (is_last, word.len()) >= (best.1, best.0.len()) {
            best = (word, is_last);
        }
        rest = behind.trim_start_matches(|letter| !is_part(letter));
    }
    best.0.to_owned()
}

/// A demangled path: no parameters, no hash, no suffix of a copy.
fn path(symbol: &str) -> String {
    let mangled = symbol.starts_with("_Z") || symbol.starts_with("_R");
    let base = if mangled { symbol.split('.').next().unwrap_or(symbol) } else { symbol };
    if !mangled || base.len() > LONGEST_LINKAGE_NAME {
        return symbol.to_owned();
    }
    if let Ok(rust) = rustc_demangle::try_demangle(base) {
        return format!("{rust:#}");
    }
    let parsing = ParseOptions::default().recursion_limit(DEEPEST_CPP_NAME);
    let showing = DemangleOptions::new().no_params().no_return_type().recursion_limit(DEEPEST_CPP_NAME);
    let parsed = cpp_demangle::Symbol::new_with_options(base, &parsing).ok();
    let shown = parsed.and_then(|parsed| parsed.demangle_with_options(&showing).ok());
    shown.filter(|name| !name.is_empty()).unwrap_or_else(|| base.to_owned())
}

/// Whether a text fits a pattern in which `*` stands for any text.
pub(super) fn glob(pattern: &str, text: &str) -> bool {
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

    fn is_for(pattern: &str, symbol: &str) -> bool {
        Pattern::new(pattern).is_for(symbol, true)
    }

    #[test]
    fn names_are_searched_by_what_few_of_them_hold() {
        let guard = "core::ptr::drop_in_place::<rustc_data_structures::profiling::VerboseTimingGuard>*";
        assert_eq!(most_telling_word(guard), "VerboseTimingGuard");
        assert_eq!(most_telling_word("clang::emitBackendOutput*"), "emitBackendOutput");
        assert_eq!(most_telling_word("std::vector<*>::push"), "vector", "the last word is too short");
        assert_eq!(most_telling_word("*::operator()"), "");
    }

    #[test]
    fn linkage_names_are_exact() {
        assert!(is_for("_Z13timevar_start12timevar_id_t", "_Z13timevar_start12timevar_id_t"));
        assert!(!is_for("_Z13timevar_start12timevar_id_t", "_Z13timevar_start12timevar_id_t.cold"));
        assert!(!is_for("tokenize_file", "tokenize_files"));
    }

    #[test]
    fn paths_are_demangled_and_fragments_left_out() {
        let drop = "core::ptr::drop_in_place::<rustc_data_structures::profiling::VerboseTimingGuard>*";
        let copy = "_RINvNtCsgEmfK2I1SDS_4core3ptr13drop_in_placeNtNtCs3MG2ofusW15_21rustc_data_structures9profiling18\
                    VerboseTimingGuardECsdqyVfVchmWC_18rustc_ast_lowering";
        assert!(is_for(drop, copy));
        assert!(is_for(drop, &format!("{copy}.llvm.123")));
        assert!(!is_for(drop, &format!("{copy}.cold")) && !is_for(drop, &format!("{copy}.llvm.123.cold")));
        assert!(is_for(
            "<rustc_data_structures::profiling::SelfProfilerRef>::verbose_generic_activity*",
            "_RNvMNtCs3MG2ofusW15_21rustc_data_structures9profilingNtB2_15SelfProfilerRef24verbose_generic_activity"
        ));
        assert!(is_for("core::fmt::Formatter::pad", "_ZN4core3fmt9Formatter3pad17h0123456789abcdefE"));
        assert!(is_for("clang::emitBackendOutput*", "_ZN5clang17emitBackendOutputERNS_16CompilerInstanceE"));
        assert!(is_for("std::vector<*>::push_back", "_ZNSt6vectorIiSaIiEE9push_backERKi"));
        assert!(is_for("ggc_*", "ggc_collect") && !is_for("ggc_*", "x_ggc_collect"));
        assert!(!is_for("ggc_*", "ggc_collect.part.0") && !is_for("ggc_*", "ggc_collect.isra.0"));
        assert!(Pattern::new("ggc_*").is_for("ggc_collect.constprop.0", false));
        assert!(is_for("*::operator()", "_ZN1fclEv"));
    }
}
