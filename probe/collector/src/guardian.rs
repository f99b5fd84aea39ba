//! A small process that outlives the recorder if it is killed. Responsible for one thing: whatever our programs stopped
//! goes on. It resumes nothing else: a thread is ours only if the map of stops says so.
//!
//! When a tracer dies, the kernel lets its tracees go, with the signal they were stopped at: our `SIGSTOP` would then
//! take effect. So the guardian disarms the programs and continues what they stopped.

#![expect(unsafe_code, reason = "fork, close_range and bpf(2) are system calls")]

use std::{
    fs, io,
    mem::ManuallyDrop,
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
    thread,
    time::{Duration, Instant},
};

use probe_abi::Control;

use crate::kernel::Kernel;

/// How long the guardian looks for threads to resume after the recorder is gone.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long nothing must have been stopped before it ends.
const QUIET: Duration = Duration::from_secs(2);

/// The recorder's end of the pipe; the guardian ends when told, or acts when it closes untold.
#[derive(Debug)]
pub(crate) struct Guardian {
    pid: libc::pid_t,
    pipe: OwnedFd,
}

impl Guardian {
    /// Starts the guardian. To be called while the process has one thread.
    pub(crate) fn start(kernel: &Kernel) -> io::Result<Self> {
        let (listen, pipe) = crate::tracer::pipe()?;
        let (control, stops) = kernel.guardian_maps();
        let keep = [listen.as_raw_fd(), control.as_raw_fd(), stops.as_raw_fd()];
        // SAFETY: one thread, so the child's memory is whole.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                watch(keep);
                // SAFETY: leaves without running the recorder's destructors.
                unsafe { libc::_exit(0) }
            }
            pid => Ok(Self { pid, pipe }),
        }
    }

    /// Ends the guardian, or leaves it to resume what may stop yet.
    pub(crate) fn dismiss(self, leaves_stops: bool) {
        if leaves_stops {
            return;
        }
        let pipe = ManuallyDrop::new(self.pipe);
        // SAFETY: one byte from a live buffer; the child is ours.
        unsafe {
            libc::write(pipe.as_raw_fd(), [1u8].as_ptr().cast(), 1);
            libc::waitpid(self.pid, std::ptr::null_mut(), 0);
            libc::close(pipe.as_raw_fd());
        }
    }
}

fn watch([listen, control, stops]: [RawFd; 3]) {
    // SAFETY: plain numbers and constant strings.
    unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, c"heaptape-guard".as_ptr());
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
    }
    close_all_but([listen, control, stops]);
    let mut byte = 0u8;
    // SAFETY: one byte into a live buffer.
    let told = unsafe { libc::read(listen, (&raw mut byte).cast(), 1) };
    if told == 1 {
        return;
    }
    disarm(control);
    let start = Instant::now();
    let mut last = Instant::now();
    while start.elapsed() < PATIENCE && last.elapsed() < QUIET {
        for tid in stopped(stops) {
            last = Instant::now();
            match state(tid) {
                Some('T') => {
                    // SAFETY: plain numbers.
                    unsafe { libc::kill(tid as libc::pid_t, libc::SIGCONT) };
                    forget(stops, tid);
                }
                // Still held by the dying recorder.
                Some('t') => {}
                // Gone, or its stop was never delivered.
                None => forget(stops, tid),
                Some(_) if start.elapsed() > QUIET => forget(stops, tid),
                Some(_) => {}
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn close_all_but(keep: [RawFd; 3]) {
    let mut keep = keep;
    keep.sort_unstable();
    let mut from = 0;
    for fd in keep {
        if fd > from {
            // SAFETY: closes descriptors of this process only; standard streams too, nobody must wait for us on them.
            unsafe { libc::syscall(libc::SYS_close_range, from as u32, (fd - 1) as u32, 0) };
        }
        from = fd + 1;
    }
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_close_range, from as u32, u32::MAX, 0) };
}

/// State letter of a thread, as in `/proc/TID/stat`.
fn state(tid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{tid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

const MAP_UPDATE_ELEM: i64 = 2;
const MAP_DELETE_ELEM: i64 = 3;
const MAP_GET_NEXT_KEY: i64 = 4;

/// `union bpf_attr` of the map element commands.
#[repr(C)]
struct Element {
    fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn element(command: i64, fd: RawFd, key: u64, value: u64) -> bool {
    let mut attributes = Element { fd: fd as u32, padding: 0, key, value, flags: 0 };
    // SAFETY: keys and values given point to live memory of the map's sizes.
    unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attributes, size_of::<Element>()) == 0 }
}

fn disarm(control: RawFd) {
    let key = 0u32;
    let off = Control::default();
    element(MAP_UPDATE_ELEM, control, (&raw const key) as u64, (&raw const off) as u64);
}

fn forget(stops: RawFd, tid: u32) {
    element(MAP_DELETE_ELEM, stops, (&raw const tid) as u64, 0);
}

fn stopped(stops: RawFd) -> Vec<u32> {
    let mut tids = Vec::new();
    let mut key = 0u32;
    let mut next = 0u32;
    let mut from = 0u64;
    while element(MAP_GET_NEXT_KEY, stops, from, (&raw mut next) as u64) && tids.len() < 1 << 16 {
        tids.push(next);
        key = next;
        from = (&raw const key) as u64;
    }
    let _ = key;
    tids
}
