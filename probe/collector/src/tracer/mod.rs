//! Follows processes: launches or seizes them, sees every fork, exec, exit and change of the link map while the thread
//! concerned is stopped, has probes placed before it goes on, and lets threads rest while the ring is drained.
//! Responsible for never harming a tracee; not for events.
//!
//! ```text
//!            gate ─▶ exec ─▶ (interpreter runs) ─▶ link map consistent ─▶ constructors, main …
//!   stops:           ▲ hook the link map           ▲ place probes
//!
//!   fork ─▶ child stopped before its first instruction: same probes, same descriptors, its own links
//! ```
//!
//! Our programs stop a thread by sending it `SIGSTOP` and noting why; as its tracer we see the signal before it is
//! delivered and drop it, so that neither the program nor its parent ever knows. All other signals are passed on, and
//! group stops that others cause are left alone.

mod check;
mod detach;
mod events;
mod process;
mod ptrace;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ffi::{CString, OsString},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::Sender,
    },
    time::{Duration, Instant},
};

use trace_format::table::Origin;

pub(crate) use self::ptrace::{block_signals, is_ignored, pipe, poll, raise_file_limit, signal_fd, wait_for};
use self::{check::Checker, ptrace::Gated};
use crate::{
    CollectError,
    kernel::{Hook, Kernel, Link, RingGauge, Wanted},
    machine,
    notice::{Notice, What},
    placer::{Placed, Placer},
    target::TargetError,
};

/// Which processes are recorded.
#[derive(Debug, Clone, Default)]
pub struct Following {
    /// Children too.
    pub children: bool,
    /// Only processes whose executable has this file name, or that were called by this name; empty for all.
    pub only: Vec<String>,
}

/// How the tracer is told to end, and tells how it goes. Shared with the session.
#[derive(Debug)]
pub(crate) struct Signals {
    /// End the recording; the targets go on.
    pub(crate) stop: AtomicBool,
    /// The intake cannot take events any more: nothing may be held back for it.
    pub(crate) broken: AtomicBool,
    /// The process recorded first has ended.
    pub(crate) root_ended: AtomicBool,
    /// Time that threads were held for back-pressure, summed.
    pub(crate) held_ns: AtomicU64,
    /// Processes that run code which was not mapped when their mappings were read.
    unknown_code: Mutex<BTreeSet<u32>>,
    wake: OwnedFd,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            stop: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            root_ended: AtomicBool::new(false),
            held_ns: AtomicU64::new(0),
            unknown_code: Mutex::default(),
            wake: process::event_fd()?,
        })
    }

    /// Asks the tracer to read the mappings of a process again: it runs code that is not known.
    pub(crate) fn look_again(&self, pid: u32) {
        if let Ok(mut pids) = self.unknown_code.lock() {
            pids.insert(pid);
        }
        process::ring_bell(&self.wake);
    }

    /// Asks the tracer to detach and end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        process::ring_bell(&self.wake);
    }
}

/// What is to be recorded.
#[derive(Debug, Clone)]
pub(crate) enum Subject {
    /// A program to start, with its arguments.
    Command(Vec<OsString>),
    /// A running process.
    Process(u32),
}

/// What of ours a launched program must not inherit: how it was before we changed it.
#[derive(Clone, Copy)]
pub(crate) struct Before {
    /// Signal mask.
    pub(crate) mask: libc::sigset_t,
    /// Limit of open files.
    pub(crate) files: libc::rlimit,
}

/// How a traced recording ended.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Wait status of the launched program, once it ended.
    pub(crate) status: Option<i32>,
    /// CPU time of the targets that ended.
    pub(crate) target_cpu_ns: u64,
}

/// One traced process.
#[derive(Default)]
struct Process {
    /// File name of its executable; empty in a forked child.
    name: String,
    /// Whether its events are taken.
    recorded: bool,
    /// Whether it runs in another's memory (vfork) and so under that one's probes.
    borrowed_memory: bool,
    /// Probes and descriptors.
    placed: Placed,
    links: Vec<Link>,
    /// The probe on the dynamic linker's report.
    link_map: Vec<Link>,
}

pub(crate) struct Tracer {
    kernel: Kernel,
    placer: Placer,
    gauge: RingGauge,
    notices: Sender<Notice>,
    signals: Arc<Signals>,
    following: Following,
    /// Ring fill below which held threads go on.
    low_bytes: u64,
    processes: HashMap<u32, Process>,
    /// Traced threads and their process.
    tasks: HashMap<u32, u32>,
    /// New threads that stopped before their parent told of them.
    early: HashSet<u32>,
    /// Threads that rest until the ring is drained.
    held: Vec<(u32, Instant)>,
    root: u32,
    /// File names of executables that are not recorded, and of those recorded in which no allocator was found.
    left_out: BTreeSet<String>,
    without_allocator: BTreeSet<String>,
    any_recorded: bool,
    /// Whether we started the root.
    launched: bool,
    /// Whether the root was let go with a signal that may end it.
    root_signalled: bool,
    /// Whether the recording ends while targets run on, and who was let go since.
    ending: bool,
    released: HashSet<u32>,
    /// Whether the root has not yet executed its program.
    at_gate: bool,
    outcome: Outcome,
    bell: OwnedFd,
    checker: Option<Checker>,
}

impl Tracer {
    pub(crate) fn new(
        kernel: Kernel,
        placer: Placer,
        gauge: RingGauge,
        notices: Sender<Notice>,
        signals: Arc<Signals>,
        following: Following,
        low_bytes: u64,
    ) -> Result<Self, CollectError> {
        let bell = ptrace::signal_fd(&[libc::SIGCHLD])
            .map_err(|source| CollectError::System { doing: "cannot wait for children (signalfd)".into(), source })?;
        Ok(Self {
            kernel,
            placer,
            gauge,
            notices,
            signals,
            following,
            low_bytes,
            processes: HashMap::new(),
            tasks: HashMap::new(),
            early: HashSet::new(),
            held: Vec::new(),
            root: 0,
            left_out: BTreeSet::new(),
            without_allocator: BTreeSet::new(),
            any_recorded: false,
            launched: false,
            root_signalled: false,
            ending: false,
            released: HashSet::new(),
            at_gate: false,
            outcome: Outcome::default(),
            bell,
            checker: None,
        })
    }

    /// Has stacks checked by a program that writes to a file.
    pub(crate) fn with_checker(mut self, program: &Path, output: &Path) -> Result<Self, CollectError> {
        let doing = || format!("cannot start the unwinder {}", program.display());
        let checker = Checker::start(program, output);
        self.checker = Some(checker.map_err(|source| CollectError::System { doing: doing(), source })?);
        Ok(self)
    }

    /// Starts or seizes the subject, then reports success or failure through `begun`, then follows it to the end.
    /// Everything happens on this thread: ptrace insists. Returns the kernel side for the final counts.
    pub(crate) fn run(
        mut self,
        subject: &Subject,
        before: &Before,
        begun: impl FnOnce(Result<u32, CollectError>),
    ) -> (Kernel, Placer, Outcome) {
        let gated = match subject {
            Subject::Command(command) => self.launch(command, before).map(Some),
            Subject::Process(pid) => self.attach(*pid).map(|()| None),
        };
        let gated = match gated {
            Ok(gated) => gated,
            Err(error) => {
                begun(Err(error));
                self.detach_all();
                return (self.kernel, self.placer, self.outcome);
            }
        };
        if let (Some(gated), Subject::Command(command)) = (&gated, subject) {
            gated.release();
            // Wait for the exec, or for its failure.
            while self.at_gate && !self.signals.root_ended.load(Ordering::Acquire) {
                self.turn();
            }
            // A program that was killed before it began ended like any other; one that could not begin did not.
            let killed = self.outcome.status.is_some_and(|status| libc::WIFSIGNALED(status));
            let failure = if self.at_gate { gated.failure() } else { None };
            if self.at_gate && (failure.is_some() || !killed) {
                let source = failure.unwrap_or_else(|| io::Error::other("it ended before it began"));
                let program = command[0].to_string_lossy().into_owned();
                begun(Err(CollectError::Launch { program, source }));
                return (self.kernel, self.placer, self.outcome);
            }
        }
        begun(Ok(self.root));
        while !self.signals.root_ended.load(Ordering::Acquire) && !self.signals.stop.load(Ordering::Acquire) {
            self.turn();
        }
        self.detach_all();
        if !self.any_recorded && !self.left_out.is_empty() {
            let (only, names) = (self.following.only.join(" or "), process::list(&self.left_out));
            self.tell(What::Warning(format!("no process named {only} was seen, only {names}: nothing is recorded")));
        }
        (self.kernel, self.placer, self.outcome)
    }

    /// One round: whatever happened, then rest until more does.
    fn turn(&mut self) {
        while let Ok(Some(wait)) = ptrace::wait_any(|tid| self.processes.contains_key(&tid)) {
            self.handle(wait);
            if self.signals.root_ended.load(Ordering::Acquire) {
                return;
            }
        }
        self.release_held();
        let changed = self.signals.unknown_code.lock().map(|mut pids| std::mem::take(&mut *pids)).unwrap_or_default();
        for pid in changed {
            self.place(pid);
        }
        process::silence_bell(&self.signals.wake);
        let timeout = if self.held.is_empty() { 1000 } else { 1 };
        ptrace::poll(&[self.bell.as_raw_fd(), self.signals.wake.as_raw_fd()], timeout);
    }

    fn launch(&mut self, command: &[OsString], before: &Before) -> Result<Gated, CollectError> {
        let failed = |source| CollectError::Launch { program: command[0].to_string_lossy().into_owned(), source };
        let argv: Vec<CString> = command
            .iter()
            .map(|word| CString::new(word.as_bytes()))
            .collect::<Result<_, _>>()
            .map_err(|_| failed(io::Error::other("an argument holds a NUL byte")))?;
        let gated = Gated::fork(&argv, &before.mask, &before.files).map_err(failed)?;
        ptrace::seize(gated.pid, self.following.children).map_err(|error| CollectError::Unsupported {
            reason: format!(
                "recording needs ptrace, which is forbidden here ({error}): allow it (a container needs CAP_SYS_PTRACE, and \
                 kernel.yama.ptrace_scope must not be 3)"
            ),
        })?;
        self.root = gated.pid;
        self.launched = true;
        self.at_gate = true;
        self.tasks.insert(gated.pid, gated.pid);
        self.processes.insert(gated.pid, Process::default());
        self.kernel.arm(true)?;
        Ok(gated)
    }

    fn attach(&mut self, pid: u32) -> Result<(), CollectError> {
        let refused = |reason: String| CollectError::Attach { pid, reason };
        let mut seized = 0;
        // Threads start threads: look again until a pass finds none that is new. What a seized thread starts is ours.
        loop {
            let mut fresh = 0;
            for tid in process::threads(pid).map_err(|error| refused(process::absence(pid, &error)))? {
                if self.tasks.contains_key(&tid) {
                    continue;
                }
                match ptrace::seize(tid, self.following.children) {
                    Ok(()) => {
                        self.tasks.insert(tid, pid);
                        fresh += 1;
                    }
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    Err(error) => return Err(refused(process::seize_refusal(pid, &error))),
                }
            }
            seized += fresh;
            if fresh == 0 {
                break;
            }
        }
        if seized == 0 {
            return Err(refused("it has no threads any more".into()));
        }
        self.root = pid;
        self.any_recorded = true;
        let name = process::executable_name(pid);
        self.processes.insert(pid, Process { name, recorded: true, ..Process::default() });
        self.start_notice(pid, None, Origin::Attach, false);
        self.hook_link_map(pid);
        self.place(pid);
        if self.processes[&pid].links.is_empty() {
            return Err(refused(
                "no allocator was found in it that can be probed (a stripped static allocator, or a garbage-collected \
                 heap?)"
                    .into(),
            ));
        }
        self.kernel.arm(true)
    }

    fn start_notice(&mut self, pid: u32, parent: Option<u32>, origin: Origin, shares_heap: bool) {
        let (name, command) = (process::executable_name(pid), process::command_line(pid));
        self.tell(What::Start { pid, parent, origin, name, command, shares_heap });
    }

    fn hook_link_map(&mut self, pid: u32) {
        let (file, offset) = match self.placer.link_map_hook(pid) {
            Ok(Some(hook)) => hook,
            Ok(None) | Err(TargetError::Gone { .. }) => return,
            Err(error) => return self.tell(What::Warning(format!("{error}; allocators that it loads are not seen"))),
        };
        let wanted = [Wanted { hook: Hook::LinkMap, offset, cookie: 0 }];
        match self.kernel.attach(&file, pid, &wanted) {
            Ok(link) => {
                if let Some(process) = self.processes.get_mut(&pid) {
                    process.link_map = link;
                }
            }
            Err(error) => self.tell(What::Warning(format!(
                "process {pid}: the dynamic linker cannot be watched ({error}); allocators of libraries loaded later \
                 are not seen"
            ))),
        }
    }

    /// Places probes in whatever the process has loaded by now.
    fn place(&mut self, pid: u32) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if !process.recorded || process.borrowed_memory {
            return;
        }
        match self.placer.place(&mut self.kernel, pid, &mut process.placed) {
            Ok(Some((plan, links))) => {
                process.links.extend(links);
                self.tell(What::Plan { pid, plan });
                self.tell_warnings();
            }
            // Nothing to place yet, or any more: it ended since somebody wanted it looked at.
            Ok(None) | Err(TargetError::Gone { .. }) => {}
            Err(error) => self.tell(What::Warning(format!("process {pid}: {error}"))),
        }
    }

    fn tell_warnings(&mut self) {
        for warning in self.placer.take_warnings() {
            self.tell(What::Warning(warning));
        }
    }

    fn tell(&self, what: What) {
        // The intake outlives the tracer; if it broke, nobody needs to know.
        let time_ns = machine::monotonic_ns();
        let _ = self.notices.send(Notice { position: self.gauge.position(), time_ns, what });
    }
}

/// How long the end of a recording waits for threads to stop before it leaves them to the kernel.
const DETACH_PATIENCE: Duration = Duration::from_secs(3);
/// How long it waits for a launched program to end of a signal that it was let go with.
const END_PATIENCE: Duration = Duration::from_millis(500);
