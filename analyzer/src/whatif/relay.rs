//! Threads that take turns. Responsible for one thread of the operating system for each recorded one, and for handing the machine from one
//! to the next in recorded order; not for what a turn is.
//!
//! ```text
//!   thread 0  ████──▶ 1              ██████──▶ over          █ a turn: it holds the machine
//!   thread 1          ███──▶ 2  ·  ·         ·               · asleep
//!   thread 2               █──▶ 0
//! ```
//!
//! Thread 0 is the one that calls: in glibc the main thread's heap is unlike that of others, and in a trace the main thread is nearly
//! always the first that allocates. All threads are started before the first turn.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{self, Builder, Thread};

use super::execute::{Failure, Turn};

/// A turn needs little stack.
const STACK_BYTES: usize = 256 << 10;
/// Looks whether it is its turn before a thread goes to sleep.
const LOOKS: u32 = 200;

/// What threads take turns at.
pub(super) trait TakesTurns: Send {
    /// Goes on until another thread is to.
    fn turn(&mut self) -> Result<Turn, Failure>;
}

struct Relay<'m, M> {
    machine: Mutex<&'m mut M>,
    /// By thread: whether it is its turn.
    turns: Vec<AtomicBool>,
    /// Threads that have begun.
    there_count: AtomicUsize,
    over: AtomicBool,
    threads: OnceLock<Vec<Thread>>,
    failure: OnceLock<Failure>,
}

/// Lets a machine go on with so many threads until it is over. `ready` is called once all are there, before the first turn.
///
/// # Errors
/// A thread could not be started.
pub(super) fn relay<M: TakesTurns, T>(
    machine: &mut M,
    thread_count: u32,
    ready: impl FnOnce() -> T,
) -> io::Result<(Result<(), Failure>, T)> {
    let thread_count = thread_count.max(1) as usize;
    let relay = Relay {
        machine: Mutex::new(machine),
        turns: (0..thread_count).map(|_| AtomicBool::new(false)).collect(),
        there_count: AtomicUsize::new(1),
        over: AtomicBool::new(false),
        threads: OnceLock::new(),
        failure: OnceLock::new(),
    };
    let before = thread::scope(|scope| {
        let mut threads = vec![thread::current()];
        let mut refused = None;
        for me in 1..thread_count {
            let relay = &relay;
            let run = move || {
                relay.there_count.fetch_add(1, Ordering::Release);
                relay.take_turns(me);
            };
            match Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, run) {
                Ok(handle) => threads.push(handle.thread().clone()),
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        relay.threads.get_or_init(|| threads);
        if let Some(error) = refused {
            relay.end();
            return Err(error);
        }
        while relay.there_count.load(Ordering::Acquire) < thread_count {
            thread::yield_now();
        }
        let before = ready();
        relay.turns[0].store(true, Ordering::Release);
        relay.take_turns(0);
        Ok(before)
    })?;
    Ok((relay.failure.get().map_or(Ok(()), |failure| Err(*failure)), before))
}

/// Ends the relay when a turn panics, so that nobody sleeps for ever.
struct OverOnPanic<'r, 'm, M>(&'r Relay<'m, M>);

impl<M> Drop for OverOnPanic<'_, '_, M> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.end();
        }
    }
}

impl<M> Relay<'_, M> {
    fn end(&self) {
        self.over.store(true, Ordering::Release);
        self.threads.get().into_iter().flatten().for_each(Thread::unpark);
    }

    /// Sleeps until it is this thread's turn; `false`: everything is over.
    fn wait(&self, me: usize) -> bool {
        let mut looks = 0;
        loop {
            if self.turns[me].swap(false, Ordering::Acquire) {
                return true;
            }
            if self.over.load(Ordering::Acquire) {
                return false;
            }
            if looks < LOOKS {
                looks += 1;
                std::hint::spin_loop();
            } else {
                thread::park();
            }
        }
    }
}

impl<M: TakesTurns> Relay<'_, M> {
    fn take_turns(&self, me: usize) {
        let _end = OverOnPanic(self);
        while self.wait(me) {
            let turn = self.machine.lock().unwrap_or_else(PoisonError::into_inner).turn();
            match turn {
                Ok(Turn { next: Some(next), ended }) => {
                    self.turns[next as usize].store(true, Ordering::Release);
                    if let Some(thread) = self.threads.get().and_then(|threads| threads.get(next as usize)) {
                        thread.unpark();
                    }
                    if ended {
                        return;
                    }
                }
                Ok(Turn { next: None, .. }) => self.end(),
                Err(failure) => {
                    self.failure.get_or_init(|| failure);
                    self.end();
                }
            }
        }
    }
}
