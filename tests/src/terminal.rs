//! A pseudo terminal with a shell in it, driven by text: for job control. Responsible for the terminal; knows nothing
//! of heaptape.

#![expect(unsafe_code, reason = "openpty, setsid and TIOCSCTTY have no wrapper in the standard library")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::command::with_default_signals;

/// A program on a terminal of its own, as session leader.
pub struct Terminal {
    master: File,
    child: Child,
    chunks: Receiver<Vec<u8>>,
    seen: String,
    position: usize,
}

impl Terminal {
    /// Starts a program with a new terminal as its standard input, output and error.
    pub fn start(command: &mut Command) -> Self {
        let (mut master_fd, mut slave_fd) = (0, 0);
        // SAFETY: the two pointers are to live integers; the other arguments may be null.
        let status = unsafe {
            libc::openpty(
                &raw mut master_fd,
                &raw mut slave_fd,
                std::ptr::null_mut(),
                std::ptr::null(),
                std::ptr::null(),
            )
        };
        assert_eq!(status, 0, "no terminal: {}", std::io::Error::last_os_error());
        // SAFETY: openpty just gave us both descriptors; nobody else owns them.
        let (master, slave) = unsafe { (File::from_raw_fd(master_fd), OwnedFd::from_raw_fd(slave_fd)) };
        for descriptor in [master_fd, slave_fd] {
            // SAFETY: marks our own descriptors close-on-exec; the child gets its copies as 0, 1 and 2.
            unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
        let copy = || Stdio::from(slave.try_clone().expect("descriptors can be copied"));
        command.stdin(copy()).stdout(copy()).stderr(copy());
        // SAFETY: setsid and ioctl are async-signal-safe and touch only the child.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = with_default_signals(command).spawn().expect("the program starts");
        let (sender, chunks) = channel();
        let mut reader = master.try_clone().expect("descriptors can be copied");
        std::thread::spawn(move || {
            let mut buffer = [0_u8; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { master, child, chunks, seen: String::new(), position: 0 }
    }

    /// Types text.
    pub fn say(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("the terminal takes input");
    }

    /// Waits until the program shows `text` after what was waited for before; returns what came until there.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let limit = Instant::now() + Duration::from_secs(120);
        loop {
            if let Some(place) = self.seen[self.position..].find(text) {
                let end = self.position + place + text.len();
                let before = self.seen[self.position..end].to_owned();
                self.position = end;
                return before;
            }
            assert!(Instant::now() < limit, "never saw {text:?} on the terminal; all it showed:\n{}", self.seen);
            if let Ok(chunk) = self.chunks.recv_timeout(Duration::from_millis(50)) {
                self.seen.push_str(&String::from_utf8_lossy(&chunk));
            }
        }
    }

    /// The program's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
