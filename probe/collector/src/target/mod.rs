//! Looks at a process from outside: what is mapped where, which allocators are in it. Responsible for reading `/proc` and the
//! process's memory, all of which can change or lie while it is read; not for stopping or following processes, nor for placing
//! probes in the kernel.
//!
//! ```text
//!  auxv ──▶ executable ──▶ DT_DEBUG ──▶ link map ──▶ modules ──▶ files (cached) ──▶ allocators ──▶ domains
//!   └─ AT_BASE ──▶ interpreter: where it reports ([`linker_notification`])              └ IFUNCs: slots bound by the linker
//! ```

mod auxv;
mod discovery;
mod error;
mod got;
mod link_map;
mod maps;
mod memory;
mod module;
mod module_cache;
mod notification;
mod planned;

pub use auxv::AuxiliaryVector;
pub use discovery::{Discovery, Domain, Linking, UnusableModule, discover};
pub use error::TargetError;
pub use link_map::{LinkMap, LinkMapEntry, ListState};
pub use maps::{Mapping, Mappings, open_mapped_file};
pub use memory::ProcessMemory;
pub use module::{Module, Role};
pub use module_cache::{FileIdentity, ModuleCache, ModuleFile};
pub use notification::{LinkerNotification, linker_notification};
pub(crate) use planned::UNKNOWN_IMPLEMENTATION;
pub use planned::{LeftOut, PlannedAllocator, PlannedFunction, ResultSource};
