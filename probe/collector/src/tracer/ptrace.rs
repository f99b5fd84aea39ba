//! The ptrace requests we use, made safe. Responsible for the system calls alone; every request must come from the
//! thread that seized the tracee.

#![expect(unsafe_code, reason = "ptrace, waitpid and kcmp are system calls")]

use std::{io, ptr};

use libc::{c_int, c_void, pid_t};

/// What a wait told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// A thread ended with this wait status; CPU time in ns of its process, children aside.
    Ended { tid: u32, status: i32, cpu_ns: u64 },
    /// A thread is about to take a signal.
    Signal { tid: u32, signal: i32 },
    /// A thread is in a group stop, by this signal.
    GroupStop { tid: u32 },
    /// A new tracee's first stop, or one that we interrupted.
    Stop { tid: u32 },
    /// fork, vfork, clone or exec.
    Event { tid: u32, event: c_int },
}

/// Options of every tracee. There is no `EXITKILL`: when the recorder dies, tracees go on.
fn options(follow_forks: bool) -> c_int {
    let always = libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACEEXEC | libc::PTRACE_O_TRACEVFORK;
    if follow_forks { always | libc::PTRACE_O_TRACEFORK } else { always }
}

fn request(request: libc::c_uint, tid: u32, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: the requests used here take plain numbers or a pointer to a live local.
    let result = unsafe { libc::ptrace(request, tid as pid_t, address as *mut c_void, data as *mut c_void) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Begins to trace a thread without stopping it.
pub(super) fn seize(tid: u32, follow_forks: bool) -> io::Result<()> {
    request(libc::PTRACE_SEIZE, tid, 0, options(follow_forks) as usize)
}

/// Lets a stopped thread run, with a signal or 0.
pub(super) fn resume(tid: u32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_CONT, tid, 0, signal as usize)
}

/// Leaves a thread in its group stop and listens for what ends it.
pub(super) fn listen(tid: u32) -> io::Result<()> {
    request(libc::PTRACE_LISTEN, tid, 0, 0)
}

/// Asks a running thread to stop.
pub(super) fn interrupt(tid: u32) -> io::Result<()> {
    request(libc::PTRACE_INTERRUPT, tid, 0, 0)
}

/// Stops tracing a stopped thread, which goes on with a signal or 0.
pub(super) fn detach(tid: u32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_DETACH, tid, 0, signal as usize)
}

/// The registers of a stopped thread.
pub(super) fn registers(tid: u32) -> io::Result<libc::user_regs_struct> {
    // SAFETY: plain integers.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    request(libc::PTRACE_GETREGS, tid, 0, (&raw mut registers) as usize)?;
    Ok(registers)
}

/// The new thread's id (fork, vfork, clone), or the old one (exec).
pub(super) fn event_message(tid: u32) -> io::Result<u64> {
    let mut message: libc::c_ulong = 0;
    request(libc::PTRACE_GETEVENTMSG, tid, 0, (&raw mut message) as usize)?;
    Ok(message)
}

/// Whether two processes run in the same address space.
pub(super) fn same_memory(a: u32, b: u32) -> bool {
    const KCMP_VM: c_int = 1;
    // SAFETY: plain numbers.
    unsafe { libc::syscall(libc::SYS_kcmp, a as pid_t, b as pid_t, KCMP_VM, 0, 0) == 0 }
}

/// The next thing that happened to any tracee, if something did. `is_process`: whether an id is that of a process whose CPU
/// time is wanted.
pub(super) fn wait_any(is_process: impl Fn(u32) -> bool) -> io::Result<Option<Wait>> {
    loop {
        // SAFETY: plain integers, filled by the call.
        let mut news: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // Without WSTOPPED: what tracees stop at is told all the same, but not that a child of ours which nobody traces was
        // stopped by somebody.
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
        // SAFETY: the pointer is to a live local; what the call fills in is of a child.
        let tid = unsafe {
            if libc::waitid(libc::P_ALL, 0, &raw mut news, options) != 0 {
                return Err(io::Error::last_os_error());
            }
            news.si_pid()
        };
        if tid == 0 {
            return Ok(None);
        }
        let ended = matches!(news.si_code, libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED);
        // Can be asked for until the process is waited for.
        let counts = ended && is_process(tid as u32);
        let children_ns = if counts { super::process::children_cpu_ns(tid as u32) } else { 0 };
        let mut status: c_int = 0;
        // SAFETY: plain integers, filled by the call.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live locals.
        match unsafe { libc::wait4(tid, &raw mut status, libc::WNOHANG | libc::__WALL, &raw mut usage) } {
            // Killed since, while it was stopped: what became of it is news of its own.
            -1 | 0 => {}
            _ => return Ok(Some(decode(tid as u32, status, &usage, children_ns))),
        }
    }
}

fn decode(tid: u32, status: c_int, usage: &libc::rusage, children_ns: u64) -> Wait {
    if !libc::WIFSTOPPED(status) {
        let nanoseconds = |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
        let cpu_ns = (nanoseconds(usage.ru_utime) + nanoseconds(usage.ru_stime)).saturating_sub(children_ns);
        return Wait::Ended { tid, status, cpu_ns };
    }
    let signal = libc::WSTOPSIG(status);
    match status >> 16 {
        0 => Wait::Signal { tid, signal },
        libc::PTRACE_EVENT_STOP if signal == libc::SIGTRAP => Wait::Stop { tid },
        libc::PTRACE_EVENT_STOP => Wait::GroupStop { tid },
        event => Wait::Event { tid, event },
    }
}

/// Blocks signals in this thread (and those it starts) so that they can be polled for. Returns the mask before.
pub(crate) fn block_signals(signals: &[c_int]) -> libc::sigset_t {
    let set = signal_set(signals);
    // SAFETY: both sets are live.
    unsafe {
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut old);
        old
    }
}

/// Whether a process may end of a signal that it does not handle.
pub(super) fn may_end(signal: c_int) -> bool {
    const HARMLESS: [c_int; 8] = [
        libc::SIGCHLD,
        libc::SIGURG,
        libc::SIGWINCH,
        libc::SIGCONT,
        libc::SIGSTOP,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
    ];
    signal != 0 && !HARMLESS.contains(&signal)
}

/// Whether this process ignores a signal, as it does when its parent made it so.
pub(crate) fn is_ignored(signal: c_int) -> bool {
    let mut action = default_action();
    // SAFETY: asks only; the structure is live.
    unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) };
    action.sa_sigaction == libc::SIG_IGN
}

fn signal_set(signals: &[c_int]) -> libc::sigset_t {
    // SAFETY: signal sets are plain memory, initialised before use.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

/// A descriptor that becomes readable when one of `signals` (which must be blocked) arrives; each read yields one.
pub(crate) fn signal_fd(signals: &[c_int]) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd as _;
    let set = signal_set(signals);
    // SAFETY: the set is live; the new descriptor is ours.
    unsafe {
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(std::os::fd::OwnedFd::from_raw_fd(fd)) }
    }
}

/// Waits until one of `fds` is readable or the timeout (ms, -1 for none) has passed, and empties them. Returns whether one was.
pub(crate) fn poll(fds: &[i32], timeout_ms: c_int) -> bool {
    let mut polls: Vec<libc::pollfd> =
        fds.iter().map(|&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
    // SAFETY: as many entries as told.
    unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, timeout_ms) };
    let mut any = false;
    for poll in polls.iter().filter(|poll| poll.revents & libc::POLLIN != 0) {
        any = true;
        let mut sink = [0u8; 1024];
        // SAFETY: a live buffer of that length.
        unsafe { libc::read(poll.fd, sink.as_mut_ptr().cast(), sink.len()) };
    }
    any
}

/// A child that waits at a gate before it executes a program.
pub(super) struct Gated {
    /// Its pid.
    pub(super) pid: u32,
    gate: std::os::fd::OwnedFd,
    report: std::os::fd::OwnedFd,
}

impl Gated {
    /// Forks a child that will execute `argv[0]` (looked up in `PATH`) once released. Its standard streams, process
    /// group, terminal and signal dispositions are ours, its signal mask is `mask`, its limit of open files `files`.
    pub(super) fn fork(argv: &[std::ffi::CString], mask: &libc::sigset_t, files: &libc::rlimit) -> io::Result<Self> {
        let (gate_read, gate) = pipe()?;
        let (report, report_write) = pipe()?;
        let mut pointers: Vec<*const libc::c_char> = argv.iter().map(|word| word.as_ptr()).collect();
        pointers.push(ptr::null());
        use std::os::fd::AsRawFd as _;
        // SAFETY: the child calls only async-signal-safe functions before it executes or exits; the pointers stay valid
        // in its copy of our memory.
        unsafe {
            let pid = libc::fork();
            if pid < 0 {
                return Err(io::Error::last_os_error());
            }
            if pid == 0 {
                libc::close(gate.as_raw_fd());
                let mut byte = 0u8;
                if libc::read(gate_read.as_raw_fd(), (&raw mut byte).cast(), 1) != 1 {
                    libc::_exit(127);
                }
                libc::setrlimit(libc::RLIMIT_NOFILE, files);
                libc::sigaction(libc::SIGPIPE, &default_action(), ptr::null_mut());
                libc::pthread_sigmask(libc::SIG_SETMASK, mask, ptr::null_mut());
                libc::execvp(pointers[0], pointers.as_ptr());
                let error = *libc::__errno_location();
                libc::write(report_write.as_raw_fd(), (&raw const error).cast(), 4);
                libc::_exit(127);
            }
            Ok(Self { pid: pid as u32, gate, report })
        }
    }

    /// Opens the gate. The error of a failed exec can be asked for afterwards.
    pub(super) fn release(&self) {
        use std::os::fd::AsRawFd as _;
        // SAFETY: one byte from a live buffer.
        unsafe { libc::write(self.gate.as_raw_fd(), [1u8].as_ptr().cast(), 1) };
    }

    /// Why the exec failed, once the child has ended without one.
    pub(super) fn failure(&self) -> Option<io::Error> {
        use std::os::fd::AsRawFd as _;
        let mut error: c_int = 0;
        // SAFETY: four bytes into a live integer.
        let read = unsafe { libc::read(self.report.as_raw_fd(), (&raw mut error).cast(), 4) };
        (read == 4).then(|| io::Error::from_raw_os_error(error))
    }
}

fn default_action() -> libc::sigaction {
    // SAFETY: all zero is SIG_DFL with an empty mask.
    unsafe { std::mem::zeroed() }
}

/// A pipe that is closed on exec.
pub(crate) fn pipe() -> io::Result<(std::os::fd::OwnedFd, std::os::fd::OwnedFd)> {
    use std::os::fd::FromRawFd as _;
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors, which are ours when the call succeeds.
    unsafe {
        if libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((std::os::fd::OwnedFd::from_raw_fd(fds[0]), std::os::fd::OwnedFd::from_raw_fd(fds[1])))
    }
}

/// Raises this process's limit of open files as far as it may go (each probe holds descriptors). Returns the limit
/// before, which a launched program must get back.
pub(crate) fn raise_file_limit() -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 1024, rlim_max: 1024 };
    // SAFETY: a live structure.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
    // SAFETY: as above.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) };
    limit
}

/// Waits for a child that is no longer traced, to the end. Returns its wait status.
pub(crate) fn wait_for(pid: u32) -> Option<i32> {
    let mut status = 0;
    // SAFETY: a live integer.
    let waited = unsafe { libc::waitpid(pid as pid_t, &raw mut status, 0) };
    (waited == pid as pid_t).then_some(status)
}
