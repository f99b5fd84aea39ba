//! A part of a file that cannot be decoded. Responsible for carrying the broken rule in words up to whoever knows the
//! file and the offset.

use std::fmt;

/// The rule that a part of the file breaks, as the end of a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage(Box<str>);

impl Damage {
    #[cold]
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into().into_boxed_str())
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<capnp::Error> for Damage {
    #[cold]
    fn from(error: capnp::Error) -> Self {
        Self::new(format!("its Cap'n Proto message is malformed ({error})"))
    }
}

impl From<std::str::Utf8Error> for Damage {
    #[cold]
    fn from(error: std::str::Utf8Error) -> Self {
        Self::new(format!("a text in it is no UTF-8 ({error})"))
    }
}
