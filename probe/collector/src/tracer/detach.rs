//! Ends a recording while targets still run. Responsible for leaving each as it would be without us.

use std::time::{Duration, Instant};

use trace_format::event::EndReason;

use super::{
    DETACH_PATIENCE, END_PATIENCE, Tracer, process,
    ptrace::{self, Wait},
};
use crate::notice::What;

impl Tracer {
    /// Disarms the programs, then lets go of every tracee: threads we hold go on, signals on their way are delivered,
    /// group stops caused by others stay.
    pub(super) fn detach_all(&mut self) {
        let _ = self.kernel.arm(false);
        self.ending = true;
        let pids: Vec<u32> =
            self.processes.iter().filter(|(_, process)| process.recorded).map(|(pid, _)| *pid).collect();
        for (tid, _) in std::mem::take(&mut self.held) {
            if ptrace::detach(tid, 0).is_ok() {
                self.tasks.remove(&tid);
                self.released.insert(tid);
                self.forget(tid);
            }
        }
        for tid in std::mem::take(&mut self.early) {
            let _ = ptrace::detach(tid, 0);
            self.released.insert(tid);
        }
        for tid in self.tasks.keys() {
            let _ = ptrace::interrupt(*tid);
        }
        self.let_go_until(DETACH_PATIENCE, |tracer| tracer.tasks.is_empty());
        // A program that we launched may end of a signal that came last: its status is our caller's.
        self.let_go_until(END_PATIENCE, |tracer| !tracer.root_signalled || tracer.outcome.status.is_some());
        for pid in pids {
            if self.processes.contains_key(&pid) {
                self.end_threads(pid, false);
                self.tell(What::End { pid, reason: EndReason::Detached });
            }
        }
        for (_, process) in std::mem::take(&mut self.processes) {
            self.retire(process);
        }
    }

    fn let_go_until(&mut self, patience: Duration, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + patience;
        while !done(self) && Instant::now() < deadline {
            match ptrace::wait_any(|tid| self.processes.contains_key(&tid)) {
                Ok(Some(wait)) => self.let_go(wait),
                Ok(None) => {
                    ptrace::poll(&[], 1);
                }
                // Nothing is traced any more, and no child is left.
                Err(_) => break,
            }
        }
    }

    fn let_go(&mut self, wait: Wait) {
        match wait {
            Wait::Ended { tid, status, cpu_ns } => self.ended(tid, status, cpu_ns),
            Wait::Signal { tid, signal } => {
                let ours = signal == libc::SIGSTOP && self.kernel.take_stop(tid).is_some();
                self.release(tid, if ours { 0 } else { signal });
            }
            Wait::Stop { tid } | Wait::GroupStop { tid } => self.release(tid, 0),
            Wait::Event { tid, event } => {
                let message = ptrace::event_message(tid).unwrap_or(0) as u32;
                match event {
                    // The child is a tracee of ours too and stops before it runs, if it did not before this.
                    libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE
                        if message != 0 && !self.released.contains(&message) =>
                    {
                        self.tasks.insert(message, process::thread_group(message).unwrap_or(message));
                    }
                    // The thread that executes a program is its process's first from now on.
                    libc::PTRACE_EVENT_EXEC if message != tid => {
                        self.tasks.remove(&message);
                    }
                    _ => {}
                }
                self.release(tid, 0);
            }
        }
    }

    /// Lets a thread go with a signal, unless a stop of ours is still on its way to it: nobody else would resume it.
    fn release(&mut self, tid: u32, signal: i32) {
        if self.kernel.is_stopping(tid) {
            if process::is_stop_pending(tid) {
                let _ = ptrace::resume(tid, signal);
                return;
            }
            // It was taken back, by a SIGCONT.
            let _ = self.kernel.take_stop(tid);
        }
        let _ = ptrace::detach(tid, signal);
        self.forget(tid);
        self.released.insert(tid);
        let of_root = self.tasks.remove(&tid) == Some(self.root);
        self.root_signalled |= of_root && self.launched && ptrace::may_end(signal);
    }

    fn forget(&mut self, tid: u32) {
        let state = self.kernel.take_thread(tid).map(Box::new);
        self.tell(What::ThreadEnd { tid, state });
    }
}
