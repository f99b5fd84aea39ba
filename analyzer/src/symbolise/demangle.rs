//! Readable names. Responsible for Rust (legacy and v0) and C++ names and for clone suffixes; not for shortening (see
//! `report::width`).

use cpp_demangle::{DemangleOptions, ParseOptions};

/// Longest linkage name that is demangled; templates beyond it are shown raw.
const LONGEST_LINKAGE_NAME: usize = 16 * 1024;
/// Nesting that C++ names may have; real ones stay far below.
const DEEPEST_CPP_NAME: u32 = 128;

/// A name to show and the one in the symbol table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Demangled {
    /// Readable: no parameters, no return type, no hash, no clone suffix.
    pub name: String,
    /// As in the symbol table, where it differs from `name`, else empty.
    pub linkage_name: String,
}

/// Makes a linkage name readable. Fragments and clones of a function (`.cold`, `.part.0`, `.constprop.0`, …) get the
/// function's own name, so that they are one place in reports; the linkage name still tells them apart.
pub fn demangle(raw: &str) -> Demangled {
    let base = without_clone_suffix(raw);
    let name = readable(base).unwrap_or_else(|| base.to_owned());
    let linkage_name = if name == raw { String::new() } else { raw.to_owned() };
    Demangled { name, linkage_name }
}

fn readable(base: &str) -> Option<String> {
    if base.len() > LONGEST_LINKAGE_NAME
        || !(base.starts_with("_Z") || base.starts_with("_R") || base.starts_with("__Z"))
    {
        return None;
    }
    if let Ok(rust) = rustc_demangle::try_demangle(base) {
        return Some(format!("{rust:#}"));
    }
    let parsing = ParseOptions::default().recursion_limit(DEEPEST_CPP_NAME);
    let symbol = cpp_demangle::Symbol::new_with_options(base, &parsing).ok()?;
    let showing = DemangleOptions::new().no_params().no_return_type().recursion_limit(DEEPEST_CPP_NAME);
    symbol.demangle_with_options(&showing).ok().filter(|name| !name.is_empty())
}

/// Suffixes that compilers and BOLT give to parts and copies of a function; a number or hash may follow them.
const CLONE_SUFFIXES: [&str; 11] =
    ["cold", "warm", "part", "isra", "constprop", "lto_priv", "localalias", "clone", "llvm", "__uniq", "specialized"];

fn without_clone_suffix(raw: &str) -> &str {
    let mut rest = raw;
    loop {
        let Some((before, last)) = rest.rsplit_once('.') else { return rest };
        if before.is_empty() {
            return rest;
        }
        if CLONE_SUFFIXES.contains(&last) {
            rest = before;
            continue;
        }
        // `.part.0`, `.llvm.1234ABCD`: a number counts only after a known suffix, for `f.0` is a nested C function.
        let counted = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_hexdigit());
        match before.rsplit_once('.') {
            Some((stem, suffix)) if counted && !stem.is_empty() && CLONE_SUFFIXES.contains(&suffix) => rest = stem,
            _ => return rest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(raw: &str) -> String {
        demangle(raw).name
    }

    #[test]
    fn rust_names_lose_their_hash() {
        assert_eq!(name("_ZN4core3fmt9Formatter3pad17h0123456789abcdefE"), "core::fmt::Formatter::pad");
        assert_eq!(name("_ZN4core3fmt9Formatter3pad17h0123456789abcdefE.llvm.12345"), "core::fmt::Formatter::pad");
        assert_eq!(name("_RNvC6_123foo3bar"), "123foo::bar");
        assert_eq!(name("_RNvNtCs1234_7mycrate3foo3bar"), "mycrate::foo::bar");
    }

    #[test]
    fn cpp_names_lose_parameters_and_keep_templates() {
        assert_eq!(name("_Z16execute_one_passP8opt_pass"), "execute_one_pass");
        assert_eq!(name("_ZN5clang8ParseASTERNS_4SemaEbb"), "clang::ParseAST");
        assert_eq!(name("_ZNSt6vectorIiSaIiEE9push_backERKi"), "std::vector<int, std::allocator<int> >::push_back");
        assert_eq!(name("_Znwm"), "operator new");
    }

    #[test]
    fn clones_and_fragments_are_their_function_and_keep_their_linkage_name() {
        for raw in ["foo.cold", "foo.part.0", "foo.constprop.0.isra.0", "foo.cold.12", "foo.warm", "foo.llvm.9A8B7C"] {
            assert_eq!(demangle(raw), Demangled { name: "foo".into(), linkage_name: raw.into() });
        }
        assert_eq!(name("_ZN3fooC2Ev.part.0"), "foo::foo");
    }

    #[test]
    fn plain_names_stay_as_they_are() {
        for raw in
            ["malloc", "main.compileModule", "nested.0", ".cold", "heap.ArenaAllocator.alloc", "a {b} c", "_Zfoo", ""]
        {
            assert_eq!(demangle(raw), Demangled { name: raw.into(), linkage_name: String::new() });
        }
    }

    #[test]
    fn hostile_names_come_back_raw() {
        let deep = format!("_Z{}", "P".repeat(100_000));
        assert_eq!(name(&deep), deep);
        let deep = format!("_Z1fI{}iE", "P".repeat(10_000));
        assert!(!name(&deep).is_empty());
    }
}
