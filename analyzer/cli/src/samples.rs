//! The sample traces that are part of the binary. Responsible for holding them.

/// A real compiler's recording; `samples/README.md` says how it was made.
pub(crate) const CC1PLUS: &[u8] = include_bytes!("../../../samples/cc1plus-small.htape");

/// What the built-in sample is.
pub(crate) const DESCRIPTION: &str = "GNU C++ 12 (cc1plus) compiling a small program at -O2";
