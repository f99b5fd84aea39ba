//! Ends a recording while targets still run. Responsible for leaving each as it would be without us.

use std::time::{Duration, Instant};

use trace_format::event::EndReason;

use super::{
    DETACH_PATIENCE, END_PATIENCE, Tracer,
    ptrace::{self, Wait},
};
use crate::notice::What;

impl Tracer {
    /// Disarms the programs, then lets go of every tracee: threads we hold go on, signals on their way are delivered,
    /// group stops caused by others stay.
    pub(super) fn detach_all(&mut self) {
        let _ = self.kernel.arm(false);
        let pids: Vec<u32> =
            self.processes.iter().filter(|(_, process)| process.recorded).map(|(pid, _)| *pid).collect();
        for (tid, _) in std::mem::take(&mut self.held) {
            if ptrace::detach(tid, 0).is_ok() {
                self.tasks.remove(&tid);
                self.forget(tid);
            }
        }
        for tid in std::mem::take(&mut self.early) {
            let _ = ptrace::detach(tid, 0);
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
            match ptrace::wait_any() {
                Ok(Some(wait)) => self.let_go(wait),
                Ok(None) => {
                    ptrace::poll(&[], 1);
                }
                // Nothing is traced any more, and nothing that is left is a child of ours.
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
                if matches!(event, libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE)
                    && let Ok(child) = ptrace::event_message(tid)
                {
                    // The child is a tracee of ours too and stops before it runs.
                    self.tasks.insert(child as u32, child as u32);
                }
                self.release(tid, 0);
            }
        }
    }

    /// Lets a thread go with a signal, unless a stop of ours is still on its way to it: nobody else would resume it.
    fn release(&mut self, tid: u32, signal: i32) {
        if self.kernel.is_stopping(tid) {
            let _ = ptrace::resume(tid, signal);
            return;
        }
        let _ = ptrace::detach(tid, signal);
        self.forget(tid);
        let pid = self.tasks.remove(&tid);
        self.root_signalled |= signal != 0 && pid == Some(self.root);
    }

    fn forget(&mut self, tid: u32) {
        let state = self.kernel.take_thread(tid).map(Box::new);
        self.tell(What::ThreadEnd { tid, state });
    }
}
