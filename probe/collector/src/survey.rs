//! What a recording would find here, without making one. Responsible for `heaptape doctor`'s facts.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    CollectError,
    kernel::{Kernel, Tuning},
    machine,
    placement::KernelRules,
    target::{Mappings, ModuleCache, PlannedFunction, ResultSource, UNKNOWN_IMPLEMENTATION},
};

pub use crate::target::LeftOut;

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

/// What a recording would do in a file.
#[derive(Debug, Clone)]
pub struct FilePlan {
    /// Functions that would be probed.
    pub probes: Vec<PlannedProbe>,
    /// Functions with an allocator's names that would not be, and why.
    pub left_out: Vec<LeftOut>,
}

/// Where a probe would stand.
#[derive(Debug, Clone)]
pub struct PlannedProbe {
    /// The function.
    pub symbol: String,
    /// What the symbols of its allocator start with; empty for the plain names.
    pub allocator: &'static str,
    /// Whether it is one that a program may choose when it starts (IFUNC).
    pub is_chosen_at_run_time: bool,
    /// Bytes from its first instruction to the probed one.
    pub instruction_offset: u32,
    /// That instruction.
    pub instruction: String,
    /// Whether the kernel emulates it.
    pub emulated: bool,
    /// Why there.
    pub reason: String,
    /// How its result would be learned.
    pub result: ResultProbes,
}

/// How the result of a function would be learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultProbes {
    /// It has none (frees).
    None,
    /// By a return probe.
    Return,
    /// By probes on so many `ret` instructions, since an exception can leave the function.
    RetInstructions(usize),
}

/// Tries to load the kernel side.
pub fn machine() -> Survey {
    let kernel = machine::kernel_release();
    match Kernel::load(Tuning::PROOF) {
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

/// What a recording would probe in a file: the recorder's own plan.
///
/// # Errors
/// When it is no x86-64 ELF file.
pub fn plan(path: &Path) -> Result<FilePlan, CollectError> {
    let failed = |source: io::Error| CollectError::System {
        doing: format!("cannot look for allocators in {}", path.display()),
        source,
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut cache = ModuleCache::new(KernelRules::default());
    let module = cache.get(&file, path).map_err(|error| failed(io::Error::other(error)))?;
    let code = module.image.code(&file);
    let mut plan = FilePlan { probes: Vec::new(), left_out: module.left_out.clone() };
    for allocator in &module.allocators {
        plan.left_out.extend(allocator.left_out.iter().cloned());
        for function in &allocator.functions {
            plan.add(allocator.prefix, function, false);
        }
        for ifunc in &allocator.ifuncs {
            let found = PlannedFunction::implementations(&code, &module.image, cache.rules(), ifunc, Vec::new());
            if found.is_empty() {
                let reason = UNKNOWN_IMPLEMENTATION.to_owned();
                plan.left_out.push(LeftOut { name: ifunc.name().to_owned(), reason });
            }
            for function in &found {
                plan.add(allocator.prefix, function, true);
            }
        }
    }
    Ok(plan)
}

impl FilePlan {
    fn add(&mut self, prefix: &'static str, function: &PlannedFunction, is_chosen_at_run_time: bool) {
        let symbol = function.name().to_owned();
        let (placement, result) = match (&function.entry, &function.result) {
            (Err(error), _) => {
                return self.left_out.push(LeftOut { name: symbol, reason: error.to_string() });
            }
            (Ok(_), ResultSource::Unknown(error)) => {
                let reason = format!("an exception can leave it, and its ends cannot be found: {error}");
                return self.left_out.push(LeftOut { name: symbol, reason });
            }
            (Ok(placement), ResultSource::None) => (placement, ResultProbes::None),
            (Ok(placement), ResultSource::ReturnProbe) => (placement, ResultProbes::Return),
            (Ok(placement), ResultSource::Exits(exits)) => (placement, ResultProbes::RetInstructions(exits.len())),
        };
        self.probes.push(PlannedProbe {
            symbol,
            allocator: prefix,
            is_chosen_at_run_time,
            instruction_offset: placement.offset,
            instruction: placement.instruction.clone(),
            emulated: placement.emulated,
            reason: placement.reason.clone(),
            result,
        });
    }
}
