//! The programs with planted truth in `workloads/`: which there are and how they are built. Responsible for building
//! each once per change with explicit flags; not for running them.

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// How a workload is built. Calls of allocators must stay calls: no optimisation, no builtins.
const C_FLAGS: &[&str] = &[
    "-O0",
    "-g",
    "-fno-builtin",
    "-D_GNU_SOURCE",
    "-Wall",
    "-Wextra",
    "-Werror",
    // The plans ask for absurd sizes and go on with a block after a failed realloc: that is their point.
    "-Wno-alloc-size-larger-than",
    "-Wno-use-after-free",
];

/// The languages of workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Language {
    C,
    Cpp,
    Rust,
}

/// One program or library.
#[derive(Debug, Clone, Copy, Hash)]
struct Workload {
    name: &'static str,
    sources: &'static [&'static str],
    language: Language,
    flags: &'static [&'static str],
}

const fn c(name: &'static str, sources: &'static [&'static str], flags: &'static [&'static str]) -> Workload {
    Workload { name, sources, language: Language::C, flags }
}

/// Code as compilers are built: optimised, without frame pointers. Calls stay calls where the source says so.
const STACK_FLAGS: &[&str] = &["-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls", "-pthread"];

/// As [`STACK_FLAGS`], calling functions of libraries through stubs that are bound by the first call.
const STEPPED_FLAGS: &[&str] =
    &["-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls", "-fplt", "-Wl,-z,lazy", "-fcf-protection=none"];

/// The same with stubs that indirect jumps may go to.
const STEPPED_IBT_FLAGS: &[&str] = &[
    "-O2",
    "-fomit-frame-pointer",
    "-fno-optimize-sibling-calls",
    "-fplt",
    "-Wl,-z,lazy",
    "-fcf-protection=full",
    "-Wl,-z,ibtplt",
];

const MARKER_FLAGS: &[&str] = &["-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls", "-pthread", "-ldl"];

/// Optimised, but each call stays a call that the log of arenas sees (`arenas/log.h`).
const ARENA_FLAGS: &[&str] =
    &["-O1", "-fno-inline", "-fno-optimize-sibling-calls", "-finstrument-functions", "-pthread"];

const WORKLOADS: &[Workload] = &[
    c("arenas", &["arenas/planted.c"], ARENA_FLAGS),
    c("arenas-phases", &["arenas/phases.c"], &["-O1"]),
    c("arenas-real", &["arenas/planted.c"], &["-O1", "-pthread", "-DREAL_ARENAS"]),
    c("basic", &["basic.c"], &[]),
    c("basic-static", &["basic.c"], &["-static"]),
    c("basic-static-pie", &["basic.c"], &["-static-pie"]),
    c("churn", &["churn.c"], &["-pthread"]),
    c("churn-static", &["churn.c"], &["-pthread", "-static"]),
    c("commanded", &["commanded.c"], &["-pthread"]),
    c("contexts", &["contexts.c"], &[]),
    c("crossfree", &["crossfree.c"], &["-pthread"]),
    c("dlmopen", &["dlmopen.c"], &["-ldl"]),
    c("dlopen", &["dlopen.c"], &["-ldl"]),
    c("environment", &["environment.c"], &[]),
    c("exit_race", &["exit_race.c"], &["-pthread"]),
    c("fork", &["fork.c"], &[]),
    c("fork-static", &["fork.c"], &["-static"]),
    c("interrupts", &["interrupts.c"], &["-pthread"]),
    c("leaf", &["leaf.c"], &[]),
    c("leaf-static", &["leaf.c"], &["-static"]),
    c("leaf-static-stripped", &["leaf.c"], &["-static", "-s"]),
    c("leaderless", &["leaderless.c"], &["-pthread"]),
    c("marked", &["markers/marked.c"], MARKER_FLAGS),
    c("marked_inside", &["markers/inside.c"], &["-O2"]),
    c("marked_plugin.so", &["markers/plugin.c"], &["-O2", "-shared", "-fPIC"]),
    c("marked_static_probes", &["markers/static_probes.c"], &["-O2"]),
    c("marked_static_probes-static", &["markers/static_probes.c"], &["-O0", "-static"]),
    c("minicompiler", &["minicompiler.c"], &["-pthread"]),
    c("mt_fork", &["mt_fork.c"], &["-pthread"]),
    c("no_allocator", &["no_allocator.c"], &["-static", "-nostdlib"]),
    c("own_malloc", &["own_malloc.c"], &[]),
    c("plugin.so", &["plugin.c"], &["-shared", "-fPIC"]),
    c("plugin_je.so", &["plugin_je.c"], &["-shared", "-fPIC"]),
    c("prefixed-je", &["prefixed.c"], &["-DPREFIX=je_"]),
    c("prefixed-mi", &["prefixed.c"], &["-DPREFIX=mi_"]),
    c("prefixed-tc", &["prefixed.c"], &["-DPREFIX=tc_"]),
    c("prefixed-je-static", &["prefixed.c"], &["-DPREFIX=je_", "-static"]),
    c("reuse_race", &["reuse_race.c"], &["-pthread"]),
    c("rlimit", &["rlimit.c"], &[]),
    c("forks_on", &["forks_on.c"], &[]),
    c("returning", &["returning.c"], &["-pthread"]),
    c("same_slot", &["same_slot.c"], &[]),
    c("signals", &["signals.c"], &[]),
    c("spawn", &["spawn.c"], &["-pthread"]),
    c("stack_random", &["stacks/random.c"], STACK_FLAGS),
    c("stack_shapes", &["stacks/shapes.c", "stacks/cfi.S"], STACK_FLAGS),
    c("stack_stepped", &["stacks/stepped.c"], STEPPED_FLAGS),
    c("stack_stepped-ibt", &["stacks/stepped.c"], STEPPED_IBT_FLAGS),
    c("thread_storm", &["thread_storm.c"], &["-pthread"]),
    c("toy_malloc.so", &["toy_malloc.c"], &["-shared", "-fPIC"]),
    c("thread_exit", &["thread_exit.c"], &["-pthread"]),
    c("threads", &["threads.c"], &["-pthread"]),
    Workload { name: "bad_alloc", sources: &["bad_alloc.cpp"], language: Language::Cpp, flags: &["-std=c++17"] },
    Workload { name: "cpp_calls", sources: &["cpp_calls.cpp"], language: Language::Cpp, flags: &["-std=c++17"] },
    Workload {
        name: "marked_static_probes_rs",
        sources: &["markers/static_probes.rs"],
        language: Language::Rust,
        flags: &["-C", "opt-level=2"],
    },
    Workload {
        name: "marked_throws",
        sources: &["markers/throws.cpp"],
        language: Language::Cpp,
        flags: &["-std=c++17", "-O2"],
    },
    Workload {
        name: "own_new",
        sources: &["own_new.cpp", "own_new_malloc.c"],
        language: Language::Cpp,
        flags: &["-std=c++17"],
    },
    Workload {
        name: "stack_closed.so",
        sources: &["stacks/closed.cpp"],
        language: Language::Cpp,
        flags: &["-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls", "-shared", "-fPIC"],
    },
    Workload {
        name: "stack_shapes_cpp",
        sources: &["stacks/shapes.cpp"],
        language: Language::Cpp,
        flags: &["-std=c++17", "-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls"],
    },
    Workload {
        name: "stack_shapes_rs",
        sources: &["stacks/shapes.rs"],
        language: Language::Rust,
        flags: &["-C", "opt-level=2", "-C", "force-frame-pointers=no"],
    },
    Workload { name: "system_alloc", sources: &["system_alloc.rs"], language: Language::Rust, flags: &[] },
];

/// Names of all workloads.
pub fn names() -> impl Iterator<Item = &'static str> {
    WORKLOADS.iter().map(|workload| workload.name)
}

/// Where tests keep what they build: beside the test executables, so that `cargo clean` takes it away.
pub fn scratch_dir() -> PathBuf {
    let executable = std::env::current_exe().expect("a test knows its own path");
    let profile = executable.parent().and_then(Path::parent).expect("a test lies in target/PROFILE/deps");
    let dir = profile.join("heaptape-tests");
    std::fs::create_dir_all(&dir).expect("the target folder is writable");
    dir
}

/// The folder of built workloads. Code that lies in it is a workload's own.
pub fn built_dir() -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = scratch_dir().join("workloads");
        std::fs::create_dir_all(&dir).expect("the target folder is writable");
        dir.canonicalize().expect("the folder was just made")
    })
    .clone()
}

/// Folder of the sources.
fn source_dir() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/workloads"))
}

/// Path of a built workload, built now where its sources or flags changed. Panics with the compiler's words when it
/// does not build.
pub fn built(name: &str) -> PathBuf {
    let workload = WORKLOADS.iter().find(|each| each.name == name).unwrap_or_else(|| panic!("no workload is {name}"));
    let output = built_dir().join(name);
    let headers =
        ["truth.h", "phase_truth.h", "toy_allocator.h", "arenas/arena.h", "arenas/log.h", "../../samples/heaptape.h"];
    let sources: Vec<PathBuf> = workload.sources.iter().map(|source| source_dir().join(source)).collect();
    let inputs = sources.iter().cloned().chain(headers.iter().map(|header| source_dir().join(header)));
    build_if_changed(&output, inputs, workload, |part| compile(workload, &sources, part));
    output
}

fn compile(workload: &Workload, sources: &[PathBuf], output: &Path) {
    match workload.language {
        Language::Rust => {
            let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
            command
                .args(["--edition", "2024", "-C", "opt-level=0", "-g"])
                .args(workload.flags)
                .args(sources)
                .arg("-o")
                .arg(output);
            run_compiler(command);
        }
        Language::C => {
            let mut command = Command::new("gcc");
            command.args(C_FLAGS).args(sources).arg("-o").arg(output).args(workload.flags);
            run_compiler(command);
        }
        Language::Cpp => {
            // C parts are compiled as C, with exceptions allowed through them.
            let mut objects = Vec::new();
            let mut units = Vec::new();
            for source in sources {
                if source.extension().is_some_and(|extension| extension == "c") {
                    let object = output.with_extension(format!("{}.o", objects.len()));
                    let mut command = Command::new("gcc");
                    command.args(C_FLAGS).args(["-fexceptions", "-c"]).arg(source).arg("-o").arg(&object);
                    run_compiler(command);
                    objects.push(object);
                } else {
                    units.push(source);
                }
            }
            let mut command = Command::new("g++");
            command.args(C_FLAGS).args(workload.flags).args(units).args(&objects).arg("-o").arg(output);
            run_compiler(command);
            for object in objects {
                let _ = std::fs::remove_file(object);
            }
        }
    }
}

/// Runs a compiler; panics with its diagnostics when it fails.
pub(crate) fn run_compiler(mut command: Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    assert!(output.status.success(), "{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
}

/// Calls `build` with a temporary path and moves the result to `output`, unless what is there was built from the same
/// inputs by the same recipe. Safe among test processes that run at once.
pub(crate) fn build_if_changed(
    output: &Path,
    inputs: impl IntoIterator<Item = PathBuf>,
    recipe: impl std::hash::Hash,
    build: impl FnOnce(&Path),
) {
    let mut hasher = DefaultHasher::new();
    recipe.hash(&mut hasher);
    C_FLAGS.hash(&mut hasher);
    for input in inputs {
        let bytes = std::fs::read(&input).unwrap_or_else(|error| panic!("cannot read {}: {error}", input.display()));
        bytes.hash(&mut hasher);
    }
    let wanted = format!("{:016x}", hasher.finish());
    let mut name = output.file_name().expect("an output has a name").to_owned();
    name.push(".hash");
    let stamp = output.with_file_name(name);
    let is_current = || output.exists() && std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted);
    if is_current() {
        return;
    }
    let lock = File::create(output.with_file_name(".lock")).expect("the target folder is writable");
    lock.lock().expect("the target folder's file system has locks");
    if is_current() {
        return;
    }
    let part = output.with_file_name(format!(".part-{}", std::process::id()));
    build(&part);
    std::fs::rename(&part, output)
        .and_then(|()| std::fs::write(&stamp, wanted))
        .expect("the target folder is writable");
}
