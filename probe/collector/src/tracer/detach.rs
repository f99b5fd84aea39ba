//! Ends a recording while targets still run. Responsible for leaving each as it would be without us.

use std::time::Instant;

use trace_format::event::EndReason;

use super::{
    DETACH_PATIENCE, Tracer,
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
        let deadline = Instant::now() + DETACH_PATIENCE;
        while !self.tasks.is_empty() && Instant::now() < deadline {
            match ptrace::wait_any() {
                Ok(Some(wait)) => self.let_go(wait),
                Ok(None) => {
                    ptrace::poll(&[], 1);
                }
                Err(_) => break,
            }
        }
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

    fn release(&mut self, tid: u32, signal: i32) {
        let _ = ptrace::detach(tid, signal);
        self.forget(tid);
        self.tasks.remove(&tid);
    }

    fn forget(&mut self, tid: u32) {
        let state = self.kernel.take_thread(tid).map(Box::new);
        self.tell(What::ThreadEnd { tid, state });
    }
}
