//! The sample traces that are part of the binary. Responsible for handing one out as a file.

use std::{io, path::Path};

/// A real compiler's recording; `samples/README.md` says how it was made.
const CC1PLUS: &[u8] = include_bytes!("../../../samples/cc1plus-small.htape");

/// What the built-in sample is.
pub(crate) const DESCRIPTION: &str = "GNU C++ 12 (cc1plus) compiling a small program at -O2";

/// Writes the built-in sample to a file.
pub(crate) fn write(path: &Path) -> io::Result<()> {
    std::fs::write(path, CC1PLUS)
}
