//! Deaths of blocks. Responsible for what is known of a block at its death and for keeping that while a realloc is under way: its
//! begin is the death of the old block, its end tells whether that stands.

use trace_format::{Sequence, ThreadId};

use super::class::Class;
use crate::phases::RowId;

/// How a block died.
#[derive(Debug, Clone, Copy)]
pub(super) struct Death {
    /// Birth of the block: no two share it.
    pub(super) birth: Sequence,
    /// Where it died.
    pub(super) row: RowId,
    pub(super) class: Class,
    pub(super) age_ns: u64,
    pub(super) age_bytes: u64,
    /// Frames between the stack at its birth and its scope, as the optimistic and the pessimistic reading have it; none if
    /// another thread freed it.
    pub(super) escapes: Option<(usize, usize)>,
    /// Its scope is no activation.
    pub(super) unscoped: bool,
}

/// Blocks that reallocs are moving now, by thread, the innermost last.
#[derive(Debug)]
pub(super) struct Moving(Vec<Vec<Death>>);

impl Moving {
    pub(super) fn new(thread_count: usize) -> Self {
        Self(vec![Vec::new(); thread_count])
    }

    /// A realloc begins.
    pub(super) fn begin(&mut self, thread: ThreadId, death: Death) {
        self.0[thread.index()].push(death);
    }

    /// It ends: the death of the block born then.
    pub(super) fn end(&mut self, thread: ThreadId, birth: Sequence) -> Option<Death> {
        take(&mut self.0[thread.index()], birth)
    }

    /// It never returned, on whatever thread. O(threads).
    pub(super) fn give_up(&mut self, birth: Sequence) -> Option<Death> {
        self.0.iter_mut().find_map(|moving| take(moving, birth))
    }
}

fn take(moving: &mut Vec<Death>, birth: Sequence) -> Option<Death> {
    let at = moving.iter().rposition(|death| death.birth == birth)?;
    Some(moving.remove(at))
}
