//! Versions of the file format. Responsible for deciding who can read what; not for where the version stands in a file
//! (see the schema and `envelope`).

use std::fmt;

/// Version of the file layout. It rises only when an older reader would *misread* a file: new columns, operations,
/// tables and kinds of frames are skipped by older readers and need no new version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FormatVersion(pub u16);

impl FormatVersion {
    /// What this library writes.
    pub const CURRENT: Self = Self(1);
    /// The oldest it reads.
    pub const OLDEST_READABLE: Self = Self(1);

    /// Whether a reader that knows versions up to `reader` can read a file of this version.
    ///
    /// # Errors
    /// Says which side is too old and what to do about it.
    pub fn check_readable_by(self, reader: Self) -> Result<(), VersionRefusal> {
        if self > reader {
            return Err(VersionRefusal { file: self, reader, advice: "install a newer heaptape to read it" });
        }
        if self < Self::OLDEST_READABLE {
            return Err(VersionRefusal {
                file: self,
                reader,
                advice: "no such version was ever released: the file is damaged",
            });
        }
        Ok(())
    }
}

impl fmt::Display for FormatVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Why a version cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("trace format version {file} cannot be read by this heaptape, which reads up to {reader}: {advice}")]
pub struct VersionRefusal {
    /// Version of the file.
    pub file: FormatVersion,
    /// Newest version the reader knows.
    pub reader: FormatVersion,
    advice: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_and_equal_files_are_readable_newer_ones_say_what_to_do() {
        assert_eq!(FormatVersion(1).check_readable_by(FormatVersion(1)), Ok(()));
        assert_eq!(FormatVersion(1).check_readable_by(FormatVersion(7)), Ok(()));
        let refusal = FormatVersion(2).check_readable_by(FormatVersion(1)).unwrap_err().to_string();
        assert!(refusal.contains("version 2") && refusal.contains("install a newer heaptape"), "{refusal}");
        assert!(FormatVersion(0).check_readable_by(FormatVersion(1)).is_err());
    }
}
