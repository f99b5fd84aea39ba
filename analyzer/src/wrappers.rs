//! Functions that allocate on behalf of others. Responsible for the list of them; a *site* is an allocating stack without
//! the wrappers at its leaf (see `sites`). To teach heaptape a new wrapper for good, add its demangled name here; for one
//! report or one compiler, extend the list.

/// Whole demangled names, without parameters.
const NAMES: &[&str] = &[
    // C library and common C wrappers.
    "malloc",
    "calloc",
    "realloc",
    "reallocarray",
    "memalign",
    "aligned_alloc",
    "posix_memalign",
    "valloc",
    "pvalloc",
    "strdup",
    "strndup",
    "xmalloc",
    "xcalloc",
    "xrealloc",
    "xstrdup",
    "xstrndup",
    "xmemdup",
    "xzalloc",
    "emalloc",
    "ecalloc",
    "erealloc",
    "safe_malloc",
    "checked_malloc",
    "zmalloc",
    "je_malloc",
    "je_calloc",
    "je_realloc",
    "mi_malloc",
    "mi_calloc",
    "mi_realloc",
    "tc_malloc",
    "g_malloc",
    "g_malloc0",
    "g_realloc",
    "g_strdup",
    "CRYPTO_malloc",
    "CRYPTO_zalloc",
    "CRYPTO_realloc",
    "CRYPTO_strdup",
    // gcc and tcc.
    "xmalloc_failed",
    "tcc_malloc",
    "tcc_mallocz",
    "tcc_realloc",
    "tcc_strdup",
    "default_reallocator",
    "tal_realloc_impl",
    "tal_malloc_impl",
    "_obstack_newchunk",
    "_obstack_begin",
    "_obstack_begin_1",
    "_obstack_allocated_p",
    "obstack_alloc",
    // C++.
    "operator new",
    "operator new[]",
    "llvm::allocate_buffer",
    "llvm::safe_malloc",
    "llvm::safe_calloc",
    "llvm::safe_realloc",
    // Rust.
    "__rust_alloc",
    "__rust_alloc_zeroed",
    "__rust_realloc",
    "__rdl_alloc",
    "__rdl_alloc_zeroed",
    "__rdl_realloc",
    "__rg_alloc",
    "__rg_alloc_zeroed",
    "__rg_realloc",
    "__rustc::__rust_alloc",
    "__rustc::__rust_alloc_zeroed",
    "__rustc::__rust_realloc",
    "__rustc::__rdl_alloc",
    "__rustc::__rdl_alloc_zeroed",
    "__rustc::__rdl_realloc",
    "__rustc::__rg_alloc",
    "__rustc::__rg_alloc_zeroed",
    "__rustc::__rg_realloc",
];

/// Beginnings of demangled names, after leading `<` and `&` of Rust's qualified paths.
const PREFIXES: &[&str] = &[
    // C++ allocators and the parts of containers that only call them.
    "std::allocator<",
    "std::allocator_traits<",
    "__gnu_cxx::new_allocator<",
    "__gnu_cxx::__alloc_traits<",
    "std::__new_allocator<",
    "std::__allocate_guarded",
    "std::__allocator",
    "std::pmr::",
    "std::__1::allocator<",
    "std::__1::allocator_traits<",
    "std::__1::__allocate",
    "std::__1::__libcpp_allocate",
    "std::__1::__libcpp_operator_new",
    "llvm::MallocAllocator::",
    "llvm::SmallVectorBase<",
    "llvm::SmallVectorTemplateBase<",
    "llvm::SmallVectorTemplateCommon<",
    "llvm::BumpPtrAllocatorImpl<",
    // Rust's allocation layer.
    "alloc::alloc::",
    "alloc::raw_vec::",
    "std::alloc::",
    "std::sys::alloc::",
    "core::alloc::",
    "allocator_api2::",
    "hashbrown::raw::RawTableInner",
    "hashbrown::raw::alloc::",
    "tikv_jemallocator::",
    "jemallocator::",
    "mimalloc::",
    // Zig's allocator interface.
    "mem.Allocator.",
];

/// Middles of demangled C++ names whose class varies.
const MEMBERS: &[&str] = &["::_M_allocate", "::_M_create", "::_M_allocate_map", "::_M_get_node", "::_M_allocate_node"];

/// The known wrappers and those of the compiler at hand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wrappers {
    more: Vec<String>,
}

impl Wrappers {
    /// The known wrappers and these: whole demangled names without parameters, or beginnings of them that end with `*`.
    pub fn with(more: impl IntoIterator<Item = String>) -> Self {
        Self { more: more.into_iter().collect() }
    }

    /// Whether a function, by its demangled name, allocates on behalf of its caller.
    pub fn contains(&self, name: &str) -> bool {
        let path = name.trim_start_matches(['<', '&']);
        NAMES.contains(&name)
            || PREFIXES.iter().any(|prefix| path.starts_with(prefix))
            || MEMBERS.iter().any(|member| name.ends_with(member))
            || self.more.iter().any(|more| match more.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix) || name.starts_with(prefix),
                None => more == name,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_are_known_in_each_language() {
        for name in [
            "xmalloc",
            "operator new[]",
            "std::allocator<int>::allocate",
            "std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> >::_M_create",
            "std::_Vector_base<int, std::allocator<int> >::_M_allocate",
            "<alloc::raw_vec::RawVec<T,A>>::grow_one",
            "alloc::raw_vec::finish_grow",
            "<alloc::alloc::Global as core::alloc::Allocator>::allocate",
            "__rustc::__rust_alloc",
            "mem.Allocator.create__anon_123",
        ] {
            assert!(Wrappers::default().contains(name), "{name}");
        }
    }

    #[test]
    fn users_of_allocators_are_not_wrappers() {
        for name in [
            "main",
            "std::vector<int, std::allocator<int> >::push_back",
            "<alloc::vec::Vec<T> as core::clone::Clone>::clone",
            "alloc::vec::Vec<T,A>::push",
            "malloc_usable_size",
            "clang::ASTContext::Allocate",
            "",
        ] {
            assert!(!Wrappers::default().contains(name), "{name}");
        }
    }

    #[test]
    fn the_list_can_be_extended_by_names_and_beginnings() {
        let wrappers = Wrappers::with(["my_alloc".to_owned(), "pool::*".to_owned()]);
        for (name, expected) in
            [("my_alloc", true), ("my_allocator", false), ("pool::grow<int>", true), ("pools", false)]
        {
            assert_eq!(wrappers.contains(name), expected, "{name}");
        }
        assert!(wrappers.contains("malloc"));
    }
}
