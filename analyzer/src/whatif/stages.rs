//! Stages made of stages. Responsible for following one process only, and for doing two things in one pass; not for what is
//! done with blocks.

use trace_format::{Event, ProcessId, Tables, ThreadId};

use crate::arenas::{InstanceId, Stage};

/// Passes on what happens in one process' heap.
#[derive(Debug)]
pub(super) struct OnlyOf<S> {
    /// By thread: whether it works on that heap.
    threads: Vec<bool>,
    /// By instance: whether it is one of that process.
    instances: Vec<bool>,
    inner: S,
}

impl<S> OnlyOf<S> {
    /// Follows `process`, and children that share its heap.
    pub(super) fn new(tables: &Tables, process: ProcessId, inner: S) -> Self {
        let threads = tables.threads.iter().map(|thread| heap_of(tables, thread.process) == process).collect();
        Self { threads, instances: Vec::new(), inner }
    }

    pub(super) fn into_inner(self) -> S {
        self.inner
    }

    fn follows(&self, thread: ThreadId) -> bool {
        self.threads.get(thread.index()) == Some(&true)
    }
}

/// The process whose heap this one uses: its own, or a parent's (vfork).
fn heap_of(tables: &Tables, process: ProcessId) -> ProcessId {
    let mut at = process;
    // A sound trace has parents before their children; a damaged one may go in circles.
    for _ in 0..tables.processes.len() {
        match tables.processes.get(at.index()) {
            Some(row) if row.shares_heap => match row.parent {
                Some(parent) => at = parent,
                None => break,
            },
            _ => break,
        }
    }
    at
}

impl<S: Stage> Stage for OnlyOf<S> {
    /// None for blocks of other processes.
    type Slot = Option<S::Slot>;

    fn open(&mut self, instance: InstanceId, arena: usize, thread: ThreadId) {
        let at = instance as usize;
        if at >= self.instances.len() {
            self.instances.resize(at + 1, false);
        }
        self.instances[at] = self.follows(thread);
        if self.instances[at] {
            self.inner.open(instance, arena, thread);
        }
    }

    fn close(&mut self, instance: InstanceId) {
        if self.instances[instance as usize] {
            self.inner.close(instance);
        }
    }

    fn allocate(&mut self, size_bytes: u64, home: Option<InstanceId>, event: &Event) -> Self::Slot {
        self.follows(event.thread).then(|| self.inner.allocate(size_bytes, home, event))
    }

    fn reallocate(
        &mut self,
        old: Self::Slot,
        old_bytes: u64,
        size_bytes: u64,
        home: Option<InstanceId>,
        event: &Event,
    ) -> Self::Slot {
        Some(self.inner.reallocate(old?, old_bytes, size_bytes, home, event))
    }

    fn free(&mut self, slot: Self::Slot, size_bytes: u64, home: Option<InstanceId>, event: &Event) {
        if let Some(slot) = slot {
            self.inner.free(slot, size_bytes, home, event);
        }
    }

    fn free_late(&mut self, slot: Self::Slot, arena: usize, size_bytes: u64) {
        if let Some(slot) = slot {
            self.inner.free_late(slot, arena, size_bytes);
        }
    }

    fn abandon(&mut self, slot: Self::Slot, size_bytes: u64, home: Option<InstanceId>) {
        if let Some(slot) = slot {
            self.inner.abandon(slot, size_bytes, home);
        }
    }

    fn thread_ended(&mut self, thread: ThreadId) {
        if self.follows(thread) {
            self.inner.thread_ended(thread);
        }
    }
}

/// Tells two stages the same.
#[derive(Debug)]
pub(super) struct Both<A, B>(pub(super) A, pub(super) B);

impl<A: Stage, B: Stage> Stage for Both<A, B> {
    type Slot = (A::Slot, B::Slot);

    fn open(&mut self, instance: InstanceId, arena: usize, thread: ThreadId) {
        self.0.open(instance, arena, thread);
        self.1.open(instance, arena, thread);
    }

    fn close(&mut self, instance: InstanceId) {
        self.0.close(instance);
        self.1.close(instance);
    }

    fn allocate(&mut self, size_bytes: u64, home: Option<InstanceId>, event: &Event) -> Self::Slot {
        (self.0.allocate(size_bytes, home, event), self.1.allocate(size_bytes, home, event))
    }

    fn reallocate(
        &mut self,
        old: Self::Slot,
        old_bytes: u64,
        size_bytes: u64,
        home: Option<InstanceId>,
        event: &Event,
    ) -> Self::Slot {
        (
            self.0.reallocate(old.0, old_bytes, size_bytes, home, event),
            self.1.reallocate(old.1, old_bytes, size_bytes, home, event),
        )
    }

    fn free(&mut self, slot: Self::Slot, size_bytes: u64, home: Option<InstanceId>, event: &Event) {
        self.0.free(slot.0, size_bytes, home, event);
        self.1.free(slot.1, size_bytes, home, event);
    }

    fn free_late(&mut self, slot: Self::Slot, arena: usize, size_bytes: u64) {
        self.0.free_late(slot.0, arena, size_bytes);
        self.1.free_late(slot.1, arena, size_bytes);
    }

    fn abandon(&mut self, slot: Self::Slot, size_bytes: u64, home: Option<InstanceId>) {
        self.0.abandon(slot.0, size_bytes, home);
        self.1.abandon(slot.1, size_bytes, home);
    }

    fn thread_ended(&mut self, thread: ThreadId) {
        self.0.thread_ended(thread);
        self.1.thread_ended(thread);
    }
}
