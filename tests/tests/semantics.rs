//! Programs with planted truth, recorded live: the trace must show exactly the calls they made.

use tests::live::live;
use tests::observed::Own;
use tests::scenario::{Checked, Scenario};
use tests::workload::built;

#[track_caller]
fn exact(name: &str, arguments: &[&str]) -> Checked {
    Scenario { arguments, ..Scenario::new(name) }.check()
}

#[test]
fn every_entry_point_in_every_outcome() {
    let Some(_live) = live() else { return };
    let checked = exact("basic", &[]);
    let planted = checked.truth.total();
    // Nobody but the program allocates in it: what the program planted is what `info` says.
    assert_eq!(checked.info.totals.failed_count, planted.failed_count);
    assert_eq!(checked.info.totals.alloc_count, planted.alloc_count);
    assert_eq!(checked.info.totals.free_count, planted.free_count);
    assert_eq!(checked.info.totals.realloc_count, planted.realloc_count);
    assert_eq!(checked.info.totals.alloc_bytes, planted.alloc_bytes);
    assert_eq!(checked.info.totals.live_at_end_bytes, planted.live_bytes as u64);
    assert_eq!(checked.info.totals.live_at_end_count, planted.live_count as u64);
}

#[test]
fn without_stacks_the_counts_are_the_same() {
    let Some(_live) = live() else { return };
    let checked = Scenario { options: &["--stacks", "none"], ..Scenario::new("basic") }.check();
    assert_eq!(checked.info.totals.alloc_count, checked.truth.total().alloc_count);
}

#[test]
fn static_programs() {
    let Some(_live) = live() else { return };
    exact("basic-static", &[]);
    exact("basic-static-pie", &[]);
    exact("fork-static", &[]);
}

#[test]
fn failures_for_want_of_address_space() {
    let Some(_live) = live() else { return };
    exact("rlimit", &[]);
}

#[test]
fn eight_threads() {
    let Some(_live) = live() else { return };
    let checked = exact("threads", &[]);
    for thread in &checked.truth.threads {
        let known = checked.observed.tables.threads.iter().any(|row| row.tid == thread.tid);
        assert!(known, "thread {} is not in the trace", thread.tid);
    }
}

#[test]
fn caches_of_exiting_threads_are_frees_of_the_dead() {
    let Some(_live) = live() else { return };
    let checked = exact("thread_exit", &[]);
    let cached = checked.truth.fact("cached_chunk_count");
    let seen = checked.info.totals.free_of_dead_count;
    assert!(seen >= cached, "{cached} chunks lay in caches of exiting threads, {seen} were seen given back");
    // Beside its chunks each thread gives back the cache itself, which no public call ever allocated.
    let threads = checked.truth.fact("exited_thread_count");
    let unknown = checked.info.totals.free_before_recording_count;
    assert!(unknown <= threads, "{unknown} frees of unknown blocks for {threads} threads");
}

#[test]
fn blocks_freed_by_other_threads() {
    let Some(_live) = live() else { return };
    exact("crossfree", &[]);
}

#[test]
fn addresses_reused_across_threads_at_once() {
    let Some(_live) = live() else { return };
    let variables = [("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1")];
    let checked = Scenario { variables: &variables, ..Scenario::new("reuse_race") }.check();
    let reuses = checked.truth.fact("cross_reuse_count");
    assert!(reuses > 100, "threads got each other's addresses only {reuses} times: the workload tested nothing");
}

#[test]
fn forks() {
    let Some(_live) = live() else { return };
    let checked = exact("fork", &[]);
    // The parent, its two children, a grandchild and a storm of 24.
    assert_eq!(checked.observed.tables.processes.len(), 28);
    assert_eq!(checked.truth.processes.len(), 28);
}

#[test]
fn new_images() {
    let Some(_live) = live() else { return };
    let leaf = built("leaf").display().to_string();
    for mode in ["fork-exec", "vfork-exec", "posix_spawn", "exec", "thread-exec", "failed-exec"] {
        let checked = exact("spawn", &[mode, &leaf]);
        assert_eq!(checked.observed.images.len(), checked.truth.processes.len(), "images of {mode}");
    }
    let leaf = built("leaf-static").display().to_string();
    let own = Own::SizesFrom { least_bytes: 2203, except: vec![72704] };
    for mode in ["fork-exec", "exec"] {
        let scenario = Scenario { arguments: &[mode, &leaf], own: Some(own.clone()), ..Scenario::new("spawn") };
        scenario.check();
    }
}

#[test]
fn a_vfork_child_works_in_its_parents_heap() {
    let Some(_live) = live() else { return };
    let leaf = built("leaf").display().to_string();
    let checked = exact("spawn", &["vfork-malloc", &leaf]);
    assert_eq!(checked.observed.images.len(), 1);
}

#[test]
fn prefixed_allocators_are_domains_of_their_own() {
    let Some(_live) = live() else { return };
    for prefix in ["je", "mi", "tc"] {
        let name = format!("prefixed-{prefix}");
        let checked = exact(&name, &[]);
        let shown: Vec<&str> = checked.info.domains.iter().map(|domain| domain.name.as_str()).collect();
        assert!(shown.iter().any(|domain| domain.contains(&format!("{prefix}_"))), "{shown:?}");
        assert!(shown.iter().any(|domain| domain.starts_with("libc")), "{shown:?}");
    }
    exact("prefixed-je-static", &[]);
}

#[test]
fn libraries_opened_and_closed_at_run_time() {
    let Some(_live) = live() else { return };
    let plugins = [built("plugin.so"), built("plugin_je.so")].map(|path| path.display().to_string());
    let checked = exact("dlopen", &[&plugins[0], &plugins[1]]);
    let shown: Vec<&str> = checked.info.domains.iter().map(|domain| domain.name.as_str()).collect();
    assert!(shown.iter().any(|domain| domain.contains("plugin_je")), "{shown:?}");
}

#[test]
fn an_interposed_malloc_left_by_longjmp() {
    let Some(_live) = live() else { return };
    exact("own_malloc", &[]);
    // That calls never returned is said: it could have been the kernel that skipped their return probes.
    let recording = tests::recorder::Record::new([built("own_malloc")]).options(&["--quiet"]).finish().expect_status(0);
    let said = tests::recorder::json("info", &recording.trace).to_string();
    assert!(said.contains("left without a return"), "{said}");
}

#[test]
fn a_block_that_comes_back_is_freed_anew() {
    let Some(_live) = live() else { return };
    let tunables = "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1";
    let record = tests::recorder::Record::new([built("returning")]).options(&["--quiet"]);
    let recording = record.variable("GLIBC_TUNABLES", tunables).finish().expect_status(0);
    tests::scenario::loss_free(&tests::observed::observe(&recording.trace, &Own::Modules), &recording.info());
}

/// Our programs keep what they know of a thread by its id, in 8192 places and a table for those whose place is taken.
#[test]
fn threads_that_share_a_place_of_the_recorders() {
    let Some(_live) = live() else { return };
    exact("same_slot", &["8192"]);
}

/// What becomes of a block whose realloc never came back is open; that everything else is exact is not.
#[test]
fn a_realloc_left_by_longjmp() {
    let Some(_live) = live() else { return };
    let scenario = Scenario { arguments: &["realloc"], ..Scenario::new("own_malloc") };
    let checked = scenario.check_all_but_truth();
    let [image] = &checked.observed.images[..] else { panic!("one process") };
    let (seen, planted) = (image.counts, checked.truth.total());
    assert_eq!(seen.alloc_count, planted.alloc_count);
    assert_eq!(seen.free_count, planted.free_count);
    assert_eq!(seen.realloc_count, planted.realloc_count);
    assert_eq!(seen.failed_count, planted.failed_count);
    assert!(checked.observed.replay.open_realloc_count() <= 20);
}

#[test]
fn exceptions_through_operator_new() {
    let Some(_live) = live() else { return };
    // libstdc++'s pool for exceptions in want of memory: 72,704 bytes.
    let own = Own::SizesFrom { least_bytes: 30_011, except: vec![72_704] };
    Scenario { own: Some(own), ..Scenario::new("bad_alloc") }.check();
}

#[test]
fn exceptions_through_an_operator_new_of_the_program() {
    let Some(_live) = live() else { return };
    exact("own_new", &["new"]);
}

/// Against malloc's promise, but it works unrecorded, so it has to work recorded.
#[test]
fn exceptions_through_a_malloc_of_the_program() {
    let Some(_live) = live() else { return };
    exact("own_new", &["malloc"]);
}

/// Order is given by the sequence; times follow it within a thread, and across threads nearly.
#[test]
fn times_follow_the_order() {
    let Some(_live) = live() else { return };
    for name in ["basic", "fork", "thread_exit", "crossfree"] {
        let violations = exact(name, &[]).observed.replay.time_violations;
        assert!(violations.is_empty(), "{name}:\n  {}", violations.join("\n  "));
    }
}

#[test]
fn a_rust_program() {
    let Some(_live) = live() else { return };
    let own = Own::SizesFrom { least_bytes: 40_009, except: Vec::new() };
    Scenario { own: Some(own), ..Scenario::new("system_alloc") }.check();
}

#[test]
fn two_stacks_in_one_thread() {
    let Some(_live) = live() else { return };
    exact("contexts", &[]);
}

#[test]
fn signal_handlers() {
    let Some(_live) = live() else { return };
    exact("signals", &["handler"]);
}

#[test]
fn ends_by_signals() {
    let Some(_live) = live() else { return };
    for (mode, status) in [("exit", 7), ("kill", 128 + libc::SIGKILL), ("abort", 128 + libc::SIGABRT)] {
        let checked = Scenario { arguments: &[mode], status, ..Scenario::new("signals") }.check();
        let ended = &checked.observed.replay.ended;
        assert!(ended.values().any(|reason| reason.starts_with("Exit")), "{mode}: {ended:?}");
    }
}
