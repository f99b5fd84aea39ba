//! What `/proc` says of a process, and the two small descriptors the tracer polls. Responsible for reading it; absent
//! or odd files read as absent.

#![expect(unsafe_code, reason = "eventfd and sysconf are system calls")]

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// Thread ids of a process.
pub(super) fn threads(pid: u32) -> io::Result<Vec<u32>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// The process a thread belongs to.
pub(super) fn thread_group(tid: u32) -> Option<u32> {
    status_field(tid, "Tgid:")
}

/// Whether a SIGSTOP to a thread is on its way.
pub(super) fn is_stop_pending(tid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:"));
    let pending = pending.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    pending.is_some_and(|set| set >> (libc::SIGSTOP - 1) & 1 == 1)
}

fn status_field(tid: u32, field: &str) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(field))?.trim().parse().ok()
}

/// CPU time of the children that a process has waited for, in ns, to the kernel's ticks.
pub(super) fn children_cpu_ns(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything: state, then numbers; the 16th and 17th field of all are these.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ');
    let ticks: u64 = fields.skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // SAFETY: no preconditions.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    ticks * (1_000_000_000 / per_second)
}

/// File name of a process's executable, without the mark of a deleted file.
pub(super) fn executable_name(pid: u32) -> String {
    let Ok(path) = fs::read_link(format!("/proc/{pid}/exe")) else { return String::new() };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.strip_suffix(" (deleted)").map(str::to_owned).unwrap_or(name)
}

/// The file name that a process was called by: `clang-19`, say, where that is a link to `clang`.
pub(super) fn called_name(pid: u32) -> String {
    let words = command_line(pid);
    words.first().map(|word| word.rsplit('/').next().unwrap_or(word).to_owned()).unwrap_or_default()
}

/// Names in a sentence, some of them where there are many.
pub(super) fn list(names: &BTreeSet<String>) -> String {
    const MOST: usize = 8;
    let more = if names.len() > MOST { format!(" and {} more", names.len() - MOST) } else { String::new() };
    names.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ") + &more
}

/// Arguments of a process.
pub(super) fn command_line(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// Why a process's threads cannot be listed.
pub(super) fn absence(pid: u32, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound {
        format!("there is no process {pid}")
    } else {
        format!("its threads cannot be listed: {error}")
    }
}

/// Why a process cannot be traced.
pub(super) fn seize_refusal(pid: u32, error: &io::Error) -> String {
    match status_field(pid, "TracerPid:") {
        Some(tracer) if tracer != 0 => {
            let name = executable_name(tracer);
            format!("it is traced by process {tracer} ({name}); end that first, a process has one tracer")
        }
        _ if main_thread_ended(pid) => {
            "its main thread has ended while others run on; such a process cannot be attached to".to_owned()
        }
        _ => format!("it cannot be traced: {error}"),
    }
}

/// Whether a process's main thread has ended.
fn main_thread_ended(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && line.contains('Z'))
}

/// A bell: readable once rung.
pub(super) fn event_fd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the new descriptor is ours.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes it quiet again.
pub(super) fn silence_bell(bell: &OwnedFd) {
    let mut count = 0u64;
    // SAFETY: eight bytes of a live integer; the descriptor does not block.
    unsafe { libc::read(bell.as_raw_fd(), (&raw mut count).cast(), 8) };
}

/// Rings it.
pub(super) fn ring_bell(bell: &OwnedFd) {
    let one = 1u64;
    // SAFETY: eight bytes of a live integer.
    unsafe { libc::write(bell.as_raw_fd(), (&raw const one).cast(), 8) };
}
