//! The preloaded counter (`oracles/count.c`): builds it, adds it to a command, reads its numbers. Exact for programs
//! that use libc's allocator through its public symbols; blind to static programs and to allocators of their own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::truth::Counts;
use crate::workload::{build_if_changed, built_dir, run_compiler, scratch_dir};

/// What the counter saw in one process image.
#[derive(Debug, Clone)]
pub struct CountedImage {
    /// Process id.
    pub pid: u32,
    /// Process that started it.
    pub parent_pid: u32,
    /// How many counted calls came before any constructor ran (from the dynamic linker and libc itself).
    pub before_constructor_count: u64,
    /// Path of the executable.
    pub executable: PathBuf,
    /// Every call.
    pub all: Counts,
    /// Calls made from workload code.
    pub own: Counts,
}

/// Path of the built counter.
pub fn library() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let source = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/oracles/count.c"));
        let dir = scratch_dir().join("oracles");
        std::fs::create_dir_all(&dir).expect("the target folder is writable");
        let output = dir.canonicalize().expect("the folder was just made").join("count.so");
        let flags = ["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-fno-builtin", "-fPIC", "-shared"];
        build_if_changed(&output, [source.clone()], flags, |part| {
            let mut command = Command::new("gcc");
            command.args(flags).arg(&source).arg("-o").arg(part);
            run_compiler(command);
        });
        output
    })
}

/// The counter of one run: a folder for its files.
pub struct Counter {
    dir: tempfile::TempDir,
}

impl Default for Counter {
    fn default() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary folder can be made") }
    }
}

impl Counter {
    /// Variables that load the counter into a program and everything it starts.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("LD_PRELOAD", library().display().to_string()),
            ("COUNT_OUT", self.dir.path().join("count").display().to_string()),
            ("COUNT_OWN", built_dir().display().to_string()),
        ]
    }

    /// `env NAME=VALUE…`: to put in front of a command line, so that only what follows is counted, not who starts it.
    pub fn prefix(&self) -> Vec<String> {
        let variables = self.variables().into_iter().map(|(name, value)| format!("{name}={value}"));
        std::iter::once("env".to_owned()).chain(variables).collect()
    }

    /// What was counted, by image, in no particular order.
    pub fn images(&self) -> Vec<CountedImage> {
        let entries = std::fs::read_dir(self.dir.path()).expect("the folder is ours");
        entries
            .flatten()
            .map(|entry| {
                let bytes = std::fs::read(entry.path()).expect("the file is ours");
                parse(&bytes).unwrap_or_else(|| panic!("{} is not a counter file", entry.path().display()))
            })
            .collect()
    }

    /// The only image of an executable of this file name.
    pub fn image(&self, name: &str) -> CountedImage {
        let images = self.images();
        let mut matching = images.iter().filter(|image| image.executable.file_name().is_some_and(|file| file == name));
        let Some(image) = matching.next() else { panic!("the counter saw no {name}: {images:#?}") };
        assert!(matching.next().is_none(), "the counter saw several images of {name}: {images:#?}");
        image.clone()
    }
}

/// Layout of `struct image` in count.c.
fn parse(bytes: &[u8]) -> Option<CountedImage> {
    let word = |index: usize| Some(u64::from_le_bytes(bytes.get(16 + index * 8..24 + index * 8)?.try_into().ok()?));
    let counts = |first: usize| {
        Some(Counts {
            alloc_count: word(first)?,
            free_count: word(first + 1)?,
            realloc_count: word(first + 2)?,
            failed_count: word(first + 3)?,
            alloc_bytes: word(first + 4)?,
            ..Counts::default()
        })
    };
    let name = bytes.get(104..)?.split(|byte| *byte == 0).next()?;
    Some(CountedImage {
        pid: u32::from_le_bytes(bytes.strip_prefix(b"htcount1")?.get(..4)?.try_into().ok()?),
        parent_pid: u32::from_le_bytes(bytes.get(12..16)?.try_into().ok()?),
        before_constructor_count: word(0)?,
        all: counts(1)?,
        own: counts(6)?,
        executable: PathBuf::from(String::from_utf8_lossy(name).into_owned()),
    })
}
