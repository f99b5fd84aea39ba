//! Activations that have nothing left alive when their function goes back. Responsible for where one may be taken to have ended and begun
//! again; not for which are open (see `activations`).
//!
//! A function that returned and is called again from the same place, with no event in between, looks like one activation that went
//! back in a loop. If a block that was born in it, there or further in, is still alive, only the latter is sure to break nothing. If
//! none is, both are the same to any arena: what it holds is dead, so a function that goes on may put its arena back to empty at
//! that turn, and one that returns must. So this is where an arena ends and the next begins:
//!
//! ```text
//!   body+0x20 ─ new   a        body+0x58 ─ free   a        body+0x20 ─ new   b          body's arena of a has ended
//!   body+0x20 ─ new   a        body+0x58 ─ new    b        body+0x20 ─ new   c          the same arena goes on
//! ```
//!
//! No block's scope changes by that: those alive are older than the activation, and outlive it either way. Memory: threads × depth.

use trace_format::ThreadId;

use crate::activations::Step;

/// Blocks alive, by the activation that they were born in.
#[derive(Debug)]
pub(super) struct Turns {
    /// By thread and open frame: blocks alive that were born there or further in, but in no frame further in that is still open.
    alive: Vec<Vec<u64>>,
}

impl Turns {
    /// Nothing is alive.
    pub(super) fn new(thread_count: usize) -> Self {
        Self { alive: vec![Vec::new(); thread_count] }
    }

    /// A thread's stack has changed, and has so many frames now. Returns the first frame whose activation has ended.
    pub(super) fn step(&mut self, thread: ThreadId, step: Step, depth: usize) -> usize {
        let Some(alive) = self.alive.get_mut(thread.index()) else { return step.ended_from() };
        let mut ended_from = step.ended_from();
        leave(alive, ended_from);
        if step.moved && step.fell_back && alive.get(step.kept) == Some(&0) {
            ended_from = step.kept;
        }
        alive.resize(depth, 0);
        ended_from
    }

    /// A block is born on a thread.
    pub(super) fn born(&mut self, thread: ThreadId) {
        if let Some(alive) = self.alive.get_mut(thread.index()).and_then(|alive| alive.last_mut()) {
            *alive += 1;
        }
    }

    /// A block dies that was born on this thread, of whose open activations so many were open then.
    pub(super) fn died(&mut self, thread: ThreadId, scope: usize) {
        let frame = scope.checked_sub(1);
        let alive = frame.and_then(|frame| self.alive.get_mut(thread.index())?.get_mut(frame));
        if let Some(alive) = alive {
            *alive = alive.saturating_sub(1);
        }
    }
}

/// What is alive of frames that have ended was born in the one that called them, too.
fn leave(alive: &mut Vec<u64>, ended_from: usize) {
    let left: u64 = alive.drain(ended_from.min(alive.len())..).sum();
    if let Some(outer) = alive.last_mut() {
        *outer += left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREAD: ThreadId = ThreadId(0);

    fn back_to(kept: usize, before: usize) -> Step {
        Step { before, kept, moved: true, fell_back: true }
    }

    #[test]
    fn an_activation_that_goes_back_has_ended_if_nothing_of_it_is_alive() {
        let mut turns = Turns::new(1);
        let enter = Step { before: 0, kept: 0, moved: false, fell_back: false };
        assert_eq!(turns.step(THREAD, enter, 3), 0);
        turns.born(THREAD);
        turns.died(THREAD, 3);
        assert_eq!(turns.step(THREAD, back_to(1, 3), 3), 1, "frame 1 has nothing alive");
        turns.born(THREAD);
        assert_eq!(turns.step(THREAD, back_to(1, 3), 2), 2, "what frame 2 made is frame 1's, and alive");
        turns.died(THREAD, 2);
        assert_eq!(turns.step(THREAD, back_to(1, 2), 2), 1);
        let on = Step { fell_back: false, ..back_to(1, 2) };
        assert_eq!(turns.step(THREAD, on, 2), 2, "going on is no turn");
    }

    #[test]
    fn what_is_older_or_another_threads_keeps_nothing_open() {
        let mut turns = Turns::new(2);
        turns.step(THREAD, Step { before: 0, kept: 0, moved: false, fell_back: false }, 1);
        turns.born(THREAD);
        turns.step(THREAD, Step { before: 1, kept: 1, moved: false, fell_back: false }, 2);
        assert_eq!(turns.step(THREAD, back_to(1, 2), 2), 1);
        turns.died(ThreadId(1), 2);
        assert_eq!(turns.step(THREAD, back_to(0, 2), 2), 1, "frame 0 has a block alive");
    }
}
