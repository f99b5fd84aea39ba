//! Long function names made readable. Responsible for leaving out modules of types, template arguments and generics where a name is
//! too long; reports that programs read have names whole.

use crate::report::shorten;

/// Ends of names that only mark where stack traces end.
const MARKS: [&str; 2] = ["::__rust_end_short_backtrace", "::__rust_begin_short_backtrace"];

/// A name of at most so many letters. A longer one loses, as far as it must: the modules of types in angle brackets, what is in them,
/// the innermost first, its own outermost modules, at last its middle.
pub(crate) fn readable(name: &str, letters: usize) -> String {
    let fits = |name: &str| name.chars().count() <= letters;
    // An address has a module and an offset; the build id is for programs.
    let mut name = name.split_once(" (build id ").map_or(name, |(place, _)| place).to_owned();
    if fits(&name) {
        return name;
    }
    name = without_modules(&name);
    for kept in (1..depth(&name)).rev() {
        if fits(&name) {
            return name;
        }
        name = without_inner(&name, kept);
    }
    for mark in MARKS {
        if !fits(&name) && name.ends_with(mark) {
            name.truncate(name.len() - mark.len());
        }
    }
    for kept in [1, 0] {
        if kept == 0 && !fits(&name) {
            name = without_inner(&name, 0);
        }
        let mut short = name.as_str();
        while !fits(short) {
            let Some(rest) = without_outermost(short) else { break };
            short = rest;
        }
        if fits(short) {
            return short.to_owned();
        }
    }
    shorten(&name, letters).into_owned()
}

/// The name that all instances of a generic function or a template share.
pub(crate) fn generic(name: &str) -> String {
    without_inner(name, 0)
}

/// The name without its outermost module or namespace; none if only a type and a function are left.
fn without_outermost(name: &str) -> Option<&str> {
    let mut separators = Vec::new();
    let mut depth = 0i32;
    let bytes = name.as_bytes();
    for (at, letter) in bytes.iter().enumerate() {
        match letter {
            b'<' | b'(' | b'{' => depth += 1,
            b'>' | b')' | b'}' => depth -= 1,
            b':' if depth == 0 && bytes.get(at + 1) == Some(&b':') && bytes.get(at + 2) != Some(&b'<') => {
                separators.push(at);
            }
            _ => {}
        }
    }
    let first = *separators.first()?;
    let is_module = name[..first].chars().all(|letter| letter.is_alphanumeric() || letter == '_');
    (separators.len() >= 2 && is_module).then(|| &name[first + 2..])
}

/// The name with types in angle brackets without their modules: `<a::b::C as d::E>::f` is `<C as E>::f`.
fn without_modules(name: &str) -> String {
    let mut ends: Vec<(usize, bool)> = Vec::new();
    brackets(name, |opens, at| ends.push((at, opens)));
    let mut ends = ends.into_iter().peekable();
    let mut depth = 0usize;
    let mut short = String::with_capacity(name.len());
    let mut skipped = 0;
    for (at, letter) in name.char_indices() {
        if let Some((_, opens)) = ends.next_if(|(end, _)| *end == at) {
            depth = if opens { depth + 1 } else { depth.saturating_sub(1) };
        }
        if at < skipped {
            continue;
        }
        if depth > 0 && name[at..].starts_with("::") && !name[at + 2..].starts_with(['{', '<']) {
            let kept = short.trim_end_matches(|letter: char| letter.is_alphanumeric() || letter == '_').len();
            if kept < short.len() {
                short.truncate(kept);
                skipped = at + 2;
                continue;
            }
        }
        short.push(letter);
    }
    short
}

/// How deep angle brackets are nested.
fn depth(name: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    brackets(name, |opens, _| {
        depth = if opens { depth + 1 } else { depth.saturating_sub(1) };
        deepest = deepest.max(depth);
    });
    deepest
}

/// Calls back for each bracket: whether it opens, and where it is. The `>` of `->` and operators are none.
fn brackets(name: &str, mut each: impl FnMut(bool, usize)) {
    let bytes = name.as_bytes();
    for (at, letter) in bytes.iter().enumerate() {
        let before = at.checked_sub(1).map_or(0, |before| bytes[before]);
        match letter {
            b'<' if !name[..at].trim_end_matches('<').ends_with("operator") => each(true, at),
            b'>' if before != b'-' && before != b'=' && !name[..at].trim_end_matches('>').ends_with("operator") => {
                each(false, at);
            }
            _ => {}
        }
    }
}

/// The name with brackets up to a depth kept; what is in deeper ones becomes `…`. Rust's leading `<A as B>` holds the name itself: its
/// brackets do not count.
fn without_inner(name: &str, kept: usize) -> String {
    let mut short = String::with_capacity(name.len());
    // By open bracket, whether it counts: Rust's leading ones do not.
    let mut open: Vec<bool> = Vec::new();
    let mut from = 0;
    brackets(name, |opens, at| {
        let depth = open.iter().filter(|counts| **counts).count();
        if opens {
            let counts = !name[..at].chars().all(|letter| "<&".contains(letter));
            if counts && depth == kept {
                short.push_str(&name[from..at]);
            }
            open.push(counts);
        } else {
            let counted = open.pop().unwrap_or(false);
            if counted && depth == kept + 1 {
                let turbofish = short.ends_with("::");
                if turbofish {
                    short.truncate(short.len() - 2);
                } else {
                    short.push_str("<…>");
                }
                from = at + 1;
            }
        }
    });
    let depth = open.iter().filter(|counts| **counts).count();
    if depth <= kept {
        short.push_str(&name[from.min(name.len())..]);
    }
    short
}

#[cfg(test)]
mod tests {
    use super::{generic, readable};

    #[test]
    fn short_names_stay() {
        assert_eq!(readable("std::vector<int>::push_back", 60), "std::vector<int>::push_back");
        assert_eq!(readable("cc1plus+0x12 (build id 68b310b9)", 60), "cc1plus+0x12");
    }

    #[test]
    fn modules_go_first_and_then_arguments_the_innermost_first() {
        let name = "hash_table<gcc::map<gcc::tree, vec<int> >, xcallocator<int> >::expand";
        assert_eq!(readable(name, 60), "hash_table<map<tree, vec<int> >, xcallocator<int> >::expand");
        assert_eq!(readable(name, 52), "hash_table<map<…>, xcallocator<…> >::expand");
        assert_eq!(readable(name, 30), "hash_table<…>::expand");
    }

    #[test]
    fn types_of_qualified_paths_stay() {
        let name =
            "<hashbrown::raw::RawTable<(rustc::Ty, usize)>>::reserve_rehash::<hashbrown::map::make_hasher<rustc::Ty>>";
        assert_eq!(readable(name, 72), "<RawTable<(Ty, usize)>>::reserve_rehash::<make_hasher<Ty>>");
        let name = "<rustc_middle::ty::Ty<'tcx> as rustc_serialize::Decodable<rustc_metadata::DecodeContext>>::decode";
        assert_eq!(readable(name, 60), "<Ty<'tcx> as Decodable<DecodeContext>>::decode");
        assert_eq!(readable("a::b::c::{closure#0}::<very::long::Type<of::Things>>", 24), "a::b::c::{closure#0}");
    }

    #[test]
    fn own_modules_go_outermost_first() {
        let name = "rustc_query_impl::query_impl::resolver_for_lowering_raw::execute_query_non_incr::__rust_end_short_backtrace";
        assert_eq!(readable(name, 56), "resolver_for_lowering_raw::execute_query_non_incr");
    }

    #[test]
    fn operators_and_arrows_are_no_brackets() {
        assert_eq!(readable("operator<< <a_long_argument, another>", 20), "operator<< <…>");
        assert_eq!(readable("f<fn(int) -> long_result_type>::call", 20), "f<…>::call");
    }

    #[test]
    fn what_is_still_too_long_loses_its_middle() {
        let short = readable("a_very_long_function_name_without_any_brackets", 20);
        assert!(short.chars().count() == 20 && short.contains('…'), "{short}");
    }

    #[test]
    fn instances_share_a_name() {
        assert_eq!(generic("<alloc::raw_vec::RawVec<u8>>::grow_one"), "<alloc::raw_vec::RawVec<…>>::grow_one");
        assert_eq!(generic("a::f::<b::C<D>, E>"), "a::f");
    }
}
