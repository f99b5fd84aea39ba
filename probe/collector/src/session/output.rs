//! The file a recording goes to. Responsible for whose it is.

use std::{fs::File, io, path::Path};

use crate::CollectError;

/// The file a trace goes to; none where only the cost of probes is measured.
pub(super) struct Output(Option<File>);

impl Output {
    pub(super) fn create(path: &Path, floor: bool) -> Result<(Self, Box<dyn io::Write + Send>), CollectError> {
        if floor {
            return Ok((Self(None), Box::new(io::sink())));
        }
        let failed = |source| CollectError::Output { path: path.to_owned(), source };
        let file = File::create(path).map_err(failed)?;
        let sink = file.try_clone().map_err(failed)?;
        Ok((Self(Some(file)), Box::new(sink)))
    }

    /// The trace belongs to the person behind sudo.
    pub(super) fn give_to_user(&self) {
        let id = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
        if let (Some(file), Some(user), Some(group)) = (&self.0, id("SUDO_UID"), id("SUDO_GID")) {
            // A file system without owners is no reason to fail.
            let _ = std::os::unix::fs::fchown(file, Some(user), Some(group));
        }
    }

    /// Nothing was recorded: leave no empty file behind.
    pub(super) fn discard(&self, path: &Path) {
        if self.0.as_ref().is_some_and(|file| file.metadata().is_ok_and(|metadata| metadata.is_file())) {
            let _ = std::fs::remove_file(path);
        }
    }
}
