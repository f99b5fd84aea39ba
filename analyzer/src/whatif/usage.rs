#![cfg_attr(unix, expect(unsafe_code, reason = "the kernel is asked for what the standard library does not tell"))]
//! What a process costs the machine: processor time, resident memory, page faults. Responsible for reading them without allocating,
//! and for what must be done so that they mean something.
//!
//! The peak of resident memory is the kernel's own high-water mark, set back to what is resident right before the first step. It is kept by
//! counters that may lag by some dozen pages for each processor, so resident memory is also read at the peak of what is requested.

use std::fs::File;
use std::io::{self, Read as _, Write as _};

#[cfg(target_os = "linux")]
use super::table::Table;

/// What a list of mappings takes at most.
#[cfg(target_os = "linux")]
const MAPS_BYTES: usize = 1 << 20;

/// Resident memory now, and the most since it was last set back.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Resident {
    pub(super) now_bytes: u64,
    pub(super) peak_bytes: u64,
}

impl Resident {
    /// As the kernel says it now.
    pub(super) fn read() -> io::Result<Self> {
        let mut buffer = [0; 8192];
        let text = read(&mut buffer, "/proc/self/status")?;
        let field = |name| kib(text, name).ok_or_else(|| io::Error::other(format!("/proc/self/status has no {name}")));
        Ok(Self { now_bytes: field("VmRSS:")?, peak_bytes: field("VmHWM:")? })
    }
}

/// Sets the peak back to what is resident now (`man 5 proc_pid_clear_refs`).
pub(super) fn forget_peak() -> io::Result<()> {
    File::options().write(true).open("/proc/self/clear_refs")?.write_all(b"5")
}

/// Memory that the machine could still give, in bytes; none where it does not say.
pub(super) fn available_bytes() -> Option<u64> {
    let mut buffer = [0; 4096];
    kib(read(&mut buffer, "/proc/meminfo").ok()?, "MemAvailable:")
}

fn read<'b>(buffer: &'b mut [u8], path: &str) -> io::Result<&'b str> {
    let length = File::open(path)?.read(buffer)?;
    std::str::from_utf8(&buffer[..length]).map_err(io::Error::other)
}

/// A field such as `VmRSS:     1234 kB`, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Page faults so far that needed no reading from a disk.
#[cfg(unix)]
pub(super) fn minor_fault_count() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: all zero is an `rusage`, and the call writes another one or nothing.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    usage.ru_minflt as u64
}

/// Processor time of the calling thread so far, in ns: what else runs on the machine is not in it.
#[cfg(unix)]
pub(super) fn thread_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes a `timespec`.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Keeps the kernel from backing memory with huge pages: a block would then count 2 MiB, and when that happens is chance.
#[cfg(target_os = "linux")]
pub(super) fn without_huge_pages() {
    // SAFETY: it takes numbers only. Where the kernel does not know it, it stays as it was.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

/// Has glibc give back what it holds in reserve: a replay would else begin with memory that is resident already.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn give_back_reserves() {
    // SAFETY: it takes a number only, and concerns free memory.
    unsafe { libc::malloc_trim(0) };
}

/// Brings all mapped files, programs and libraries, into memory: pages of code would else become resident by and by, many around
/// each one that is needed. Where the kernel cannot (before Linux 5.14), they do.
#[cfg(target_os = "linux")]
pub(super) fn load_code() {
    let Ok(mut buffer) = Table::<u8>::zeroed(MAPS_BYTES) else { return };
    let Ok(file) = File::open("/proc/self/maps") else { return };
    let Ok(length) = read_whole(file, &mut buffer) else { return };
    let Ok(maps) = std::str::from_utf8(&buffer[..length]) else { return };
    for (start, length) in maps.lines().filter_map(mapped_file) {
        // SAFETY: reading pages of a mapping changes nothing in it; a range that is gone is refused.
        unsafe { libc::madvise(std::ptr::without_provenance_mut(start), length, libc::MADV_POPULATE_READ) };
    }
}

/// Reads until the file or the buffer ends.
#[cfg(target_os = "linux")]
fn read_whole(mut file: File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    loop {
        match file.read(&mut buffer[length..])? {
            0 => return Ok(length),
            more => length += more,
        }
    }
}

/// Start and length of a readable mapping of a file, from its line in `/proc/PID/maps`.
#[cfg(target_os = "linux")]
fn mapped_file(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let readable = fields.next()?.starts_with('r');
    let path = fields.nth(3)?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    (readable && path.starts_with('/')).then_some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_bytes() {
        let text = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t      12 kB\nThreads:\t1\n";
        assert_eq!(
            (kib(text, "VmHWM:"), kib(text, "VmRSS:"), kib(text, "Vm"), kib(text, "Threads:")),
            (Some(2 << 20), Some(12 << 10), None, None)
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn mapped_files_are_found() {
        let line = "7f01000-7f03000 r-xp 00028000 fe:00 1053   /usr/lib/libc.so.6";
        assert_eq!(mapped_file(line), Some((0x07f0_1000, 0x2000)));
        for other in [
            "7f01000-7f03000 rw-p 00000000 00:00 0",
            "7f01000-7f03000 rw-p 00000000 00:00 0  [heap]",
            "",
            line.replace("r-xp", "---p").as_str(),
        ] {
            assert_eq!(mapped_file(other), None, "{other}");
        }
    }
}
