//! Finds the allocators of a process: modules in search order, and in each the functions to probe. Responsible for putting the
//! parts together; every part has its own file.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::TargetError;
use super::auxv::AuxiliaryVector;
use super::got::bound_addresses;
use super::link_map::{LinkMap, LinkMapEntry, ListState, debug_entry};
use super::maps::{Mapping, Mappings};
use super::memory::ProcessMemory;
use super::module::{Module, Role, mapped_file};
use super::module_cache::{ModuleCache, ModuleFile};
use super::planned::{LeftOut, PlannedAllocator, PlannedFunction, UNKNOWN_IMPLEMENTATION};
use crate::elf::{AllocatorFunction, Linkage};

/// How the modules of a process were learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linking {
    /// A static program: it is the only module.
    Static,
    /// From the dynamic linker's list.
    Dynamic {
        /// Whether the list was complete when it was read.
        state: ListState,
        /// Address of the function the linker calls after every change.
        notify: u64,
    },
}

/// A mapped file that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnusableModule {
    /// Path as the process sees it.
    pub path: PathBuf,
    /// Why, in words.
    pub reason: String,
}

/// One allocator in a process.
#[derive(Debug, Clone)]
pub struct Domain {
    /// Its module, by index.
    pub module: usize,
    /// What its symbols start with; empty for the plain names.
    pub prefix: &'static str,
    /// Process addresses of its code (all of its module's, unless it is the program's own): a call from here is its own.
    pub text: Range<u64>,
    /// Whether nothing that is probed is called from its functions but they themselves.
    pub is_leaf: bool,
    /// Its functions, with their probes placed. Addresses are link-time; add the module's bias.
    pub functions: Vec<PlannedFunction>,
    /// Functions that are not probed.
    pub left_out: Vec<LeftOut>,
}

/// What was found in a process.
#[derive(Debug, Clone)]
pub struct Discovery {
    /// The process.
    pub pid: u32,
    /// How its modules were learned.
    pub linking: Linking,
    /// Executable first, then in search order; other namespaces after that.
    pub modules: Vec<Module>,
    /// In the order of their modules: the first domain without a prefix is what most of the program's `malloc` is bound to.
    pub domains: Vec<Domain>,
    /// Mapped files that could not be used.
    pub unusable: Vec<UnusableModule>,
}

impl Discovery {
    /// Name of a domain: file name and, in parentheses, prefix.
    pub fn domain_name(&self, domain: &Domain) -> String {
        let file_name = self.modules.get(domain.module).map(Module::file_name).unwrap_or_default();
        if domain.prefix.is_empty() { file_name } else { format!("{file_name} ({})", domain.prefix) }
    }
}

/// Finds modules and allocators of a process, which should be stopped or at least not loading anything.
///
/// # Errors
/// [`TargetError::NotYet`] between exec and the linker's first report (a static program can be discovered at once);
/// otherwise if the process cannot be read or its executable is not an x86-64 ELF file.
pub fn discover(pid: u32, cache: &mut ModuleCache) -> Result<Discovery, TargetError> {
    let memory = ProcessMemory::open(pid)?;
    let auxv = AuxiliaryVector::read(pid)?;
    let mappings = Mappings::read(pid)?;
    let program = program(pid, auxv, &mappings, cache)?;

    let mut found =
        Discovery { pid, linking: Linking::Static, modules: Vec::new(), domains: Vec::new(), unusable: Vec::new() };
    match r_debug(&memory, auxv, &mappings, &program, cache)? {
        None => found.modules.push(program),
        Some(r_debug) => {
            let list = LinkMap::read(&memory, r_debug)?;
            found.linking = Linking::Dynamic { state: list.state, notify: list.notify };
            for (index, entry) in list.entries.iter().enumerate() {
                found.add(entry, index == 0, auxv, &mappings, cache);
            }
            if found.modules.is_empty() {
                return Err(TargetError::NotYet { pid });
            }
        }
    }
    for index in 0..found.modules.len() {
        let file = Arc::clone(&found.modules[index].file);
        for allocator in &file.allocators {
            let domain = domain(&memory, &mappings, &found.modules, index, allocator, cache)?;
            found.domains.push(domain);
        }
    }
    Ok(found)
}

/// The file the kernel executed, by the mapping of its entry point.
pub(super) fn program(
    pid: u32,
    auxv: AuxiliaryVector,
    mappings: &Mappings,
    cache: &mut ModuleCache,
) -> Result<Module, TargetError> {
    let mapping = mappings.at(auxv.entry).ok_or_else(|| TargetError::Inconsistent {
        pid,
        what: format!("nothing is mapped at its entry point {:#x}", auxv.entry),
    })?;
    let file = mapped_file(pid, mapping, true, cache)?;
    let load_bias = auxv.entry.wrapping_sub(file.image.entry_vaddr);
    Ok(module(pid, Role::Executable, load_bias, 0, file, mapping))
}

/// The dynamic linker's own file, if the program has one.
fn interpreter(
    pid: u32,
    auxv: AuxiliaryVector,
    mappings: &Mappings,
    cache: &mut ModuleCache,
) -> Result<Option<Module>, TargetError> {
    if auxv.interpreter_base == 0 {
        return Ok(None);
    }
    let Some(mapping) = mappings.at(auxv.interpreter_base) else { return Ok(None) };
    let file = mapped_file(pid, mapping, false, cache)?;
    // The base is where the first page of the file is; libraries are linked from 0, but need not be.
    let first = file.image.segments.iter().map(|segment| segment.vaddr).min().unwrap_or_default();
    let load_bias = auxv.interpreter_base.wrapping_sub(first & !0xfff);
    Ok(Some(module(pid, Role::Interpreter, load_bias, 0, file, mapping)))
}

fn module(pid: u32, role: Role, load_bias: u64, namespace: usize, file: Arc<ModuleFile>, mapping: &Mapping) -> Module {
    Module { pid, role, path: mapping.path.clone(), load_bias, namespace, file, mapping: mapping.clone() }
}

/// Where the list of modules starts: 0 if that is not known yet, `None` for static programs.
fn r_debug(
    memory: &ProcessMemory,
    auxv: AuxiliaryVector,
    mappings: &Mappings,
    program: &Module,
    cache: &mut ModuleCache,
) -> Result<Option<u64>, TargetError> {
    let image = &program.file.image;
    if matches!(image.linkage, Linkage::Static | Linkage::StaticPie) {
        return Ok(None);
    }
    if let Some(dynamic) = &image.dynamic {
        let size_bytes = dynamic.end - dynamic.start;
        if let Some(r_debug) = debug_entry(memory, program.address(dynamic.start), size_bytes)?
            && (r_debug != 0 || image.interpreter.is_some())
        {
            return Ok(Some(r_debug));
        }
    }
    // An executable without DT_DEBUG, or `ld.so program`: then the linker is what the kernel executed.
    let Some(linker) = linker(memory.pid(), auxv, mappings, program, cache)? else { return Ok(None) };
    let landmarks = linker.file.image.landmarks;
    match (landmarks.r_debug, landmarks.dl_debug_addr) {
        (Some(vaddr), _) => Ok(Some(linker.address(vaddr))),
        (None, Some(vaddr)) => Ok(Some(memory.word("the linker's list of modules", linker.address(vaddr))?)),
        (None, None) => Ok(None),
    }
}

/// The dynamic linker of a program, which can be the program.
pub(super) fn linker(
    pid: u32,
    auxv: AuxiliaryVector,
    mappings: &Mappings,
    program: &Module,
    cache: &mut ModuleCache,
) -> Result<Option<Module>, TargetError> {
    if let Some(interpreter) = interpreter(pid, auxv, mappings, cache)? {
        return Ok(Some(interpreter));
    }
    let is_linker = program.file.image.landmarks.dl_debug_state.is_some();
    Ok(is_linker.then(|| program.clone()))
}

impl Discovery {
    fn add(
        &mut self,
        entry: &LinkMapEntry,
        is_first: bool,
        auxv: AuxiliaryVector,
        mappings: &Mappings,
        cache: &mut ModuleCache,
    ) {
        let Some(mapping) = mappings.at(entry.dynamic).filter(|mapping| mapping.is_file()) else {
            // The kernel's vDSO is listed and has no file.
            let is_vdso = mappings.at(entry.dynamic).is_some_and(|mapping| mapping.path.as_os_str() == "[vdso]");
            if !is_vdso && entry.namespace == 0 {
                let path = PathBuf::from(String::from_utf8_lossy(&entry.name).into_owned());
                self.unusable.push(UnusableModule { path, reason: "no file is mapped at its dynamic section".into() });
            }
            return;
        };
        // Further namespaces list the linker again.
        let is_known =
            self.modules.iter().any(|known| known.load_bias == entry.load_bias && known.path == mapping.path);
        if is_known {
            return;
        }
        match mapped_file(self.pid, mapping, is_first, cache) {
            Ok(file) => {
                let interpreter_starts = auxv.interpreter_base != 0 && auxv.interpreter_base == entry.load_bias;
                let role = match (is_first, interpreter_starts || file.image.landmarks.rtld_global.is_some()) {
                    (true, _) => Role::Executable,
                    (false, true) => Role::Interpreter,
                    (false, false) => Role::Library,
                };
                self.modules.push(module(self.pid, role, entry.load_bias, entry.namespace, file, mapping));
            }
            Err(error) => {
                self.unusable.push(UnusableModule { path: mapping.path.clone(), reason: error.to_string() });
            }
        }
    }
}

/// Whether a module is the C library, whose allocator calls no other.
fn is_c_library(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.starts_with("libc.so") || name.starts_with("libc-") || name.starts_with("ld-musl")
}

fn domain(
    memory: &ProcessMemory,
    mappings: &Mappings,
    modules: &[Module],
    index: usize,
    allocator: &PlannedAllocator,
    cache: &ModuleCache,
) -> Result<Domain, TargetError> {
    let module = &modules[index];
    let mut domain = Domain {
        module: index,
        prefix: allocator.prefix,
        text: match &allocator.own_code {
            Some(own) => module.address(own.start)..module.address(own.end),
            None => module.text(),
        },
        is_leaf: is_c_library(&module.path),
        functions: allocator.functions.clone(),
        left_out: allocator.left_out.clone(),
    };
    for ifunc in &allocator.ifuncs {
        let names: Vec<&str> = ifunc.names.iter().map(|name| name.name.as_str()).collect();
        let bound = bound_addresses(memory, mappings, modules, module, &names, ifunc.vaddr)?;
        let implementations = bound.into_iter().map(|address| module.vaddr(address)).collect();
        domain.add_ifunc(module, ifunc, implementations, cache)?;
    }
    domain.functions.sort_by_key(|function| function.vaddr);
    Ok(domain)
}

impl Domain {
    /// Adds the implementations of an IFUNC; if none is bound yet, all that its resolver can choose.
    fn add_ifunc(
        &mut self,
        module: &Module,
        ifunc: &AllocatorFunction,
        bound: Vec<u64>,
        cache: &ModuleCache,
    ) -> Result<(), TargetError> {
        let (file, _) = module.open()?;
        let image = &module.file.image;
        let found = PlannedFunction::implementations(&image.code(&file), image, cache.rules(), ifunc, bound);
        if found.is_empty() {
            self.left_out.push(LeftOut { name: ifunc.name().to_owned(), reason: UNKNOWN_IMPLEMENTATION.to_owned() });
        }
        for function in found {
            if !self.functions.iter().any(|known| known.vaddr == function.vaddr) {
                self.functions.push(function);
            }
        }
        Ok(())
    }
}
