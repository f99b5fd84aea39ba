//! What unwind tables cost: rows, size, and time to build them and to read them from the cache, for the compilers at hand. The
//! bars are for rustc with its LLVM, which has the largest tables of those that a recording waits for; the files themselves are in
//! memory.
//!
//! `cargo bench -p probe-collector --bench unwind -- [--runs N] [--smoke]`; medians of N runs, one thread for each file as
//! in a recording.

#![expect(clippy::print_stdout, reason = "a benchmark's answer goes to standard output")]

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use probe_collector::unwind::{Source, TableCache, UnwindTable};

/// Longest that rustc's tables may take when they are built, ms.
const BUILT_BAR_MS: f64 = 1000.0;
/// And when they come from the cache.
const CACHED_BAR_MS: f64 = 200.0;
/// The subject that the bars are for.
const BARRED: &str = "rustc";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let smoke = arguments.iter().any(|argument| argument == "--smoke");
    let runs =
        arguments.iter().position(|argument| argument == "--runs").and_then(|at| arguments.get(at + 1)?.parse().ok());
    let runs: usize = if smoke { 1 } else { runs.unwrap_or(5) };
    println!("{:<14} {:>9} {:>6} {:>9} {:>10} {:>10}", "", "rows", "wide", "MiB", "built ms", "cached ms");
    let mut missed = Vec::new();
    let mut is_barred = false;
    for (name, files) in subjects(smoke) {
        let tables: Vec<UnwindTable> = files
            .iter()
            .map(|path| UnwindTable::build(&std::fs::read(path).expect("it can be read")).expect("it has a table"))
            .collect();
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let mut built = Vec::new();
        let mut cached = Vec::new();
        for run in 0..runs {
            let cache = TableCache::at(folder.path().join(run.to_string()));
            built.push(load(&cache, &files, Source::Built));
            cached.push(load(&cache, &files, Source::Cached));
        }
        let (built_ms, cached_ms) = (median_ms(&mut built), median_ms(&mut cached));
        println!(
            "{name:<14} {:>9} {:>6} {:>9.1} {:>10.0} {:>10.0}",
            tables.iter().map(UnwindTable::row_count).sum::<u64>(),
            tables.iter().map(|table| table.wide.len()).sum::<usize>(),
            tables.iter().map(|table| table.words.len() * 8).sum::<usize>() as f64 / f64::from(1 << 20),
            built_ms,
            cached_ms,
        );
        if name == BARRED {
            is_barred = true;
            let bars = [("built in", built_ms, BUILT_BAR_MS), ("read from the cache in", cached_ms, CACHED_BAR_MS)];
            for (what, ms, bar) in bars {
                let line = format!("{name}: {what} {ms:.0} ms (bar {bar:.0})");
                println!("  {line}");
                if ms > bar {
                    missed.push(line);
                }
            }
        }
    }
    for line in &missed {
        println!("MISSED: {line}");
    }
    if !is_barred && !smoke {
        println!("{BARRED} is not at hand: no bar is measured");
    } else if missed.is_empty() && !smoke {
        println!("every bar is met");
    }
}

fn load(cache: &TableCache, files: &[PathBuf], expected: Source) -> Duration {
    let began = Instant::now();
    thread::scope(|scope| {
        for path in files {
            scope.spawn(move || {
                let file = File::open(path).expect("it can be opened");
                let (_, source) = cache.get(&file, &[]).expect("it has a table");
                assert!(source == expected || expected == Source::Cached, "{}", path.display());
            });
        }
    });
    began.elapsed()
}

fn median_ms(times: &mut [Duration]) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

fn subjects(smoke: bool) -> Vec<(&'static str, Vec<PathBuf>)> {
    let itself = vec![std::env::current_exe().expect("a bench knows its path")];
    if smoke {
        return vec![("this program", itself)];
    }
    let line = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok()?;
        Some(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
    };
    let rustc: Vec<PathBuf> = line("rustc", &["--print", "sysroot"])
        .and_then(|root| std::fs::read_dir(root.join("lib")).ok())
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            name.starts_with("librustc_driver") || name.starts_with("libLLVM.so")
        })
        .collect();
    let cc1plus = line("g++", &["-print-prog-name=cc1plus"]).into_iter().collect();
    let llvm = vec![
        PathBuf::from("/usr/lib/llvm-19/lib/libLLVM.so.1"),
        PathBuf::from("/usr/lib/llvm-19/lib/libclang-cpp.so.19.1"),
    ];
    let all = [("this program", itself), ("rustc", rustc), ("cc1plus", cc1plus), ("clang-19", llvm)];
    all.into_iter()
        .map(|(name, files): (_, Vec<PathBuf>)| (name, existing(files)))
        .filter(|(_, files)| !files.is_empty())
        .collect()
}

fn existing(files: Vec<PathBuf>) -> Vec<PathBuf> {
    files.into_iter().filter(|path| Path::is_file(path)).collect()
}
