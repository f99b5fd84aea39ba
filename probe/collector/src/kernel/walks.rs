//! Memory of threads for stack walks. Responsible for making it and for giving it back when a thread is gone.

use std::{io, os::fd::OwnedFd};

use aya::maps::{HashMap, Map, MapData};
use probe_abi::{WALK_SLOTS, WalkState};

use super::{
    map,
    programs::{Row, WalkMemory, explain, missing, share},
};
use crate::error::CollectError;

const UNUSED: WalkMemory = [0; size_of::<WalkState>() / 8];

pub(super) struct Walks {
    slots: Vec<OwnedFd>,
    more: HashMap<MapData, u32, Row<WalkMemory>>,
}

impl Walks {
    /// Makes the slots, if stacks are walked at all.
    pub(super) fn new(outer: &Map, more: Map, walked: bool) -> Result<Self, CollectError> {
        let outer = share(outer)?;
        let slots = if walked { fill(&outer) } else { Ok(Vec::new()) };
        Ok(Self {
            slots: slots.map_err(|error| missing(format!("no kernel memory for stack walks: {error}")))?,
            more: HashMap::try_from(more).map_err(|error| missing(explain(&error)))?,
        })
    }

    /// Gives back what a thread used.
    pub(super) fn release(&mut self, tid: u32) {
        if let Some(slot) = self.slots.get((tid % WALK_SLOTS) as usize) {
            let mut memory = Row(UNUSED);
            if map::lookup(slot, 0, &mut memory).is_ok() && memory.0[0] == u64::from(tid) {
                let _ = map::update(slot, 0, &UNUSED);
            }
            let _ = self.more.remove(&tid);
        }
    }

    /// Kernel memory of the slots, bytes.
    pub(super) fn kernel_bytes(&self) -> u64 {
        (self.slots.len() * size_of::<WalkState>()) as u64
    }
}

fn fill(outer: &OwnedFd) -> io::Result<Vec<OwnedFd>> {
    let mut slots = Vec::with_capacity(WALK_SLOTS as usize);
    for _ in 0..WALK_SLOTS {
        slots.push(map::create_array(size_of::<WalkState>() as u32, 1, 0)?);
    }
    map::put_all(outer, 0, &slots)?;
    Ok(slots)
}
