//! Files and folders that commands write. Responsible for whose they are: under sudo, those that a run makes belong to the person
//! behind it; what was there before keeps its owner.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufWriter, ErrorKind, Write as _},
    os::unix::fs::{OpenOptionsExt as _, fchown},
    path::Path,
};

use anyhow::Context as _;

/// Opens a file to write, made if need be.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(file) => {
            give_to_user(&file);
            Ok(file)
        }
        // A file of before, a device, a pipe.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => File::create(path),
        Err(error) => Err(error),
    }
}

/// Writes a whole file: all that `content` writes has reached the system.
pub(crate) fn write(
    path: &Path,
    content: impl FnOnce(&mut BufWriter<File>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let mut file = BufWriter::new(open(path).with_context(failed)?);
    content(&mut file).with_context(failed)?;
    file.flush().with_context(failed)
}

/// Makes a folder, and those above it that are missing.
pub(crate) fn create_folder(path: &Path) -> anyhow::Result<()> {
    folder(path).with_context(|| format!("cannot make the folder {}", path.display()))
}

fn folder(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        folder(parent)?;
    }
    match DirBuilder::new().create(path) {
        // By its descriptor, which is no link: what else gets this name meanwhile stays whose it is.
        Ok(()) => {
            let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
            if let Ok(folder) = OpenOptions::new().read(true).custom_flags(flags).open(path) {
                give_to_user(&folder);
            }
            Ok(())
        }
        // Somebody else made it meanwhile, or the path ends in `..`.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && fs::metadata(path)?.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// As the recorder does with traces.
fn give_to_user(file: &File) {
    let id = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if let (Some(user), Some(group)) = (id("SUDO_UID"), id("SUDO_GID")) {
        // Without root, or on a file system without owners, it stays whose it is: no reason to fail.
        let _ = fchown(file, Some(user), Some(group));
    }
}
