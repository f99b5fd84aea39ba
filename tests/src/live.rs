//! The gate of live tests: they need root and a kernel that takes eBPF programs and user-space probes, and they run one
//! at a time over all test processes of the machine's target folder. Responsible for that gate only.

use std::fs::File;
use std::path::Path;

use crate::command::is_root;
use crate::workload::scratch_dir;

/// Permission to record; held for the length of a test.
pub struct Live {
    _lock: File,
}

/// Why this machine cannot record, or nothing.
pub fn obstacle() -> Option<String> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Some("live tests need Linux on x86-64".to_owned());
    }
    if !is_root() {
        return Some("live tests need root".to_owned());
    }
    let probes = Path::new("/sys/bus/event_source/devices/uprobe/type");
    if !probes.exists() {
        return Some("this kernel has no user-space probes (CONFIG_UPROBE_EVENTS)".to_owned());
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("this kernel has no BTF (CONFIG_DEBUG_INFO_BTF)".to_owned());
    }
    None
}

/// Waits for the turn of this test, or says on standard error why it is skipped. Where live tests must not be skipped,
/// `HEAPTAPE_REQUIRE_LIVE=1` makes the obstacle a failure.
#[must_use = "the turn ends when this value is dropped"]
pub fn live() -> Option<Live> {
    if let Some(obstacle) = obstacle() {
        assert!(std::env::var_os("HEAPTAPE_REQUIRE_LIVE").is_none(), "HEAPTAPE_REQUIRE_LIVE is set, but {obstacle}");
        let thread = std::thread::current();
        eprintln!("SKIPPED {}: {obstacle}", thread.name().unwrap_or("live test"));
        return None;
    }
    let lock = File::create(scratch_dir().join("live.lock")).expect("the target folder is writable");
    lock.lock().expect("the target folder's file system has locks");
    Some(Live { _lock: lock })
}

/// Whether tests that take minutes are wanted (`HEAPTAPE_LONG=1`).
pub fn long() -> bool {
    let wanted = std::env::var_os("HEAPTAPE_LONG").is_some_and(|value| value == "1");
    if !wanted {
        eprintln!("SKIPPED the long form: set HEAPTAPE_LONG=1 to run it");
    }
    wanted
}
