//! What happens to tracees: signals, forks, execs, ends. Responsible for letting each go on, as it would without us.

use std::{sync::atomic::Ordering, time::Instant};

use probe_abi::{STOP_BACKPRESSURE, STOP_CHECK, STOP_LINK_MAP};
use trace_format::{event::EndReason, table::Origin};

use super::{
    Process, Tracer, process,
    ptrace::{self, Wait},
};
use crate::{kernel::LinkKind, notice::What};

/// Programs without an allocator that are named in warnings, at most.
const MOST_WARNED: usize = 5;

impl Tracer {
    pub(super) fn handle(&mut self, wait: Wait) {
        match wait {
            Wait::Ended { tid, status, cpu_ns } => self.ended(tid, status, cpu_ns),
            Wait::Signal { tid, signal } => self.signalled(tid, signal),
            Wait::GroupStop { tid } => {
                let _ = ptrace::listen(tid);
            }
            Wait::Stop { tid } => {
                if self.tasks.contains_key(&tid) {
                    let _ = ptrace::resume(tid, 0);
                } else {
                    self.early.insert(tid);
                }
            }
            Wait::Event { tid, event: libc::PTRACE_EVENT_EXEC } => self.executed(tid),
            Wait::Event {
                tid,
                event: libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE,
            } => {
                if let Ok(child) = ptrace::event_message(tid) {
                    self.forked(tid, child as u32);
                }
                let _ = ptrace::resume(tid, 0);
            }
            Wait::Event { tid, .. } => {
                let _ = ptrace::resume(tid, 0);
            }
        }
    }

    pub(super) fn signalled(&mut self, tid: u32, signal: i32) {
        let ours = if signal == libc::SIGSTOP { self.kernel.take_stop(tid) } else { None };
        match ours {
            Some(STOP_BACKPRESSURE) => self.held.push((tid, Instant::now())),
            Some(STOP_LINK_MAP) => {
                if let Some(&pid) = self.tasks.get(&tid) {
                    self.place(pid);
                }
                let _ = ptrace::resume(tid, 0);
            }
            Some(STOP_CHECK) => {
                if let (Some(checker), Some(&pid), Some(state)) =
                    (&mut self.checker, self.tasks.get(&tid), self.kernel.thread(tid))
                    && let Err(error) = checker.check(pid, tid, &state)
                {
                    self.checker = None;
                    self.tell(What::Warning(format!("stacks are not checked any more: {error}")));
                }
                let _ = ptrace::resume(tid, 0);
            }
            Some(_) => {
                let _ = ptrace::resume(tid, 0);
            }
            None => {
                let _ = ptrace::resume(tid, signal);
            }
        }
    }

    pub(super) fn release_held(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let drained = self.gauge.unread_bytes() <= self.low_bytes || self.signals.broken.load(Ordering::Acquire);
        if drained {
            for (tid, since) in std::mem::take(&mut self.held) {
                let _ = ptrace::resume(tid, 0);
                self.signals.held_ns.fetch_add(since.elapsed().as_nanos() as u64, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn forked(&mut self, tid: u32, child: u32) {
        let Some(&parent) = self.tasks.get(&tid) else { return };
        let is_thread = process::thread_group(child) == Some(parent);
        self.tasks.insert(child, if is_thread { parent } else { child });
        if !is_thread {
            let shares = ptrace::same_memory(parent, child);
            let recorded = self.processes.get(&parent).is_some_and(|parent| parent.recorded);
            let mut process = Process { recorded, borrowed_memory: shares, ..Process::default() };
            if recorded {
                self.start_notice(child, Some(parent), Origin::Fork, shares);
                // Links of the multi kind run for one process only, even where another shares its memory.
                let own_links = !shares || self.kernel.link_kind() == LinkKind::Multi;
                if own_links && let Some(parent) = self.processes.get(&parent) {
                    let (placed, plan, links) = self.placer.again(&mut self.kernel, child, &parent.placed);
                    process.placed = placed;
                    process.links = links;
                    self.tell(What::Plan { pid: child, plan });
                    self.tell_warnings();
                }
            }
            self.processes.insert(child, process);
            if recorded && !shares {
                self.hook_link_map(child);
            }
        }
        if self.early.remove(&child) {
            let _ = ptrace::resume(child, 0);
        }
    }

    pub(super) fn executed(&mut self, tid: u32) {
        let pid = tid;
        if let Ok(former) = ptrace::event_message(tid)
            && former as u32 != tid
        {
            self.tasks.remove(&(former as u32));
            let _ = self.kernel.take_stop(former as u32);
        }
        self.tasks.insert(tid, pid);
        let first = self.at_gate && pid == self.root;
        let old = self.processes.remove(&pid).unwrap_or_default();
        if old.recorded {
            self.end_threads(pid, true);
            self.tell(What::End { pid, reason: EndReason::Exec });
        }
        let was_recorded = old.recorded;
        self.retire(old);
        if first {
            self.at_gate = false;
        }
        if !self.following.children && pid != self.root {
            self.tasks.remove(&tid);
            let _ = ptrace::detach(tid, 0);
            return;
        }
        let name = process::executable_name(pid);
        let only = &self.following.only;
        let recorded = only.is_empty() || only.contains(&name) || only.contains(&process::called_name(pid));
        self.processes.insert(pid, Process { name: name.clone(), recorded, ..Process::default() });
        self.any_recorded |= recorded;
        if recorded {
            let origin = if first { Origin::Launch } else { Origin::Exec };
            self.start_notice(pid, (was_recorded && !first).then_some(pid), origin, false);
            self.hook_link_map(pid);
            self.place(pid);
        } else {
            self.left_out.insert(name);
        }
        let _ = ptrace::resume(tid, 0);
    }

    pub(super) fn ended(&mut self, tid: u32, status: i32, cpu_ns: u64) {
        self.early.remove(&tid);
        self.held.retain(|(held, _)| *held != tid);
        let Some(pid) = self.tasks.remove(&tid) else {
            // Let go with the signal that ended it.
            if tid == self.root {
                self.outcome.status = Some(status);
                if let Some(process) = self.processes.remove(&tid) {
                    if process.recorded {
                        self.outcome.target_cpu_ns += cpu_ns;
                        self.tell(What::End { pid: tid, reason: EndReason::Exit(status) });
                    }
                    self.retire(process);
                }
            }
            return;
        };
        // It may have ended before a stop of ours reached it.
        let _ = self.kernel.take_stop(tid);
        let state = self.kernel.take_thread(tid).map(Box::new);
        let recorded = self.processes.get(&pid).is_some_and(|process| process.recorded);
        if recorded {
            self.tell(What::ThreadEnd { tid, state });
        }
        if tid != pid {
            return;
        }
        self.tasks.retain(|_, process| *process != pid);
        if recorded {
            self.outcome.target_cpu_ns += cpu_ns;
            self.tell(What::End { pid, reason: EndReason::Exit(status) });
        }
        if let Some(process) = self.processes.remove(&pid) {
            self.retire(process);
        }
        if pid == self.root {
            self.outcome.status = Some(status);
            self.signals.root_ended.store(true, Ordering::Release);
        }
    }

    /// Tells the end of all threads of a process (but not of `pid` itself when `keep_leader`).
    pub(super) fn end_threads(&mut self, pid: u32, keep_leader: bool) {
        let tids: Vec<u32> = self.tasks.iter().filter(|(_, process)| **process == pid).map(|(tid, _)| *tid).collect();
        for tid in tids {
            let state = self.kernel.take_thread(tid).map(Box::new);
            self.tell(What::ThreadEnd { tid, state });
            if !(keep_leader && tid == pid) {
                self.tasks.remove(&tid);
            }
        }
    }

    /// Lets go of a process's probes and rows.
    pub(super) fn retire(&mut self, process: Process) {
        // At the end of a recording it may not have loaded any yet.
        let without = process.recorded && !process.placed.has_allocator() && !process.name.is_empty() && !self.ending;
        if without && self.without_allocator.len() < MOST_WARNED && self.without_allocator.insert(process.name.clone())
        {
            self.tell(What::Warning(format!(
                "nothing of `{}` is recorded: no allocator was found in it that can be probed (a stripped static one, a \
                 garbage-collected heap, or it ended before it was loaded)",
                process.name
            )));
        }
        let Process { placed, mut links, link_map, .. } = process;
        links.extend(link_map);
        self.placer.retire(&mut self.kernel, &placed, links);
    }
}
