//! Puts the probes of markers into processes. Responsible for choosing a process's profile and for probing each of its files
//! once; where a probe stands is `plan`'s and `notes`' business.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use probe_abi::{
    Descriptor, FLAG_MARKER_BEGIN, FLAG_MARKER_END, FLAG_MARKER_INSIDE, FLAG_MARKER_TEXT, FLAG_MARKER_VALUE,
    MAX_DEREFERENCES,
};
use trace_format::{Marker, MarkerEnd, MarkerValue as Value, table::ResultProbe};

use super::{
    MarkerKind, MarkerProfile,
    notes::{StaticMarker, static_markers},
    plan::{Compiled, FilePlan, Found, Wanted},
};
use crate::{
    CollectError,
    kernel::{Hook, Kernel},
    notice::{Meaning, ModuleFile, PlannedRow, ProbeReport},
    placement::{KernelRules, Placement},
    placer::{PlacedFunction, Prepared, location},
    target::{Discovery, FileIdentity, Module},
};

/// Markers to place, and what is known of files; over all processes.
pub(crate) struct Marking {
    profiles: Vec<Compiled>,
    rules: KernelRules,
    plans: HashMap<(FileIdentity, usize), Arc<FilePlan>>,
    statics: HashMap<FileIdentity, Arc<Vec<StaticMarker>>>,
}

/// What stands in a process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Marked {
    profile: Option<usize>,
    /// Files whose functions were looked at.
    files: HashSet<FileIdentity>,
    /// Files whose static probes were looked at.
    static_files: HashSet<FileIdentity>,
}

impl Marking {
    pub(crate) fn new(profiles: &[MarkerProfile], rules: KernelRules) -> Result<Self, CollectError> {
        let profiles = profiles.iter().map(Compiled::new).collect::<Result<_, _>>()?;
        Ok(Self { profiles, rules, plans: HashMap::new(), statics: HashMap::new() })
    }

    /// The probes that a process lacks, by file, ready to be placed. `files` are those of its modules.
    pub(crate) fn prepare(
        &mut self,
        kernel: &mut Kernel,
        found: &Discovery,
        files: &[Option<Arc<ModuleFile>>],
        space: u32,
        marked: &mut Marked,
    ) -> Vec<(Arc<ModuleFile>, Vec<Prepared>)> {
        let mut prepared = Vec::new();
        let is_new = marked.profile.is_none();
        if is_new {
            marked.profile = self.choose(found);
        }
        for (module, file) in found.modules.iter().zip(files) {
            let Some(file) = file else { continue };
            let mut of_file = Vec::new();
            if marked.static_files.insert(module.file.identity) {
                for marker in self.statics(module).iter() {
                    of_file.push(prepare_static(kernel, module, file, space, marker));
                }
            }
            if let Some(profile) = marked.profile
                && marked.files.insert(module.file.identity)
            {
                let plan = self.plan(module, profile);
                let wanted = &self.profiles[profile].wanted;
                for found in &plan.found {
                    of_file.push(prepare(kernel, module, file, space, found, &wanted[found.wanted]));
                }
            }
            if !of_file.is_empty() {
                prepared.push((Arc::clone(file), of_file));
            }
        }
        if let (true, Some(profile), Some(Some(file))) = (is_new, marked.profile, files.first()) {
            let missing = self.missing(found, profile, file);
            if !missing.is_empty() {
                prepared.push((Arc::clone(file), missing));
            }
        }
        prepared
    }

    /// The first profile that fits the executable and finds the symbol that it requires.
    fn choose(&mut self, found: &Discovery) -> Option<usize> {
        let executable = found.modules.first()?.file_name();
        (0..self.profiles.len()).find(|&profile| {
            self.profiles[profile].is_for(&executable)
                && (self.profiles[profile].requires.is_none()
                    || found.modules.iter().any(|module| self.plan(module, profile).has_required))
        })
    }

    fn plan(&mut self, module: &Module, profile: usize) -> Arc<FilePlan> {
        let plan = self.plans.entry((module.file.identity, profile)).or_insert_with(|| {
            let file = module.open().ok();
            let make = |(file, _)| FilePlan::make(&module.file.image, &file, &self.profiles[profile], self.rules);
            Arc::new(file.map(make).unwrap_or_default())
        });
        Arc::clone(plan)
    }

    fn statics(&mut self, module: &Module) -> Arc<Vec<StaticMarker>> {
        let markers = self.statics.entry(module.file.identity).or_insert_with(|| {
            let file = if module.file.image.has_static_probes() { module.open().ok() } else { None };
            let find = |(file, _)| static_markers(&module.file.image, &file, self.rules);
            Arc::new(file.map(find).unwrap_or_default())
        });
        Arc::clone(markers)
    }

    /// Reports on what no module has, now that the process begins.
    fn missing(&mut self, found: &Discovery, profile: usize, file: &Arc<ModuleFile>) -> Vec<Prepared> {
        let plans: Vec<_> = found.modules.iter().map(|module| self.plan(module, profile)).collect();
        let is_found = |index: usize| {
            let wanted = &self.profiles[profile].wanted;
            // A function that several patterns of a rule mean is listed with the first of them.
            let same =
                |other: usize| wanted[other].rule == wanted[index].rule && wanted[other].kind == wanted[index].kind;
            plans.iter().flat_map(|plan| &plan.found).any(|found| same(found.wanted))
        };
        let wanted = self.profiles[profile].wanted.iter().enumerate();
        let missing = wanted.filter(|(index, _)| !is_found(*index)).map(|(_, wanted)| {
            let reason = format!(
                "{}: none of the modules loaded at the start has such a function",
                title(&wanted.rule, wanted.kind)
            );
            Prepared { report: report(file, &wanted.pattern.text, 0, reason), function: None }
        });
        missing.collect()
    }
}

/// How probes of a marker are called in the plan.
fn title(rule: &str, kind: MarkerKind) -> String {
    format!("marker `{rule}` ({})", kind.verb())
}

fn report(file: &Arc<ModuleFile>, symbol: &str, function_offset: u64, reason: String) -> ProbeReport {
    ProbeReport {
        module: Arc::clone(file),
        symbol: symbol.to_owned(),
        function_offset,
        instruction_offset: 0,
        instruction: String::new(),
        emulated: false,
        result: ResultProbe::None,
        reason,
        placed: false,
    }
}

fn prepare(
    kernel: &mut Kernel,
    module: &Module,
    file: &Arc<ModuleFile>,
    space: u32,
    found: &Found,
    wanted: &Wanted,
) -> Prepared {
    let title = title(&wanted.rule, wanted.kind);
    let function_offset = module.file.image.file_offset(found.vaddr).unwrap_or(0);
    let mut report = report(file, &found.symbol, function_offset, String::new());
    let placed = match &found.entry {
        Err(error) => Err(error.to_string()),
        Ok(placement) => {
            describe_placement(&mut report, placement);
            match descriptor(wanted, placement, space) {
                None => Err("its value stands where our programs cannot read it".to_owned()),
                Some(descriptor) => {
                    let marker = wanted.marker(&found.symbol);
                    let vaddr = found.vaddr.wrapping_add(placement.offset.into());
                    place(kernel, module, file, descriptor, marker, wanted.kind, vaddr)
                }
            }
        }
    };
    finish(report, &title, placed)
}

fn prepare_static(
    kernel: &mut Kernel,
    module: &Module,
    file: &Arc<ModuleFile>,
    space: u32,
    found: &StaticMarker,
) -> Prepared {
    let symbol = format!("{}:{}", found.provider, found.kind.verb());
    let function_offset = module.file.image.file_offset(found.vaddr).unwrap_or(0);
    let mut report = report(file, &symbol, function_offset, String::new());
    let placed = match (&found.place, &found.operand) {
        (Err(error), _) => Err(error.to_string()),
        (_, Err(error)) => Err(error.clone()),
        (Ok(placement), Ok(operand)) => {
            describe_placement(&mut report, placement);
            let mut offsets = [0; MAX_DEREFERENCES];
            offsets[0] = operand.offset.unwrap_or(0);
            let flags = flags(found.kind) | FLAG_MARKER_VALUE | FLAG_MARKER_TEXT | FLAG_MARKER_INSIDE;
            let count = u8::from(operand.offset.is_some());
            let descriptor = Descriptor { space, ..Descriptor::marker(flags, operand.base, offsets, count) };
            let name = found.provider.clone();
            let marker = Marker { name, symbol, value: Value::Text, ends_by: MarkerEnd::Explicit };
            place(kernel, module, file, descriptor, marker, found.kind, found.vaddr)
        }
    };
    finish(report, &title(&found.provider, found.kind), placed)
}

fn describe_placement(report: &mut ProbeReport, placement: &Placement) {
    report.instruction_offset = placement.offset;
    report.instruction.clone_from(&placement.instruction);
    report.emulated = placement.emulated;
    report.reason.clone_from(&placement.reason);
}

fn finish(mut report: ProbeReport, title: &str, placed: Result<PlacedFunction, String>) -> Prepared {
    let function = placed.map_err(|reason| report.reason = reason).ok();
    report.reason = format!("{title}: {}", report.reason);
    Prepared { report, function }
}

/// Gives a marker a descriptor of its own.
fn place(
    kernel: &mut Kernel,
    module: &Module,
    file: &Arc<ModuleFile>,
    descriptor: Descriptor,
    marker: Marker,
    kind: MarkerKind,
    vaddr: u64,
) -> Result<PlacedFunction, String> {
    let offset = module.file.image.file_offset(vaddr);
    let offset = offset.ok_or_else(|| format!("no byte of the file is loaded at {vaddr:#x}"))?;
    let row = kernel.describe(descriptor).map_err(|error| error.to_string())?;
    let symbol = marker.symbol.clone();
    let meaning = Meaning::Marker { marker, kind: kind as u8 };
    let planned = PlannedRow { row, module: Arc::clone(file), symbol, meaning };
    Ok(PlacedFunction { descriptor, planned, probes: vec![(Hook::Marker, offset)] })
}

fn flags(kind: MarkerKind) -> u8 {
    match kind {
        MarkerKind::Point => 0,
        MarkerKind::Begin => FLAG_MARKER_BEGIN,
        MarkerKind::End => FLAG_MARKER_END,
    }
}

fn descriptor(wanted: &Wanted, placement: &Placement, space: u32) -> Option<Descriptor> {
    let mut descriptor = Descriptor {
        stack_adjust: u16::try_from(placement.stack_adjust_bytes).ok()?,
        rbp_at: placement.caller_rbp.and_then(location).unwrap_or(0),
        space,
        ..Descriptor::marker(flags(wanted.kind), 0, [0; MAX_DEREFERENCES], 0)
    };
    if let Some(source) = &wanted.source {
        let order = source.arguments();
        let at = |position: u8| {
            let index = order.iter().position(|argument| *argument == position)?;
            location(*placement.arguments.get(index)?)
        };
        let text = if source.is_text { FLAG_MARKER_TEXT } else { 0 };
        let flags = descriptor.flags | FLAG_MARKER_VALUE | text;
        let value = Descriptor::marker(flags, at(source.argument)?, source.offsets, source.offset_count);
        descriptor = Descriptor {
            stack_adjust: descriptor.stack_adjust,
            rbp_at: descriptor.rbp_at,
            space,
            size_at: source.length.map_or(Some(0), at)?,
            alignment_at: source.size_bytes,
            ..value
        };
    }
    Some(descriptor)
}
