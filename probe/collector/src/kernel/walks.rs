//! Memory of threads for stack walks. Responsible for making it and for giving it back when a thread is gone.

#![expect(unsafe_code, reason = "map values are plain bytes")]

use std::{io, os::fd::OwnedFd};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError},
};
use probe_abi::{WALK_SLOTS, WINDOW_BYTES, WalkState, Window};

use super::{
    map,
    programs::{Row, WalkMemory, share},
    requirements::{explain, missing},
};
use crate::error::CollectError;

// SAFETY: plain integers.
unsafe impl Pod for Row<Window> {}

static UNUSED: WalkMemory = [0; size_of::<WalkState>() / 8];

pub(super) struct Walks {
    slots: Vec<OwnedFd>,
    /// Programs that are loaded late name the outer maps by these descriptors.
    _outer: Vec<Map>,
    more: HashMap<MapData, u32, Row<WalkMemory>>,
    more_windows: HashMap<MapData, u32, Row<Window>>,
}

impl Walks {
    /// Makes the slots, if stacks are walked at all.
    pub(super) fn new(take: &mut impl FnMut(&str) -> Map, walked: bool) -> Result<Self, CollectError> {
        let mut outer = Vec::new();
        let mut slots = |name: &str, bytes: usize| {
            let map = take(name);
            let slots = if walked { fill(&share(&map)?, bytes as u32) } else { Ok(Vec::new()) };
            outer.push(map);
            slots.map_err(|error| missing(format!("no kernel memory for stack walks: {error}")))
        };
        let walks = slots("WALKS", size_of::<WalkState>())?;
        // The outer map holds the windows; only states are ever looked at from here.
        drop(slots("WINDOWS", WINDOW_BYTES)?);
        let broken = |error: MapError| missing(explain(&error));
        Ok(Self {
            slots: walks,
            _outer: outer,
            more: HashMap::try_from(take("MORE_WALKS")).map_err(broken)?,
            more_windows: HashMap::try_from(take("MORE_WINDOWS")).map_err(broken)?,
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
            let _ = self.more_windows.remove(&tid);
        }
    }

    /// Kernel memory of the slots, bytes.
    pub(super) fn kernel_bytes(&self) -> u64 {
        (self.slots.len() * (size_of::<WalkState>() + WINDOW_BYTES)) as u64
    }
}

fn fill(outer: &OwnedFd, bytes: u32) -> io::Result<Vec<OwnedFd>> {
    let mut slots = Vec::with_capacity(WALK_SLOTS as usize);
    for _ in 0..WALK_SLOTS {
        slots.push(map::create_array(bytes, 1, 0)?);
    }
    map::put_all(outer, 0, &slots)?;
    Ok(slots)
}
