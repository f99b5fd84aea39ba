//! The dynamic linker's list of loaded modules, as it keeps it for debuggers. Responsible for reading that list, which is the
//! process's memory and can hold anything; not for what the modules are.
//!
//! ```text
//!  executable's dynamic section ── DT_DEBUG ──▶ r_debug { version, map, brk, state, ldbase, [next] }
//!                                                            │      │              next: another namespace (dlmopen),
//!                       function called after every change ◀─┼──────┘                    glibc 2.35 and later
//!                                                            ▼
//!                               link_map { addr, name, ld, next, prev } ──▶ link_map …   executable first, then search order
//! ```

use super::TargetError;
use super::memory::ProcessMemory;

const DT_NULL: u64 = 0;
const DT_DEBUG: u64 = 21;
/// Bounds on what a process may claim.
const MAX_DYNAMIC_ENTRIES: u64 = 1024;
const MAX_MODULES: usize = 16 << 10;
const MAX_NAMESPACES: usize = 16;

/// Whether the list can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListState {
    /// Nothing is being loaded: everything listed is mapped, and relocated.
    Consistent,
    /// Modules are being added or removed; entries may be missing or half done.
    Changing,
}

/// One loaded module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkMapEntry {
    /// Added to link-time addresses.
    pub load_bias: u64,
    /// Path as the linker found it; empty for the executable.
    pub name: Vec<u8>,
    /// Address of its dynamic section, which tells the mapping it belongs to.
    pub dynamic: u64,
    /// 0 for the ordinary one, then one per `dlmopen` namespace.
    pub namespace: usize,
}

/// The list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkMap {
    /// Whether it can be trusted.
    pub state: ListState,
    /// Address of the function the linker calls after every change.
    pub notify: u64,
    /// The modules, in search order.
    pub entries: Vec<LinkMapEntry>,
}

/// The value of `DT_DEBUG` in the dynamic section at `dynamic`: the address of `r_debug`, 0 before the linker has set it, `None` if
/// there is no such entry.
pub(super) fn debug_entry(memory: &ProcessMemory, dynamic: u64, size_bytes: u64) -> Result<Option<u64>, TargetError> {
    for index in 0..(size_bytes / 16).min(MAX_DYNAMIC_ENTRIES) {
        let [tag, value] = memory.words("the dynamic section", dynamic.wrapping_add(index * 16))?;
        match tag {
            DT_NULL => break,
            DT_DEBUG => return Ok(Some(value)),
            _ => {}
        }
    }
    Ok(None)
}

impl LinkMap {
    /// Follows the list from `r_debug`. A list that loops or leads nowhere is cut off there.
    ///
    /// # Errors
    /// [`TargetError::NotYet`] if nothing is listed yet; otherwise if `r_debug` itself cannot be read.
    pub fn read(memory: &ProcessMemory, r_debug: u64) -> Result<Self, TargetError> {
        let not_yet = || TargetError::NotYet { pid: memory.pid() };
        if r_debug == 0 {
            return Err(not_yet());
        }
        let mut list = Self { state: ListState::Consistent, notify: 0, entries: Vec::new() };
        let mut seen = Vec::new();
        let mut debug = r_debug;
        for namespace in 0..MAX_NAMESPACES {
            let head = memory.words::<5>("the linker's list of modules", debug);
            let [version, map, notify, state, _] = match head {
                Ok(head) => head,
                Err(error) if namespace == 0 => return Err(error),
                Err(_) => break,
            };
            let version = version & 0xffff_ffff;
            if namespace == 0 {
                list.notify = notify;
                if map == 0 || version == 0 {
                    return Err(not_yet());
                }
            }
            if state & 0xffff_ffff != 0 {
                list.state = ListState::Changing;
            }
            list.follow(memory, map, namespace);
            seen.push(debug);
            if version < 2 {
                break;
            }
            match memory.word("the next list of modules", debug.wrapping_add(40)) {
                Ok(next) if next != 0 && !seen.contains(&next) => debug = next,
                _ => break,
            }
        }
        Ok(list)
    }

    fn follow(&mut self, memory: &ProcessMemory, first: u64, namespace: usize) {
        let start = self.entries.len();
        let (mut address, mut visited) = (first, std::collections::HashSet::new());
        while address != 0 && self.entries.len() - start < MAX_MODULES && visited.insert(address) {
            let Ok([load_bias, name, dynamic, next, _previous]) = memory.words("a module of the list", address) else {
                break;
            };
            let name = if name == 0 { Vec::new() } else { memory.string("a module's name", name).unwrap_or_default() };
            self.entries.push(LinkMapEntry { load_bias, name, dynamic, namespace });
            address = next;
        }
    }
}
