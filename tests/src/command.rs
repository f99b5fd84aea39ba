//! Starts programs, waits for them with a limit that only a hang reaches, and keeps what they said and what they cost.
//! Responsible for processes as the test harness sees them; knows nothing of heaptape.

#![expect(unsafe_code, reason = "wait4 and kill have no wrapper in the standard library")]

use std::io::{Read, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// No program here needs this long; one that does hangs.
pub const HANG: Duration = Duration::from_secs(600);
/// How long the last words of a program that has ended may be on their way.
const WORDS: Duration = Duration::from_secs(5);

/// What a finished program left.
#[derive(Debug, Clone)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// User and system time of it and of all children it waited for.
    pub cpu: Duration,
    /// Most memory that it, or one of those children, had resident at a time.
    pub peak_rss_bytes: u64,
}

impl Finished {
    /// Standard output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The program's status as a shell would say it: the exit code, or 128 + the signal.
    pub fn shell_status(&self) -> i32 {
        self.status.code().or_else(|| self.status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
    }

    /// Panics with everything the program said unless it exited with 0.
    #[track_caller]
    #[expect(clippy::return_self_not_must_use, reason = "asserting is its point")]
    pub fn success(self, what: &str) -> Self {
        assert!(
            self.status.success(),
            "{what} ended with {}\nstdout: {}\nstderr: {}",
            self.status,
            self.stdout_text(),
            self.stderr_text()
        );
        self
    }
}

/// A started program whose output is being collected.
pub struct Running {
    /// The child; waited for by `finish`.
    pub child: Child,
    /// Its standard input, if it was asked for.
    pub stdin: Option<ChildStdin>,
    stdout: Collector,
    stderr: Collector,
    what: String,
}

/// Reads a pipe to its end in a thread, so that no program ever waits for its reader.
struct Collector {
    chunks: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<()>>,
    text: Vec<u8>,
}

impl Collector {
    fn new(pipe: Option<impl Read + Send + 'static>) -> Self {
        let (sender, chunks) = channel();
        let thread = pipe.map(|mut pipe| {
            std::thread::spawn(move || {
                let mut buffer = [0_u8; 8192];
                while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                    if sender.send(buffer[..length].to_vec()).is_err() {
                        break;
                    }
                }
            })
        });
        Self { chunks, thread, text: Vec::new() }
    }

    fn so_far(&mut self) -> &[u8] {
        while let Ok(chunk) = self.chunks.try_recv() {
            self.text.extend(chunk);
        }
        &self.text
    }

    fn end(&mut self) -> Vec<u8> {
        // A grandchild that outlives the program may keep the pipe open: what came until now is what counts then.
        let limit = Instant::now() + Duration::from_secs(10);
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.so_far().to_vec()
    }
}

/// Has a program start with the signals of a terminal as they are by default, whatever this process ignores: what a
/// script runs in the background ignores some.
pub fn with_default_signals(command: &mut Command) -> &mut Command {
    // SAFETY: signal is async-signal-safe and touches only the child.
    unsafe {
        command.pre_exec(|| {
            for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTERM] {
                libc::signal(signal, libc::SIG_DFL);
            }
            Ok(())
        })
    }
}

/// Starts a program with its output collected and its input closed, or given when `with_stdin`.
pub fn start(command: &mut Command, with_stdin: bool) -> Running {
    let what = format!("{command:?}");
    let mut child = with_default_signals(command)
        .stdin(if with_stdin { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{what} does not start: {error}"));
    let stdout = Collector::new(child.stdout.take());
    let stderr = Collector::new(child.stderr.take());
    Running { stdin: child.stdin.take(), child, stdout, stderr, what }
}

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Finished {
    start(command, false).finish()
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended (it stays a zombie until `finish`).
    pub fn has_ended(&self) -> bool {
        crate::process::state(self.pid()).is_none_or(|state| state == 'Z')
    }

    /// Waits for its end. Kills it and panics with what it said when it hangs.
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        drop(self.stdin.take());
        self.wait_until("its end", |me| me.has_ended());
        let (status, usage) = reap(&mut self.child);
        Finished {
            status,
            stdout: self.stdout.end(),
            stderr: self.stderr.end(),
            cpu: duration(usage.ru_utime) + duration(usage.ru_stime),
            // Linux counts in KiB.
            peak_rss_bytes: usage.ru_maxrss as u64 * 1024,
        }
    }

    /// Standard error until now.
    pub fn stderr_so_far(&mut self) -> String {
        String::from_utf8_lossy(self.stderr.so_far()).into_owned()
    }

    /// Standard output until now.
    pub fn stdout_so_far(&mut self) -> String {
        String::from_utf8_lossy(self.stdout.so_far()).into_owned()
    }

    /// Waits until a condition holds. Kills the program and panics when it never does.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let begin = Instant::now();
        while !condition(self) {
            if begin.elapsed() > HANG {
                signal(self.pid(), libc::SIGKILL);
                let (stdout, stderr) = (self.stdout_so_far(), self.stderr_so_far());
                panic!("{}: waited {HANG:?} for {what}\nstdout: {stdout}\nstderr: {stderr}", self.what);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Writes to its standard input.
    pub fn say(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("the program was started with an input");
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).expect("the program reads its input");
    }

    /// Waits until the program's output holds `text` `count` times.
    #[track_caller]
    pub fn wait_for_output(&mut self, text: &str, count: usize) {
        // What a program said before its end (or its main thread's) may still be on its way to us.
        let mut ended_at: Option<Instant> = None;
        self.wait_until(&format!("{count} × {text:?}"), |me| {
            let seen = me.stdout_so_far().matches(text).count();
            if seen < count && me.has_ended() {
                let waited = ended_at.get_or_insert_with(Instant::now).elapsed();
                assert!(waited < WORDS, "it ended early: {}{}", me.stdout_so_far(), me.stderr_so_far());
            }
            seen >= count
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A failing test must not leave its program behind. After `finish` the child is reaped and this does nothing.
        if std::thread::panicking() && matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
        }
    }
}

/// Waits for a child that has ended and says what it and its children cost.
fn reap(child: &mut Child) -> (ExitStatus, libc::rusage) {
    let mut status = 0;
    // SAFETY: an all-zero rusage is a valid value of that plain C struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live local variables; the pid is that of our unreaped child.
    let got = unsafe { libc::wait4(child.id() as libc::pid_t, &raw mut status, 0, &raw mut usage) };
    assert_eq!(got, child.id() as libc::pid_t, "wait4 failed: {}", std::io::Error::last_os_error());
    (ExitStatus::from_raw(status), usage)
}

fn duration(time: libc::timeval) -> Duration {
    Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000)
}

/// Sends a signal to a process that this test started.
pub fn signal(pid: u32, number: i32) {
    // SAFETY: kill takes plain numbers; a pid of ours is above 1.
    unsafe { libc::kill(pid as libc::pid_t, number) };
}

/// Whether this process may do everything (root).
pub fn is_root() -> bool {
    // SAFETY: geteuid only returns a number.
    unsafe { libc::geteuid() == 0 }
}
