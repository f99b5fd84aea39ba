//! What a symbol is bound to in a running process. Responsible for IFUNCs: the symbol table names a resolver, and only the slots
//! that the dynamic linker filled tell which function it chose.

use super::TargetError;
use super::maps::Mappings;
use super::memory::ProcessMemory;
use super::module::Module;

/// Addresses that `names`, defined in `owner` by the resolver at `resolver_vaddr`, are bound to: what the slots of all modules
/// hold that leads into `owner`'s own code. Empty while nothing is bound (too early, or lazily bound and never called).
pub(super) fn bound_addresses(
    memory: &ProcessMemory,
    mappings: &Mappings,
    modules: &[Module],
    owner: &Module,
    names: &[&str],
    resolver_vaddr: u64,
) -> Result<Vec<u64>, TargetError> {
    let owner_text = owner.text();
    let mut bound = Vec::new();
    for module in modules {
        let is_owner = module.load_bias == owner.load_bias && module.path == owner.path;
        let Ok((file, _)) = module.open() else { continue };
        let slots = module.file.image.slots(&file, names, is_owner.then_some(resolver_vaddr))?;
        for slot in slots {
            let Ok(address) = memory.word("a slot of the global offset table", module.address(slot.vaddr)) else {
                continue;
            };
            // A slot bound lazily leads to the stub beside it until the first call; one bound elsewhere means that another
            // module's function of the same name came first.
            let vaddr = owner.vaddr(address);
            let leads_to_function = owner_text.contains(&address)
                && mappings.is_executable(address)
                && !owner.file.image.is_plt(vaddr)
                && vaddr != resolver_vaddr;
            if leads_to_function && !bound.contains(&address) {
                bound.push(address);
            }
        }
    }
    Ok(bound)
}
