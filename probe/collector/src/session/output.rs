//! The file a recording goes to. Responsible for whose it is, and for what stood there before: that is kept until the
//! recording has begun.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::fchown,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::CollectError;

/// The file a trace goes to; none where only the cost of probes is measured.
pub(super) struct Output {
    file: Option<Arc<Mutex<Held>>>,
    /// Whether the file was not there before.
    created: bool,
}

/// A file that is written to once the recording has begun.
struct Held {
    file: File,
    /// Whether it has.
    begun: bool,
    /// What is to be written first.
    waiting: Vec<u8>,
    /// Why it cannot be written: for the next who tries.
    failed: Option<io::Error>,
}

/// Where the trace is written to.
struct Sink(Arc<Mutex<Held>>);

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Output {
    /// Opens the file. If it is new, it is the person's behind sudo from the start, should the recorder be killed.
    pub(super) fn create(path: &Path, floor: bool) -> Result<(Self, Box<dyn Write + Send>), CollectError> {
        if floor {
            return Ok((Self { file: None, created: false }, Box::new(io::sink())));
        }
        let mut options = OpenOptions::new();
        options.write(true);
        let (file, created) = match options.create_new(true).open(path) {
            Ok(file) => (Ok(file), true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match options.create_new(false).open(path) {
                // A link to what is not there yet.
                Err(error) if error.kind() == io::ErrorKind::NotFound => (options.create(true).open(path), true),
                opened => (opened, false),
            },
            Err(error) => (Err(error), false),
        };
        let file = file.map_err(|source| CollectError::Output { path: path.to_owned(), source })?;
        let id = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
        if let (true, Some(user), Some(group)) = (created, id("SUDO_UID"), id("SUDO_GID")) {
            // A file system without owners is no reason to fail.
            let _ = fchown(&file, Some(user), Some(group));
        }
        let held = Arc::new(Mutex::new(Held { file, begun: false, waiting: Vec::new(), failed: None }));
        Ok((Self { file: Some(Arc::clone(&held)), created }, Box::new(Sink(held))))
    }

    /// The recording has begun: what stood in the file before goes.
    pub(super) fn begin(&self) {
        let Some(held) = &self.file else { return };
        let held = &mut *lock(held);
        held.begun = true;
        // What is no file may keep a writer waiting: that is for the thread that writes.
        if held.file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            held.failed = held.file.set_len(0).and_then(|()| held.file.write_all(&held.waiting)).err();
            held.waiting.clear();
        }
    }

    /// Nothing was recorded: leave no empty file behind.
    pub(super) fn discard(&self, path: &Path) {
        if self.created {
            let _ = std::fs::remove_file(path.canonicalize().as_deref().unwrap_or(path));
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let held = &mut *lock(&self.0);
        if let Some(error) = held.failed.take() {
            return Err(error);
        }
        if !held.begun {
            return held.waiting.write(bytes);
        }
        held.file.write_all(&held.waiting)?;
        held.waiting.clear();
        held.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
