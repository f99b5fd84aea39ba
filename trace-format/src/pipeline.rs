//! Work done ahead on several threads, results taken in order. Responsible for order and for bounded look-ahead; not for
//! what the work is.
//!
//! Worker `w` of `n` does items w, w + n, w + 2n, … one after the other, so taking a result from each worker in turn gives
//! them in order. Each worker's queues hold two items: it works at one while the other waits to be taken.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Items a worker may be ahead.
const LOOK_AHEAD: usize = 2;

/// A worker's queues: buffers to fill, results.
type Line<T, E> = (SyncSender<T>, Receiver<Result<T, E>>);

/// Calls `work(index, buffer)` for all indices below `count` on `workers` threads, and `take` with each buffer in order of
/// the index. Buffers are used again. The first error in order ends it.
pub(crate) fn in_order<T: Default + Send, E: Send>(
    count: usize,
    workers: usize,
    work: impl Fn(usize, &mut T) -> Result<(), E> + Sync,
    mut take: impl FnMut(&T),
) -> Result<(), E> {
    let workers = workers.min(count).max(1);
    std::thread::scope(|scope| {
        let mut lines: Vec<Line<T, E>> = Vec::new();
        for worker in 0..workers {
            let (empty, empties) = sync_channel::<T>(LOOK_AHEAD);
            let (full, fulls) = sync_channel(LOOK_AHEAD);
            // Before the worker starts: one that has little to do may hang up at once.
            for _ in 0..LOOK_AHEAD {
                empty.send(T::default()).unwrap_or_else(|_| unreachable!("the receiver is still here"));
            }
            let work = &work;
            scope.spawn(move || {
                for index in (worker..count).step_by(workers) {
                    // Either end hangs up when the taker stops early.
                    let Ok(mut buffer) = empties.recv() else { return };
                    let result = work(index, &mut buffer).map(|()| buffer);
                    if full.send(result).is_err() {
                        return;
                    }
                }
            });
            lines.push((empty, fulls));
        }
        for index in 0..count {
            let (empty, fulls) = &lines[index % workers];
            // A worker that hangs up has panicked; the scope passes its panic on.
            let Ok(result) = fulls.recv() else { break };
            let buffer = result?;
            take(&buffer);
            // Near the end the worker may be done already.
            let _ = empty.send(buffer);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn results_come_in_order_and_no_worker_runs_far_ahead() {
        for (count, workers) in [(0, 3), (1, 3), (2, 2), (100, 3), (100, 7)] {
            let (started, mut taken) = (AtomicUsize::new(0), 0);
            let result: Result<(), ()> = in_order(
                count,
                workers,
                |index, buffer: &mut usize| {
                    started.fetch_add(1, Ordering::SeqCst);
                    *buffer = index;
                    Ok(())
                },
                |&index| {
                    assert_eq!(index, taken);
                    taken += 1;
                    assert!(started.load(Ordering::SeqCst) <= taken + workers * (LOOK_AHEAD + 1));
                },
            );
            assert_eq!((result, taken), (Ok(()), count));
        }
    }

    #[test]
    fn the_first_error_in_order_ends_it() {
        let mut taken = Vec::new();
        let work = |index, buffer: &mut usize| {
            *buffer = index;
            if index >= 10 { Err(index) } else { Ok(()) }
        };
        assert_eq!(in_order(1000, 4, work, |&index| taken.push(index)), Err(10));
        assert_eq!(taken, (0..10).collect::<Vec<_>>());
    }
}
