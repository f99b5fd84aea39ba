//! The kernel's own log of probe hits (tracefs, `uprobe_events`): every call of chosen functions of one file, with its
//! arguments, written by the kernel's tracing code without any program of ours. Exact for any executable, also static
//! ones and those with an allocator inside. Needs root. Sees every process that runs the file, so the file should be one that
//! nobody else runs (`toolchain::private_rustc`).

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use object::{Object as _, ObjectSegment as _, ObjectSymbol as _};

use crate::truth::Counts;

/// One logged call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Function, or `FUNCTION_failed` for a return that says so.
    pub event: String,
    /// Thread id.
    pub tid: u32,
    /// First argument.
    pub first: u64,
    /// Second argument.
    pub second: u64,
    /// Third argument.
    pub third: u64,
}

/// Probes that log until `finish`.
pub struct ProbeLog {
    tracefs: PathBuf,
    instance: PathBuf,
    group: String,
    events: Vec<String>,
}

/// The allocator entry points that are logged where a file has them, and whether their result can be a failure: a
/// condition on the returned value.
const FUNCTIONS: &[(&str, Option<&str>)] = &[
    ("malloc", Some("first == 0")),
    ("calloc", Some("first == 0")),
    ("realloc", Some("first == 0")),
    ("reallocarray", Some("first == 0")),
    ("aligned_alloc", Some("first == 0")),
    ("memalign", Some("first == 0")),
    ("valloc", Some("first == 0")),
    ("pvalloc", Some("first == 0")),
    ("posix_memalign", Some("ret != 0")),
    ("free", None),
    ("sdallocx", None),
];

/// Where within a function the probe may stand so that the kernel need not single-step: known first instructions of
/// jemalloc's fast paths, as bytes (`None`: any) and the offset behind them. A pattern is straight-line code that leaves
/// the arguments alone, up to a conditional jump, which the kernel emulates. Any other function is probed at its first byte.
const CHEAP_PLACES: &[(&[Option<u8>], u64)] = &[
    // cmp $imm32,%rdi; jae
    (&[Some(0x48), Some(0x81), Some(0xff), None, None, None, None, Some(0x0f), Some(0x83)], 7),
    // mov $imm32,%rax; mov %rdi,%rdx; shr $30,%rdx; and $15,%edx; mov %rdi,%rcx; and $imm32,%rcx; shl $4,%edx;
    // cmp %rcx,%fs:disp32(%rax,%rdx); jne
    (
        &[
            Some(0x48),
            Some(0xc7),
            Some(0xc0),
            None,
            None,
            None,
            None,
            Some(0x48),
            Some(0x89),
            Some(0xfa),
            Some(0x48),
            Some(0xc1),
            Some(0xea),
            Some(0x1e),
            Some(0x83),
            Some(0xe2),
            Some(0x0f),
            Some(0x48),
            Some(0x89),
            Some(0xf9),
            Some(0x48),
            Some(0x81),
            Some(0xe1),
            None,
            None,
            None,
            None,
            Some(0xc1),
            Some(0xe2),
            Some(0x04),
            Some(0x64),
            Some(0x48),
            Some(0x39),
            Some(0x8c),
            Some(0x10),
            None,
            None,
            None,
            None,
            Some(0x0f),
            Some(0x85),
        ],
        39,
    ),
];

/// Tells the logs of one test process apart.
static NUMBER: AtomicU32 = AtomicU32::new(0);

impl ProbeLog {
    /// Begins to log every call of an allocator's entry points in this file. With `at_first_byte`, cheaper places are
    /// not used: dear (some 20 µs per call), but beyond doubt; the test of this oracle compares the two.
    pub fn start(file: &Path, at_first_byte: bool) -> Self {
        let tracefs = PathBuf::from("/sys/kernel/tracing");
        if !tracefs.join("uprobe_events").exists() {
            let status = Command::new("mount").args(["-t", "tracefs", "nodev"]).arg(&tracefs).status();
            assert!(status.is_ok_and(|status| status.success()), "cannot mount tracefs on {}", tracefs.display());
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let group = format!("htoracle_{}_{number}", std::process::id());
        let instance = tracefs.join("instances").join(&group);
        let mut log = Self { tracefs, instance, group, events: Vec::new() };
        std::fs::create_dir(&log.instance).expect("tracefs makes instances");
        log.write("trace_clock", "mono");
        log.write("options/overwrite", "0");
        log.write("buffer_size_kb", "131072");
        for (name, offset) in functions(file, at_first_byte) {
            let failure = FUNCTIONS.iter().find(|(each, _)| *each == name).and_then(|(_, failure)| *failure);
            let place = format!("{}:0x{offset:x}", file.display());
            log.add(&name, &format!("p:{}/{name} {place} first=%di:u64 second=%si:u64 third=%dx:u64", log.group), None);
            if let Some(condition) = failure {
                // Return probes go to the function's first byte: the return address must still be on top.
                let entry = entry_of(file, &name);
                let event = format!("{name}_failed");
                let definition = format!(
                    "r:{}/{event} {}:0x{entry:x} first=$retval:u64 second=$retval:u64 third=$retval:u64 ret=$retval:u32",
                    log.group,
                    file.display()
                );
                log.add(&event, &definition, Some(condition));
            }
        }
        assert!(!log.events.is_empty(), "{} has no allocator entry points", file.display());
        log.write(&format!("events/{}/enable", log.group), "1");
        log
    }

    fn add(&mut self, event: &str, definition: &str, filter: Option<&str>) {
        let path = self.tracefs.join("uprobe_events");
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("tracefs is writable");
        std::io::Write::write_all(&mut file, definition.as_bytes())
            .unwrap_or_else(|error| panic!("the kernel takes no probe `{definition}`: {error}"));
        self.events.push(event.to_owned());
        if let Some(filter) = filter {
            self.write(&format!("events/{}/{event}/filter", self.group), filter);
        }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.instance.join(name);
        std::fs::write(&path, text)
            .unwrap_or_else(|error| panic!("cannot write {text} to {}: {error}", path.display()));
    }

    /// Ends logging and returns every hit. Panics if the kernel dropped any: then this oracle knows nothing.
    pub fn finish(self) -> Vec<Hit> {
        self.write(&format!("events/{}/enable", self.group), "0");
        for entry in std::fs::read_dir(self.instance.join("per_cpu")).expect("tracefs lists CPUs").flatten() {
            let stats = std::fs::read_to_string(entry.path().join("stats")).expect("tracefs has per-CPU stats");
            for name in ["overrun", "commit overrun", "dropped events"] {
                let value = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                assert_eq!(value.map(str::trim), Some("0"), "the kernel's log overflowed ({name}):\n{stats}");
            }
        }
        let trace = std::fs::File::open(self.instance.join("trace")).expect("tracefs has a log");
        BufReader::new(trace)
            .lines()
            .map_while(Result::ok)
            .filter(|line| !line.starts_with('#') && !line.is_empty())
            .map(|line| parse(&line).unwrap_or_else(|| panic!("unreadable line in the kernel's log: {line}")))
            .collect()
    }
}

impl Drop for ProbeLog {
    fn drop(&mut self) {
        let _ = std::fs::write(self.instance.join(format!("events/{}/enable", self.group)), "0");
        // Probes can be removed once nothing uses them; the instance goes first.
        let _ = std::fs::remove_dir(&self.instance);
        let path = self.tracefs.join("uprobe_events");
        for event in &self.events {
            if let Ok(mut file) = std::fs::OpenOptions::new().append(true).open(&path) {
                let _ = std::io::Write::write_all(&mut file, format!("-:{}/{event}", self.group).as_bytes());
            }
        }
    }
}

/// `     rustc-1234    [001] ..... 12.345678: malloc: (0x55d0c0) first=24 second=7`
fn parse(line: &str) -> Option<Hit> {
    let (task, rest) = line.split_once(" [")?;
    let tid = task.trim().rsplit_once('-')?.1.parse().ok()?;
    let (_, rest) = rest.split_once(": ")?;
    let (event, rest) = rest.split_once(": ")?;
    let field = |name: &str| rest.split(' ').find_map(|part| part.strip_prefix(name)?.parse().ok());
    let (first, second, third) = (field("first=")?, field("second=")?, field("third=")?);
    Some(Hit { event: event.to_owned(), tid, first, second, third })
}

/// The allocator functions a file defines, each with the file offset of its probe. Functions at one address are one.
fn functions(file: &Path, at_first_byte: bool) -> Vec<(String, u64)> {
    let bytes = std::fs::read(file).expect("the probed file is readable");
    let mut by_offset = BTreeMap::new();
    for (name, _) in FUNCTIONS {
        if let Some(offset) = offset_of(&bytes, name) {
            by_offset.entry(offset).or_insert_with(|| (*name).to_owned());
        }
    }
    let place = |offset: u64| {
        let code = &bytes[offset as usize..];
        let fits =
            |pattern: &[Option<u8>]| pattern.iter().zip(code).all(|(want, got)| want.is_none_or(|want| want == *got));
        let cheap = CHEAP_PLACES.iter().find(|(pattern, _)| fits(pattern)).map_or(0, |(_, behind)| *behind);
        if at_first_byte { offset } else { offset + cheap }
    };
    by_offset.into_iter().map(|(offset, name)| (name, place(offset))).collect()
}

fn entry_of(file: &Path, name: &str) -> u64 {
    let bytes = std::fs::read(file).expect("the probed file is readable");
    offset_of(&bytes, name).expect("the function was found before")
}

fn offset_of(bytes: &[u8], name: &str) -> Option<u64> {
    let elf = object::File::parse(bytes).expect("the probed file is ELF");
    let symbol = elf
        .dynamic_symbols()
        .chain(elf.symbols())
        .find(|symbol| symbol.is_definition() && symbol.name() == Ok(name))?;
    let address = symbol.address();
    elf.segments().find_map(|segment| {
        let (start, (offset, size)) = (segment.address(), segment.file_range());
        (start..start + size).contains(&address).then(|| address - start + offset)
    })
}

/// The counts that these hits amount to, by the counting rules, for an allocator whose entry points do not call each
/// other. A failed call is taken back from its thread's last call of that function.
pub fn counts(hits: &[Hit]) -> Counts {
    let mut counts = Counts::default();
    let mut last: BTreeMap<(u32, &str), &Hit> = BTreeMap::new();
    for hit in hits {
        if let Some(function) = hit.event.strip_suffix("_failed") {
            let call = last.get(&(hit.tid, function)).expect("a return follows its call");
            match (function, call.first, call.second) {
                // realloc(p, 0) answers NULL and is no failure; it was counted as a free.
                ("realloc", 1.., 0) => continue,
                ("realloc", 1.., size) => {
                    counts.realloc_count -= 1;
                    counts.alloc_bytes -= size;
                }
                _ => {
                    counts.alloc_count -= 1;
                    counts.alloc_bytes -= requested(call);
                }
            }
            counts.failed_count += 1;
            continue;
        }
        last.insert((hit.tid, hit.event.as_str()), hit);
        match (hit.event.as_str(), hit.first, hit.second) {
            ("free" | "sdallocx", 0, _) => {}
            ("free" | "sdallocx", ..) | ("realloc", 1.., 0) => counts.free_count += 1,
            ("realloc", 1.., size) => {
                counts.realloc_count += 1;
                counts.alloc_bytes += size;
            }
            ("reallocarray", ..) => panic!("reallocarray is a wrapper around realloc: count that instead"),
            _ => {
                counts.alloc_count += 1;
                counts.alloc_bytes += requested(hit);
            }
        }
    }
    counts
}

fn requested(hit: &Hit) -> u64 {
    match hit.event.as_str() {
        "malloc" | "valloc" | "pvalloc" => hit.first,
        "calloc" => hit.first.saturating_mul(hit.second),
        "posix_memalign" => hit.third,
        // realloc(NULL, n), memalign(a, n), aligned_alloc(a, n).
        _ => hit.second,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_is_read() {
        let line = "           rustc-4711    [001] ...1. 12.345678: malloc: (0x55d0c0) first=24 second=7 third=9";
        let wanted = Hit { event: "malloc".to_owned(), tid: 4711, first: 24, second: 7, third: 9 };
        assert_eq!(parse(line), Some(wanted));
    }

    #[test]
    fn hits_amount_to_counts() {
        let hit = |event: &str, first, second| Hit { event: event.to_owned(), tid: 1, first, second, third: 0 };
        let hits = [
            hit("malloc", 10, 0),
            hit("calloc", 2, 30),
            hit("realloc", 0, 5),
            hit("realloc", 99, 50),
            hit("realloc", 99, 0),
            hit("realloc_failed", 0, 0),
            hit("realloc", 99, 77),
            hit("realloc_failed", 0, 0),
            hit("free", 0, 0),
            hit("free", 99, 0),
            hit("malloc", 1 << 60, 0),
            hit("malloc_failed", 0, 0),
        ];
        let wanted = Counts {
            alloc_count: 3,
            free_count: 2,
            realloc_count: 1,
            failed_count: 2,
            alloc_bytes: 10 + 60 + 5 + 50,
            ..Counts::default()
        };
        assert_eq!(counts(&hits), wanted);
    }
}
