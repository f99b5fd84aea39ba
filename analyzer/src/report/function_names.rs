//! Long function names made readable. Responsible for leaving template arguments and generics out where a name is too long; reports
//! that programs read have names whole.

use super::width::shorten;

/// A name of at most so many letters. A longer one loses what is in its angle brackets, the innermost first, then its middle.
pub(super) fn readable(name: &str, letters: usize) -> String {
    let mut short = name.to_owned();
    let deepest = depth(name);
    for kept in (0..deepest).rev() {
        if short.chars().count() <= letters {
            break;
        }
        short = without_inner(name, kept);
    }
    shorten(&short, letters).into_owned()
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
            let counts = !(name[..at].chars().all(|letter| "<&".contains(letter)) || name[..at].ends_with("::"))
                || name[..at].ends_with("::");
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
    use super::readable;

    #[test]
    fn short_names_stay() {
        assert_eq!(readable("std::vector<int>::push_back", 60), "std::vector<int>::push_back");
    }

    #[test]
    fn arguments_go_the_innermost_first() {
        let name = "hash_table<map<tree, vec<int> >, xcallocator<int> >::expand";
        assert_eq!(readable(name, 52), "hash_table<map<…>, xcallocator<…> >::expand");
        assert_eq!(readable(name, 30), "hash_table<…>::expand");
    }

    #[test]
    fn types_of_qualified_paths_stay() {
        let name =
            "<hashbrown::raw::RawTable<(rustc::Ty, usize)>>::reserve_rehash::<hashbrown::map::make_hasher<rustc::Ty>>";
        assert_eq!(readable(name, 60), "<hashbrown::raw::RawTable<…>>::reserve_rehash");
        let name = "<rustc_middle::ty::Ty<'tcx> as rustc_serialize::Decodable<rustc_metadata::DecodeContext>>::decode";
        assert_eq!(readable(name, 70), "<rustc_middle::ty::Ty<…> as rustc_serialize::Decodable<…>>::decode");
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
}
