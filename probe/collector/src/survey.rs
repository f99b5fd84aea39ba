//! What a recording would find here, without making one. Responsible for `heaptape doctor`'s facts.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    CollectError,
    elf::ElfImage,
    kernel::{Kernel, Tuning},
    machine,
    placement::{Function, KernelRules, Need, place},
    target::Mappings,
};

/// Whether this machine can record.
#[derive(Debug, Clone)]
pub struct Survey {
    /// Kernel release.
    pub kernel: String,
    /// Why it cannot record, in a sentence.
    pub refusal: Option<String>,
    /// The kind of probe links the kernel offers, where it can record.
    pub link_kind: Option<String>,
}

/// Where a probe would stand.
#[derive(Debug, Clone)]
pub struct PlannedProbe {
    /// The function.
    pub symbol: String,
    /// Bytes from its first instruction to the probed one; `None` where no probe can stand.
    pub instruction_offset: Option<u32>,
    /// That instruction.
    pub instruction: String,
    /// Whether the kernel emulates it.
    pub emulated: bool,
    /// Why there, or why not.
    pub reason: String,
}

/// Tries to load the kernel side.
pub fn machine() -> Survey {
    let tuning = Tuning {
        ring_bytes: 1 << 16,
        lossless: false,
        max_frames: 0,
        free_stacks: false,
        floor: false,
        check_every: 0,
    };
    let kernel = machine::kernel_release();
    match Kernel::load(tuning) {
        Ok((loaded, _)) => {
            let link_kind = Some(loaded.link_kind().name().to_owned());
            Survey { kernel, refusal: None, link_kind }
        }
        Err(error) => Survey { kernel, refusal: Some(error.to_string()), link_kind: None },
    }
}

/// The C library this process runs with.
///
/// # Errors
/// When there is none (a static build).
pub fn c_library() -> Result<PathBuf, CollectError> {
    let own = std::process::id();
    let mappings = Mappings::read(own).map_err(|error| CollectError::System {
        doing: "cannot read our own memory map".into(),
        source: io::Error::other(error),
    })?;
    let is_libc = |path: &Path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libc.") || name == "libc.so")
    };
    let found = mappings.iter().find(|mapping| is_libc(&mapping.path)).map(|mapping| mapping.path.clone());
    found.ok_or_else(|| CollectError::System {
        doing: "this heaptape is linked statically; name a program".into(),
        source: io::Error::from(io::ErrorKind::NotFound),
    })
}

/// Where probes would stand in a file.
///
/// # Errors
/// When it is no x86-64 ELF file.
pub fn plan(path: &Path) -> Result<Vec<PlannedProbe>, CollectError> {
    let failed = |source: io::Error| CollectError::System {
        doing: format!("cannot look for allocators in {}", path.display()),
        source,
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let image = ElfImage::from_file(&file, path).map_err(|error| failed(io::Error::other(error)))?;
    let code = image.code(&file);
    let plan_one = |function: &crate::elf::AllocatorFunction| {
        let symbol = function.name().to_owned();
        let none = |reason: String| PlannedProbe {
            symbol: symbol.clone(),
            instruction_offset: None,
            instruction: String::new(),
            emulated: false,
            reason,
        };
        let Some(semantics) = function.semantics else { return none("its names contradict each other".into()) };
        if function.is_ifunc {
            return none("its implementation is chosen when a program starts (IFUNC)".into());
        }
        let at = Function { vaddr: function.vaddr, size_bytes: function.size_bytes };
        match place(&code, at, &Need::of(&semantics), KernelRules::default()) {
            Ok(placement) => PlannedProbe {
                symbol,
                instruction_offset: Some(placement.offset),
                instruction: placement.instruction,
                emulated: placement.emulated,
                reason: placement.reason,
            },
            Err(error) => none(error.to_string()),
        }
    };
    Ok(image.functions.iter().map(plan_one).collect())
}
