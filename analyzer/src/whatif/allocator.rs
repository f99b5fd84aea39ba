//! Which allocators a replay can be tried with. Responsible for their names and for finding them; not for calling them (see `heap`).

use std::fmt;
use std::path::{Path, PathBuf};

use super::worker::HeapKind;
use crate::error::AnalysisError;

/// Where distributions put libraries.
const FOLDERS: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib64",
    "/usr/local/lib",
];
/// The file name of jemalloc's library.
const JEMALLOC: &str = "libjemalloc.so.2";

/// An allocator to replay with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allocator {
    /// The C library's malloc.
    Glibc,
    /// jemalloc, as the distribution has it.
    Jemalloc,
    /// mimalloc, built in.
    Mimalloc,
    /// A library that has malloc, loaded before all others.
    Library(PathBuf),
}

impl Allocator {
    /// Reads `glibc`, `jemalloc`, `mimalloc`, or a path, which has a `/` in it.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "glibc" => Self::Glibc,
            "jemalloc" => Self::Jemalloc,
            "mimalloc" => Self::Mimalloc,
            path if path.contains('/') => Self::Library(path.into()),
            _ => return None,
        })
    }

    /// What a measuring process needs to know of it.
    ///
    /// # Errors
    /// It is not on this machine; the message says what to install.
    pub(super) fn heap(&self) -> Result<HeapKind, AnalysisError> {
        match self {
            Self::Glibc => Ok(HeapKind::System),
            Self::Mimalloc => Ok(HeapKind::Mimalloc),
            Self::Jemalloc => {
                let folders = FOLDERS.map(Path::new);
                jemalloc_in(&folders).map(HeapKind::Library).ok_or(AnalysisError::NoJemalloc)
            }
            Self::Library(path) => match path.canonicalize() {
                Ok(path) => Ok(HeapKind::Library(path)),
                Err(source) => Err(AnalysisError::NoLibrary { path: path.clone(), source }),
            },
        }
    }
}

impl fmt::Display for Allocator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Glibc => formatter.write_str("glibc"),
            Self::Jemalloc => formatter.write_str("jemalloc"),
            Self::Mimalloc => formatter.write_str("mimalloc"),
            Self::Library(path) => path.display().fmt(formatter),
        }
    }
}

fn jemalloc_in(folders: &[&Path]) -> Option<PathBuf> {
    folders.iter().find_map(|folder| folder.join(JEMALLOC).canonicalize().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_are_told_apart() {
        assert_eq!(Allocator::parse("glibc"), Some(Allocator::Glibc));
        assert_eq!(Allocator::parse("./libhoard.so"), Some(Allocator::Library("./libhoard.so".into())));
        assert_eq!(Allocator::parse("tcmalloc"), None);
        assert_eq!(Allocator::parse(""), None);
    }

    #[test]
    fn a_library_that_is_not_there_is_said_in_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(jemalloc_in(&[folder.path()]), None);
        let missing = AnalysisError::NoJemalloc.to_string();
        assert!(missing.contains("apt-get install libjemalloc2") && !missing.contains('\n'), "{missing}");
        std::fs::write(folder.path().join(JEMALLOC), "").unwrap();
        assert!(jemalloc_in(&[Path::new("/nosuch"), folder.path()]).is_some());
        let other = Allocator::Library(folder.path().join("nosuch.so")).heap().unwrap_err().to_string();
        assert!(other.contains("nosuch.so"), "{other}");
    }
}
