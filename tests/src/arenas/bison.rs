//! GNU bison from Debian's source package, built with its obstacks swapped for malloc and free (`workloads/arenas/bison`).
//! Responsible for fetching, building and caching it, and for grammars to feed it; not for what it allocates.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::requirements::find_program;
use crate::workload::scratch_dir;

/// Calls stay calls, and each is logged.
const C_FLAGS: &str = "-O1 -g -fno-inline -fno-optimize-sibling-calls -finstrument-functions";
/// Obstacks are bison's own, not the C library's.
const CONFIGURE: &[&str] = &[
    "--disable-nls",
    "--disable-dependency-tracking",
    "--disable-yacc",
    "ac_cv_func_obstack=no",
    "ac_cv_func_obstack_printf=no",
];
/// What stands in for parts of bison: file here, place there.
const REPLACED: &[(&str, &str)] =
    &[("bison/obstack.h", "lib/obstack.h"), ("bison/obstack.c", "lib/obstack.c"), ("log.h", "lib/arena_log.h")];

/// A built bison.
#[derive(Debug, Clone)]
pub struct Bison {
    /// The executable.
    pub program: PathBuf,
    /// Its skeletons: `$BISON_PKGDATADIR`.
    pub data: PathBuf,
    /// Unpacked sources.
    pub source: PathBuf,
}

impl Bison {
    /// Bison, built now if it was not yet.
    ///
    /// # Errors
    /// Why there is none: no apt, no network, no rights. A build that fails panics.
    pub fn built() -> Result<Self, String> {
        let folder = scratch_dir().join("bison");
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let folder = folder.canonicalize().map_err(|error| error.to_string())?;
        let lock = std::fs::File::create(folder.join(".lock")).map_err(|error| error.to_string())?;
        lock.lock().map_err(|error| error.to_string())?;
        let source = folder.join("source");
        if !source.join("configure").is_file() {
            fetch(&folder, &source)?;
        }
        let build = folder.join("build");
        let ours = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/workloads/arenas"));
        let changed: Vec<bool> =
            REPLACED.iter().map(|(from, to)| replace(&ours.join(from), &source.join(to))).collect();
        if changed.contains(&true) {
            // Without dependency tracking make does not know who includes what.
            forget_objects(&build);
        }
        build_bison(&source, &build);
        Ok(Self { program: build.join("src/bison"), data: source.join("data"), source })
    }

    /// Grammars that come with bison, none an edit of another.
    pub fn grammars(&self) -> Vec<PathBuf> {
        [
            "src/parse-gram.y",
            "examples/c/bistromathic/parse.y",
            "examples/c/glr/c++-types.y",
            "examples/c/lexcalc/parse.y",
            "examples/c/mfcalc/mfcalc.y",
            "examples/c++/calc++/parser.yy",
        ]
        .map(|grammar| self.source.join(grammar))
        .to_vec()
    }
}

/// Debian's source package, with the mirrors that apt knows and lists of its own.
fn fetch(folder: &Path, source: &Path) -> Result<(), String> {
    for needed in ["apt-get", "dpkg-source", "m4", "make"] {
        find_program(needed).ok_or_else(|| format!("`{needed}` is not installed"))?;
    }
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "deb-src $(SITE) $(RELEASE) $(COMPONENT)"])
        .args(["Created-By: Packages", "Origin: Debian"])
        .output()
        .map_err(|error| error.to_string())?;
    let mut lines: Vec<&str> = std::str::from_utf8(&output.stdout).unwrap_or("").lines().collect();
    lines.sort_unstable();
    lines.dedup();
    if lines.is_empty() {
        return Err("apt knows no mirror of Debian".to_owned());
    }
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).map_err(|error| error.to_string());
    write("sources.list", &(lines.join("\n") + "\n"))?;
    for empty in ["lists/partial", "archives/partial"] {
        std::fs::create_dir_all(folder.join(empty)).map_err(|error| error.to_string())?;
    }
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        let option = |name: &str, path: &str| format!("{name}={}", folder.join(path).display());
        command
            .arg("-qq")
            .args(["-o", &option("Dir::Etc::sourcelist", "sources.list")])
            .args(["-o", "Dir::Etc::sourceparts=/dev/null"])
            .args(["-o", &option("Dir::State::lists", "lists")])
            .args(["-o", &option("Dir::Cache", ".")])
            .args(["-o", "APT::Sandbox::User=root"])
            .args(arguments)
            .current_dir(folder);
        finish(command)
    };
    apt(&["update"])?;
    apt(&["source", "--download-only", "bison"])?;
    let files = std::fs::read_dir(folder).map_err(|error| error.to_string())?;
    let description = files
        .flatten()
        .map(|file| file.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "dsc"))
        .ok_or("apt fetched no source package")?;
    let _ = std::fs::remove_dir_all(source);
    let mut unpack = Command::new("dpkg-source");
    unpack.args(["--no-check", "-x"]).arg(description).arg(source);
    finish(unpack)
}

/// Copies a file where it differs; whether it did.
fn replace(from: &Path, to: &Path) -> bool {
    let wanted = std::fs::read(from).expect("a part of the tests can be read");
    if std::fs::read(to).is_ok_and(|found| found == wanted) {
        return false;
    }
    std::fs::write(to, wanted).expect("the target folder is writable");
    true
}

/// Removes what was compiled, in all folders.
fn forget_objects(folder: &Path) {
    for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = file.path();
        let kind = path.extension().unwrap_or_default();
        if path.is_dir() {
            forget_objects(&path);
        } else if kind == "o" || kind == "a" || path.ends_with("src/bison") {
            std::fs::remove_file(&path).expect("the target folder is writable");
        }
    }
}

fn build_bison(source: &Path, build: &Path) {
    if build.join("src/bison").is_file() {
        return;
    }
    let expect = |command: Command| finish(command).unwrap_or_else(|error| panic!("bison does not build: {error}"));
    if !build.join("Makefile").is_file() {
        std::fs::create_dir_all(build).expect("the target folder is writable");
        let mut configure = Command::new(source.join("configure"));
        configure.args(CONFIGURE).arg(format!("CFLAGS={C_FLAGS}")).current_dir(build);
        expect(configure);
    }
    let make = |arguments: &[&str]| {
        let mut make = Command::new("make");
        // The package's patches make it believe that the build system itself was out of date.
        make.args(["AUTOMAKE=:", "AUTOCONF=:", "ACLOCAL=:", "AUTOHEADER=:"]).args(arguments).current_dir(build);
        expect(make);
    };
    // Only a whole build, examples and all, would make the headers by itself.
    make(&["--eval=headers: ; $(MAKE) $(filter lib/%,$(BUILT_SOURCES))", "headers"]);
    make(&["-j2", "src/bison"]);
}

/// Runs a command; its last words when it fails.
fn finish(mut command: Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?} does not start: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = words.trim().lines().rev().take(20).collect();
    Err(format!("{command:?} failed: {}", last.into_iter().rev().collect::<Vec<_>>().join("\n")))
}
