//! The model of glibc's malloc beside glibc's malloc: in a fresh process each block must lie where the model says. Responsible for calls
//! that reach all of its rules; not for what replays make of it.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use analyzer::whatif::{Glibc, Place};

const MALLOC: u64 = 0;
const CALLOC: u64 = 1;
const ALIGNED: u64 = 2;
const REALLOC: u64 = 3;
const FREE: u64 = 4;
const END: u64 = 5;

const MODELLED: &str = "glibc 2.36";

/// As in `mallocs.c`.
const THREADS: u64 = 4;

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// Mostly small, now and then one that gets a mapping of its own.
    fn size(&mut self) -> u64 {
        match self.below(100) {
            0..60 => self.below(200),
            60..90 => self.below(1200),
            90..98 => self.below(9000),
            98 => self.below(60_000),
            _ => self.below(300_000),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Call {
    what: u64,
    slot: u64,
    bytes: u64,
    alignment: u64,
    thread: u64,
}

/// Calls of so many threads, one after the other for a while each; every thread but the first ends.
fn calls(seed: u64, threads: u64) -> Vec<Call> {
    let mut random = Random(seed);
    let most = [100, 1000, 5000][seed as usize % 3];
    let (mut calls, mut live, mut next) = (Vec::new(), Vec::new(), 0);
    let mut running: Vec<u64> = (0..threads).collect();
    let mut thread = 0;
    for step in 0..20_000 {
        if random.below(40) == 0 {
            thread = running[random.below(running.len() as u64) as usize];
        }
        if step > 10_000 && thread != 0 && random.below(500) == 0 {
            calls.push(Call { what: END, slot: 0, bytes: 0, alignment: 0, thread });
            running.retain(|running| *running != thread);
            thread = 0;
        }
        let is_birth = live.is_empty() || live.len() < most && random.below(10) < 6;
        let (bytes, alignment) = (random.size(), 32 << random.below(4));
        if is_birth {
            let what = match random.below(20) {
                0 => CALLOC,
                1 => ALIGNED,
                _ => MALLOC,
            };
            calls.push(Call { what, slot: next, bytes, alignment, thread });
            live.push(next);
            next += 1;
            continue;
        }
        let at = random.below(live.len() as u64) as usize;
        if random.below(6) == 0 {
            calls.push(Call { what: REALLOC, slot: live[at], bytes: bytes.max(1), alignment, thread });
        } else {
            calls.push(Call { what: FREE, slot: live.swap_remove(at), bytes: 0, alignment, thread });
        }
    }
    calls
}

/// A great many blocks of which every other one goes at once, more than are sorted in one go: those that fit what comes next go last.
fn teardown(seed: u64) -> Vec<Call> {
    let mut random = Random(seed);
    let call = |what, slot, bytes| Call { what, slot, bytes, alignment: 0, thread: 0 };
    let mut calls: Vec<Call> =
        (0..30_000).map(|slot| call(MALLOC, slot, if slot < 26_000 { 1000 } else { 1500 })).collect();
    calls.extend((0..30_000).step_by(2).map(|slot| call(FREE, slot, 0)));
    calls.push(call(MALLOC, 30_000, 1400));
    calls.extend((30_001..50_000).map(|slot| call(MALLOC, slot, 100 + random.below(2500))));
    calls
}

fn program(folder: &Path) -> std::path::PathBuf {
    let program = folder.join("mallocs");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mallocs.c");
    let made = Command::new("cc").args(["-O1", "-fno-builtin", "-pthread", "-o"]).arg(&program).arg(source).status();
    assert!(made.expect("cc, which links Rust's programs too").success());
    program
}

fn addresses(folder: &Path, program: &Path, calls: &[Call]) -> Vec<u64> {
    let (asked, answered) = (folder.join("calls"), folder.join("addresses"));
    let words = calls.iter().flat_map(|call| [call.what, call.slot, call.bytes, call.alignment, call.thread]);
    let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    std::fs::write(&asked, bytes).expect("a temporary file");
    let done = Command::new(program).arg(&asked).arg(&answered).env_clear().status();
    assert!(done.expect("it was just built").success());
    let bytes = std::fs::read(&answered).expect("what it has written");
    bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect()
}

/// Blocks lie where the model says, each heap's first one aside, which says where the heap is. Returns how many did.
fn compare(seed: u64, calls: &[Call], real: &[u64]) -> usize {
    assert_eq!(calls.len(), real.len());
    let mut model = Glibc::new(THREADS as u32);
    // What the program's own threads take before the first call.
    for _ in 1..THREADS {
        model.allocate(0, 272, true);
    }
    let (mut places, mut heaps, mut same) = (HashMap::new(), HashMap::new(), 0);
    for (index, (call, real)) in calls.iter().zip(real).enumerate() {
        let Call { what, slot, bytes, alignment, thread } = *call;
        let thread = thread as u32;
        let place = match what {
            MALLOC | CALLOC => model.allocate(thread, bytes, what == CALLOC),
            ALIGNED => model.allocate_aligned(thread, bytes, alignment),
            REALLOC => model.reallocate(thread, places[&slot], bytes),
            END => {
                model.end(thread);
                continue;
            }
            _ => {
                model.free(thread, places.remove(&slot).expect("a live block"));
                continue;
            }
        };
        places.insert(slot, place);
        if let Place::Chunk { heap, at } = place {
            let offset = (u64::from(at) + 1) * 16;
            let base = *heaps.entry(heap).or_insert(real.wrapping_sub(offset));
            assert_eq!(real.wrapping_sub(base), offset, "seed {seed}, call {index}, {call:?}, heap {heap}");
            same += 1;
        } else if what == MALLOC || what == CALLOC {
            assert_eq!(real % 4096, 16, "seed {seed}, call {index}, {call:?}: a mapping of its own begins a page");
        }
    }
    same
}

/// The version of the C library that programs get here.
fn libc_version() -> String {
    let asked = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    asked.map_or_else(|error| error.to_string(), |asked| String::from_utf8_lossy(&asked.stdout).trim().to_owned())
}

#[test]
fn blocks_lie_where_the_model_says() {
    if libc_version() != MODELLED {
        eprintln!("skipped: the model is of {MODELLED}, here is {:?}", libc_version());
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = program(folder.path());
    for seed in 0..30 {
        for threads in [1, THREADS] {
            let calls = calls(seed, threads);
            let same = compare(seed, &calls, &addresses(folder.path(), &program, &calls));
            assert!(same > 8000, "seed {seed}: hardly any block was compared: {same}");
        }
    }
    let calls = teardown(1);
    assert_eq!(compare(1, &calls, &addresses(folder.path(), &program, &calls)), 50_000);
}
