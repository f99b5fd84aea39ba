//! What counts as one row of `sites`. Responsible for the key of an allocating stack: the whole stack, its innermost
//! frames, its function, its file, or its crate or namespace; not for weighing (see `sites`).

use serde::Serialize;

use crate::names::{Names, Place, PlaceId, base_name};
use crate::site_tree::{NO_SITE, SiteId, SiteTree};

/// Which stacks are one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grouping {
    /// Equal stacks.
    #[default]
    Stack,
    /// Equal innermost frames, at most this many.
    Depth(usize),
    /// The same allocating function, wherever it was called from.
    Function,
    /// The same source file.
    File,
    /// The same outermost namespace or crate; for C, the same program or library.
    Namespace,
}

/// What the stacks of one row have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GroupKey {
    /// This path.
    Path(SiteId),
    /// These innermost places, innermost first.
    Frames(Vec<PlaceId>),
    /// This name.
    Name(String),
}

/// Name of the row of stacks that were not taken.
const NO_STACK: &str = "[no stack]";

impl Grouping {
    /// The row of a site. O(1), for `Depth(k)` O(k).
    pub fn key(self, tree: &SiteTree, names: &Names, site: SiteId) -> GroupKey {
        let named = |name: fn(&Place) -> String| {
            let leaf = tree.path(site).next().map(|place| names.place(place));
            GroupKey::Name(leaf.map_or_else(|| NO_STACK.to_owned(), name))
        };
        match self {
            Self::Stack => GroupKey::Path(site),
            Self::Depth(depth) if site != NO_SITE => GroupKey::Frames(tree.path(site).take(depth).collect()),
            Self::Depth(_) => GroupKey::Name(NO_STACK.to_owned()),
            Self::Function => named(|place| place.function.clone()),
            Self::File => named(|place| match place.file.as_str() {
                "" => format!("[{}, no source file known]", base_name(&place.module)),
                file => file.to_owned(),
            }),
            Self::Namespace => named(namespace),
        }
    }
}

/// Outermost namespace, crate or class of a function; of a name without one, its program or library in brackets.
pub fn namespace(place: &Place) -> String {
    let module = || format!("[{}]", base_name(&place.module));
    if !place.resolved {
        return module();
    }
    let mut rest = place.function.as_str();
    // `<&mut a::B<T> as c::D>::e` belongs to `a`.
    loop {
        let stripped = ["<", "&", "*", "mut ", "const ", "dyn "].iter().find_map(|prefix| rest.strip_prefix(prefix));
        match stripped {
            Some(inner) => rest = inner,
            None => break,
        }
    }
    let end = rest.find("::").filter(|end| *end > 0 && !rest[..*end].contains(['<', ' ']));
    match end {
        Some(end) => rest[..end].to_owned(),
        None if rest.starts_with("(anonymous namespace)") => "(anonymous namespace)".to_owned(),
        // A template class outside of any namespace.
        None => match rest.split_once('<') {
            Some((class, arguments)) if !class.is_empty() && arguments.contains(">::") => class.to_owned(),
            _ => module(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(function: &str, resolved: bool) -> String {
        namespace(&Place { function: function.into(), module: "/usr/bin/cc1".into(), resolved, ..Place::default() })
    }

    #[test]
    fn crates_namespaces_and_classes_are_found_in_each_language() {
        for (function, expected) in [
            ("clang::Sema::ActOnTag", "clang"),
            ("<alloc::vec::Vec<T> as core::clone::Clone>::clone", "alloc"),
            ("<&mut rustc_middle::ty::Ty as core::fmt::Debug>::fmt", "rustc_middle"),
            ("rustc_parse::parser::Parser::parse_item", "rustc_parse"),
            ("tree_node::size", "tree_node"),
            ("hash_table<int, xcallocator>::expand", "hash_table"),
            ("(anonymous namespace)::Pass::run", "(anonymous namespace)"),
            ("operator new", "[cc1]"),
            ("main", "[cc1]"),
            ("foldl<a::B>", "[cc1]"),
            ("", "[cc1]"),
        ] {
            assert_eq!(of(function, true), expected, "{function}");
        }
        assert_eq!(of("cc1+0x12 (build id 00::11)", false), "[cc1]");
    }
}
