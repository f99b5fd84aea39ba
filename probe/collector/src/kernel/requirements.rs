//! What a recording needs of machine, kernel and user. Responsible for saying in a sentence what is missing and how to
//! get it.

#![expect(unsafe_code, reason = "geteuid is a system call")]

use std::{fs, path::Path};

use crate::{error::CollectError, machine};

/// Something is missing.
pub(super) fn missing(what: impl std::fmt::Display) -> CollectError {
    CollectError::Unsupported { reason: what.to_string() }
}

/// Refuses machines and kernels we cannot record on, in a sentence.
pub(super) fn check_machine() -> Result<(), CollectError> {
    if !cfg!(target_arch = "x86_64") {
        return Err(missing("recording needs an x86-64 machine; traces can be analysed anywhere"));
    }
    if !has_capabilities() {
        // SAFETY: no preconditions.
        let is_root = unsafe { libc::geteuid() } == 0;
        return Err(missing(if is_root {
            "recording needs CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and CAP_SYS_ADMIN, which root lacks here: in a container, start \
             it with --privileged"
        } else {
            "recording needs root (or CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and CAP_SYS_ADMIN): run it with sudo"
        }));
    }
    if kernel_version() < (6, 1) {
        return Err(missing(format!("recording needs Linux 6.1 or newer, this is {}", machine::kernel_release())));
    }
    if !Path::new("/sys/bus/event_source/devices/uprobe").exists() {
        return Err(missing("this kernel has no uprobes (CONFIG_UPROBE_EVENTS): use a kernel built with them"));
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err(missing("this kernel has no type information (CONFIG_DEBUG_INFO_BTF): use a kernel built with it"));
    }
    Ok(())
}

/// Major and minor version of the running kernel.
pub(super) fn kernel_version() -> (u32, u32) {
    let release = machine::kernel_release();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Whether the effective capabilities suffice (`CAP_SYS_ADMIN`, `CAP_SYS_PTRACE`, `CAP_PERFMON`, `CAP_BPF`).
fn has_capabilities() -> bool {
    const NEEDED: [u32; 4] = [21, 19, 38, 39];
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .unwrap_or(0);
    NEEDED.iter().all(|bit| effective >> bit & 1 == 1)
}

/// An error with all its causes in one line.
pub(super) fn explain(error: &dyn std::error::Error) -> String {
    let mut text = format!("the kernel refused our eBPF programs: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
