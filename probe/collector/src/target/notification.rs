//! Where the dynamic linker reports that the list of modules changed. Responsible for finding that place before the process has run its
//! first instruction, when the list itself does not exist yet.

use super::TargetError;
use super::auxv::AuxiliaryVector;
use super::discovery::{linker, program};
use super::maps::Mappings;
use super::module::Module;
use super::module_cache::ModuleCache;

/// A function of the dynamic linker that does nothing but be called: with the list consistent after start-up, before any
/// constructor, and around every `dlopen` and `dlclose`.
#[derive(Debug, Clone)]
pub struct LinkerNotification {
    /// The linker.
    pub module: Module,
    /// Link-time address of the function.
    pub vaddr: u64,
    /// Its offset in the file, for a probe.
    pub file_offset: u64,
    /// Its address in this process.
    pub address: u64,
}

/// Finds it. `None` for static programs, which have no linker: their allocators can be discovered at once.
///
/// # Errors
/// If the process cannot be read, or its linker has no such function.
pub fn linker_notification(pid: u32, cache: &mut ModuleCache) -> Result<Option<LinkerNotification>, TargetError> {
    let auxv = AuxiliaryVector::read(pid)?;
    let mappings = Mappings::read(pid)?;
    let program = program(pid, auxv, &mappings, cache)?;
    let Some(linker) = linker(pid, auxv, &mappings, &program, cache)? else { return Ok(None) };
    let image = &linker.file.image;
    let missing = || TargetError::Inconsistent {
        pid,
        what: format!("its dynamic linker {} has no function _dl_debug_state", linker.path.display()),
    };
    let vaddr = image.landmarks.dl_debug_state.ok_or_else(missing)?;
    let file_offset = image.file_offset(vaddr).ok_or_else(missing)?;
    let address = linker.address(vaddr);
    Ok(Some(LinkerNotification { vaddr, file_offset, address, module: linker }))
}
