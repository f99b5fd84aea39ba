//! Puts probes into a process: discovery, descriptors, links, and the report on each. Responsible for placing each
//! function's probes once per process and for letting go of them without making anyone wait; where a probe may stand
//! is `placement`'s business, what is there `target`'s.

use std::{
    collections::HashMap,
    fs,
    ops::Range,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
    thread::{self, JoinHandle},
};

use probe_abi::{Action, ArgumentAt, Descriptor, FLAG_LEAF, FLAG_RESULT_BY_POINTER, FLAG_RET_PROBES};
use trace_format::table::{EntryKind, ResultProbe};

use crate::{
    CollectError,
    allocators::{Operation, Semantics},
    kernel::{Hook, Kernel, Link, Wanted},
    markers::{Marked, MarkerProfile, Marking},
    notice::{CodeRange, Meaning, ModuleFile, Plan, PlannedRow, ProbeReport},
    placement::{ArgLocation, ArgRegister, KernelRules, Placement},
    spaces::{Code, Spaces},
    target::{
        Discovery, Domain, FileIdentity, Linking, ListState, Mappings, ModuleCache, PlannedFunction, ResultSource,
        TargetError, discover, linker_notification, open_mapped_file,
    },
};

/// Threads that let go of one process's probes at once: each waits for a grace period of the kernel.
const RETIRING_THREADS: usize = 32;

/// A probed function of a process: its row, and all that it takes to place it again in a child.
#[derive(Debug, Clone)]
pub(crate) struct PlacedFunction {
    pub(crate) descriptor: Descriptor,
    pub(crate) planned: PlannedRow,
    pub(crate) probes: Vec<(Hook, u64)>,
}

impl PlacedFunction {
    fn wanted(&self) -> impl Iterator<Item = Wanted> + '_ {
        self.probes.iter().map(|(hook, offset)| Wanted { hook: *hook, offset: *offset, cookie: self.planned.row })
    }
}

/// What stands in a process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Placed {
    functions: Vec<PlacedFunction>,
    domains: HashMap<(FileIdentity, &'static str), u16>,
    marked: Marked,
    code: Code,
}

impl Placed {
    /// Whether an allocator was found, be it that the kernel refused its probes.
    pub(crate) fn has_allocator(&self) -> bool {
        !self.domains.is_empty()
    }

    /// Notes where a domain's code lies now: a library that was closed may be opened again elsewhere. `texts` are all the
    /// places where it lies; where it lies more than once, the first known one counts.
    fn moved(&mut self, kernel: &mut Kernel, domain: u16, texts: &[Range<u64>]) {
        let Some(text) = texts.first() else { return };
        for function in self.functions.iter_mut().filter(|function| function.descriptor.domain == domain) {
            let descriptor = &mut function.descriptor;
            if texts.iter().all(|text| (text.start, text.end) != (descriptor.text_start, descriptor.text_end)) {
                (descriptor.text_start, descriptor.text_end) = (text.start, text.end);
                kernel.describe_again(function.planned.row, *descriptor);
            }
        }
    }
}

/// Places probes; remembers files over processes.
pub(crate) struct Placer {
    cache: ModuleCache,
    files: HashMap<FileIdentity, Arc<ModuleFile>>,
    vdso: Arc<ModuleFile>,
    spaces: Spaces,
    marking: Marking,
    retiring: Vec<JoinHandle<()>>,
    warnings: Vec<String>,
    /// Rows whose probes are gone.
    unused: Arc<Mutex<Vec<u32>>>,
}

impl Placer {
    /// Places allocators' probes, and those of these markers.
    ///
    /// # Errors
    /// If a profile cannot be understood.
    pub(crate) fn new(markers: &[MarkerProfile]) -> Result<Self, CollectError> {
        let rules = KernelRules::default();
        Ok(Self {
            cache: ModuleCache::new(rules),
            marking: Marking::new(markers, rules)?,
            files: HashMap::new(),
            vdso: Arc::new(ModuleFile {
                path: "[vdso]".into(),
                build_id: Vec::new(),
                size_bytes: 0,
                file: None,
                functions: OnceLock::new(),
            }),
            spaces: Spaces::new(),
            retiring: Vec::new(),
            warnings: Vec::new(),
            unused: Arc::default(),
        })
    }

    /// Where the dynamic linker of a process reports changes: file and offset. `None` for static programs.
    ///
    /// # Errors
    /// If the process cannot be read, or its linker reports nothing.
    pub(crate) fn link_map_hook(&mut self, pid: u32) -> Result<Option<(PathBuf, u64)>, TargetError> {
        let Some(found) = linker_notification(pid, &mut self.cache)? else { return Ok(None) };
        let path = found.module.open().ok().map(|(_, path)| path);
        Ok(path.map(|path| (path, found.file_offset)))
    }

    /// Places what is not placed yet. `None` when the process is not ready or has nothing new.
    ///
    /// # Errors
    /// When the process cannot be read.
    pub(crate) fn place(
        &mut self,
        kernel: &mut Kernel,
        pid: u32,
        placed: &mut Placed,
    ) -> Result<Option<(Plan, Vec<Link>)>, TargetError> {
        let found = match discover(pid, &mut self.cache) {
            Err(TargetError::NotYet { .. }) => return Ok(None),
            other => other?,
        };
        if matches!(found.linking, Linking::Dynamic { state, .. } if state != ListState::Consistent) {
            return Ok(None);
        }
        let mut plan = Plan { ranges: self.code_ranges(pid, &found), ..Plan::default() };
        let mut links = Vec::new();
        if kernel.walks_stacks() {
            self.update_code(kernel, pid, &plan.ranges, placed);
        }
        for domain in &found.domains {
            let module = &found.modules[domain.module];
            let key = (module.file.identity, domain.prefix);
            if let Some(&number) = placed.domains.get(&key) {
                let again = found
                    .domains
                    .iter()
                    .filter(|other| (found.modules[other.module].file.identity, other.prefix) == key);
                placed.moved(kernel, number, &again.map(|domain| domain.text.clone()).collect::<Vec<_>>());
                continue;
            }
            let number = placed.domains.len() as u16 + 1;
            placed.domains.insert(key, number);
            let Some(file) = self.module_file(pid, &module.mapping, module.file.identity, domain.module == 0) else {
                continue;
            };
            let name = found.domain_name(domain);
            let space = placed.code.space;
            let site = Site { number, domain, name: &name, file: &file, space };
            let prepared: Vec<Prepared> =
                domain.functions.iter().map(|function| site.prepare(kernel, &module.file.image, function)).collect();
            attach(kernel, pid, &file, prepared, placed, &mut plan, &mut links);
            plan.probes.extend(domain.left_out.iter().map(|left| ProbeReport {
                module: Arc::clone(&file),
                symbol: left.name.clone(),
                function_offset: 0,
                instruction_offset: 0,
                instruction: String::new(),
                emulated: false,
                result: ResultProbe::None,
                reason: left.reason.clone(),
                placed: false,
            }));
        }
        self.mark(kernel, &found, placed, &mut plan, &mut links);
        Ok(Some((plan, links)))
    }

    /// Places the markers that are not placed yet.
    fn mark(
        &mut self,
        kernel: &mut Kernel,
        found: &Discovery,
        placed: &mut Placed,
        plan: &mut Plan,
        links: &mut Vec<Link>,
    ) {
        let modules = found.modules.iter().enumerate();
        let files: Vec<_> = modules
            .map(|(index, module)| self.module_file(found.pid, &module.mapping, module.file.identity, index == 0))
            .collect();
        for (file, prepared) in self.marking.prepare(kernel, found, &files, placed.code.space, &mut placed.marked) {
            attach(kernel, found.pid, &file, prepared, placed, plan, links);
        }
    }

    /// Tells the kernel where the code of a process lies now.
    fn update_code(&mut self, kernel: &mut Kernel, pid: u32, ranges: &[CodeRange], placed: &mut Placed) {
        if !self.spaces.update(kernel, pid, ranges, &mut placed.code) {
            return;
        }
        for function in &mut placed.functions {
            function.descriptor.space = placed.code.space;
            kernel.describe_again(function.planned.row, function.descriptor);
        }
    }

    /// What unwind tables cost so far: time spent on them, ns.
    pub(crate) fn unwind_build_ns(&self) -> u64 {
        self.spaces.build_ns()
    }

    /// What the person should know since the last time.
    pub(crate) fn take_warnings(&mut self) -> Vec<String> {
        let mut warnings = self.spaces.take_warnings();
        warnings.append(&mut self.warnings);
        warnings
    }

    /// Places in a forked child what stands in its parent, with rows of its own: they go blank when the child executes
    /// another program. The breakpoints are in its memory already, but the kernel runs our programs only for processes
    /// that a link names.
    pub(crate) fn again(&mut self, kernel: &mut Kernel, pid: u32, parent: &Placed) -> (Placed, Plan, Vec<Link>) {
        let code = self.spaces.share(&parent.code);
        let (domains, marked) = (parent.domains.clone(), parent.marked.clone());
        let mut placed = Placed { functions: Vec::new(), domains, marked, code };
        let mut plan = Plan::default();
        let mut by_file: HashMap<PathBuf, Vec<Wanted>> = HashMap::new();
        let mut refusal = None;
        for function in &parent.functions {
            let row = match kernel.describe(function.descriptor) {
                Ok(row) => row,
                Err(error) => {
                    refusal = Some(error.to_string());
                    continue;
                }
            };
            let mut function = function.clone();
            function.planned.row = row;
            if let Some(path) = descriptor_path(&function.planned.module) {
                by_file.entry(path).or_default().extend(function.wanted());
            }
            plan.rows.push(function.planned.clone());
            placed.functions.push(function);
        }
        let mut links = Vec::new();
        for (path, wanted) in &by_file {
            match kernel.attach(path, pid, wanted) {
                Ok(own) => links.extend(own),
                Err(error) => refusal = Some(error),
            }
        }
        // One that is gone makes no calls.
        if let Some(error) = refusal.filter(|_| Path::new(&format!("/proc/{pid}/exe")).exists()) {
            self.warnings.push(format!("process {pid}: calls of its allocator are not seen: {error}"));
        }
        (placed, plan, links)
    }

    /// Removes the probes of a process that is gone, has executed another program, or is let go of. They mean nothing from
    /// now on; the kernel takes them away in the background.
    pub(crate) fn retire(&mut self, kernel: &mut Kernel, placed: &Placed, links: Vec<Link>) {
        let rows: Vec<u32> = placed.functions.iter().map(|function| function.planned.row).collect();
        for row in &rows {
            kernel.blank(*row);
        }
        self.spaces.release(kernel, &placed.code);
        kernel.release_rows(std::mem::take(&mut *self.unused.lock().expect("nobody panics with it")));
        self.retiring.retain(|thread| !thread.is_finished());
        let unused = Arc::clone(&self.unused);
        self.retiring.push(thread::spawn(move || {
            // Each link waits for a grace period: together they wait for one.
            thread::scope(|scope| {
                let share = links.len().div_ceil(RETIRING_THREADS).max(1);
                let mut links = links.into_iter();
                loop {
                    let part: Vec<Link> = links.by_ref().take(share).collect();
                    if part.is_empty() {
                        break;
                    }
                    scope.spawn(move || drop(part));
                }
            });
            unused.lock().expect("nobody panics with it").extend(rows);
        }));
    }

    /// Waits until all probes are removed.
    pub(crate) fn finish(&mut self) {
        for thread in self.retiring.drain(..) {
            let _ = thread.join();
        }
    }

    /// All executable memory of a process, by address.
    fn code_ranges(&mut self, pid: u32, found: &Discovery) -> Vec<CodeRange> {
        let Ok(mappings) = Mappings::read(pid) else { return Vec::new() };
        let mut ranges = Vec::new();
        for mapping in mappings.iter().filter(|mapping| mapping.executable) {
            let (start, end) = (mapping.range.start, mapping.range.end);
            if mapping.path.as_os_str() == "[vdso]" {
                ranges.push(CodeRange { start, end, bias: start, module: Arc::clone(&self.vdso) });
                continue;
            }
            if !mapping.is_file() {
                continue;
            }
            let is_program = found.modules.first().is_some_and(|program| program.path == mapping.path);
            let Ok((file, _)) = open_mapped_file(pid, mapping, is_program) else { continue };
            let Ok(facts) = self.cache.get(&file, &mapping.path) else { continue };
            let Some(vaddr) = facts.image.code_vaddr(mapping.file_offset) else { continue };
            let Some(module) = self.module_file(pid, mapping, facts.identity, is_program) else { continue };
            ranges.push(CodeRange { start, end, bias: start.wrapping_sub(vaddr), module });
        }
        ranges.sort_unstable_by_key(|range| range.start);
        ranges
    }

    /// The shared description of a mapped file, with the file held open.
    fn module_file(
        &mut self,
        pid: u32,
        mapping: &crate::target::Mapping,
        identity: FileIdentity,
        is_program: bool,
    ) -> Option<Arc<ModuleFile>> {
        if let Some(known) = self.files.get(&identity) {
            return Some(Arc::clone(known));
        }
        let (file, _) = open_mapped_file(pid, mapping, is_program).ok()?;
        let facts = self.cache.get(&file, &mapping.path).ok()?;
        let module = Arc::new(ModuleFile {
            path: mapping.path.to_string_lossy().into_owned(),
            build_id: facts.image.build_id.clone(),
            size_bytes: facts.image.file_bytes,
            file: Some(file),
            functions: OnceLock::new(),
        });
        self.files.insert(identity, Arc::clone(&module));
        Some(module)
    }
}

/// A path that leads to a module's file whatever becomes of the process: our own descriptor.
fn descriptor_path(module: &ModuleFile) -> Option<PathBuf> {
    let file = module.file.as_ref()?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    fs::symlink_metadata(&path).is_ok().then_some(path)
}

/// One allocator of one process.
struct Site<'a> {
    number: u16,
    domain: &'a Domain,
    name: &'a str,
    file: &'a Arc<ModuleFile>,
    space: u32,
}

/// A function whose probes are ready to be placed, or cannot be.
pub(crate) struct Prepared {
    pub(crate) report: ProbeReport,
    pub(crate) function: Option<PlacedFunction>,
}

impl Site<'_> {
    /// Works out the probes of a function and gives it a descriptor. No probes: the report says why.
    fn prepare(&self, kernel: &mut Kernel, image: &crate::elf::ElfImage, function: &PlannedFunction) -> Prepared {
        let mut report = ProbeReport {
            module: Arc::clone(self.file),
            symbol: function.name().to_owned(),
            function_offset: image.file_offset(function.vaddr).unwrap_or(0),
            instruction_offset: 0,
            instruction: String::new(),
            emulated: false,
            result: ResultProbe::None,
            reason: String::new(),
            placed: false,
        };
        let placed = self.probes(kernel, image, function, &mut report);
        let function = placed.map_err(|reason| report.reason = reason).ok();
        Prepared { report, function }
    }

    fn probes(
        &self,
        kernel: &mut Kernel,
        image: &crate::elf::ElfImage,
        function: &PlannedFunction,
        report: &mut ProbeReport,
    ) -> Result<PlacedFunction, String> {
        let placement = function.entry.as_ref().map_err(ToString::to_string)?;
        report.instruction_offset = placement.offset;
        report.instruction.clone_from(&placement.instruction);
        report.emulated = placement.emulated;
        report.reason.clone_from(&placement.reason);
        let entry = function.vaddr.wrapping_add(placement.offset.into());
        let mut hooks = vec![(Hook::Enter, entry)];
        match &function.result {
            ResultSource::None => {}
            ResultSource::ReturnProbe => {
                report.result = ResultProbe::Return;
                hooks.push((Hook::Leave, entry));
            }
            ResultSource::Exits(exits) => {
                report.result = ResultProbe::RetInstructions;
                hooks.extend(exits.iter().map(|exit| (Hook::LeaveAtRet, *exit)));
            }
            ResultSource::Unknown(error) => {
                return Err(format!("an exception can leave it, and its ends cannot be found: {error}"));
            }
        }
        let descriptor = self
            .descriptor(function, placement, report.result)
            .ok_or("an argument stands where our programs cannot read it")?;
        let offsets: Vec<(Hook, u64)> = hooks
            .into_iter()
            .map(|(hook, vaddr)| {
                let offset = image.file_offset(vaddr);
                offset.map(|offset| (hook, offset)).ok_or(format!("no byte of the file is loaded at {vaddr:#x}"))
            })
            .collect::<Result<_, _>>()?;
        let row = kernel.describe(descriptor).map_err(|error| error.to_string())?;
        let planned = PlannedRow {
            row,
            module: Arc::clone(self.file),
            symbol: function.name().to_owned(),
            meaning: Meaning::Entry {
                local_domain: self.number,
                domain: self.name.to_owned(),
                kind: kind(&function.semantics),
            },
        };
        Ok(PlacedFunction { descriptor, planned, probes: offsets })
    }

    fn descriptor(&self, function: &PlannedFunction, placement: &Placement, result: ResultProbe) -> Option<Descriptor> {
        let semantics = &function.semantics;
        let order = semantics.arguments();
        let at = |position: Option<u8>| -> Option<ArgumentAt> {
            let Some(position) = position else { return Some(0) };
            let index = order.iter().position(|argument| *argument == position)?;
            location(*placement.arguments.get(index)?)
        };
        let by_pointer = semantics.out_pointer.is_some();
        let mut flags = if by_pointer { FLAG_RESULT_BY_POINTER } else { 0 };
        if result == ResultProbe::RetInstructions {
            flags |= FLAG_RET_PROBES;
        }
        if self.domain.is_leaf {
            flags |= FLAG_LEAF;
        }
        let action = match semantics.operation {
            Operation::Alloc | Operation::AllocZeroed => Action::Alloc,
            Operation::Realloc => Action::Realloc,
            Operation::Free => Action::Free,
        };
        Some(Descriptor {
            action: action as u8,
            flags,
            domain: self.number,
            stack_adjust: u16::try_from(placement.stack_adjust_bytes).ok()?,
            rbp_at: placement.caller_rbp.and_then(location).unwrap_or(0),
            reserved: 0,
            size_at: at(semantics.size)?,
            count_at: at(semantics.count)?,
            pointer_at: at(if by_pointer { semantics.out_pointer } else { semantics.pointer })?,
            alignment_at: at(semantics.alignment)?,
            space: self.space,
            text_start: self.domain.text.start,
            text_end: self.domain.text.end,
        })
    }
}

/// Places what was prepared, in one go; where the kernel refuses that, one function after the other.
fn attach(
    kernel: &mut Kernel,
    pid: u32,
    file: &ModuleFile,
    prepared: Vec<Prepared>,
    placed: &mut Placed,
    plan: &mut Plan,
    links: &mut Vec<Link>,
) {
    let path = descriptor_path(file);
    let mut place = |functions: &[Prepared]| {
        let wanted: Vec<Wanted> = functions
            .iter()
            .filter_map(|prepared| prepared.function.as_ref())
            .flat_map(PlacedFunction::wanted)
            .collect();
        match &path {
            Some(path) => kernel.attach(path, pid, &wanted),
            None => Err("its file cannot be opened any more".to_owned()),
        }
    };
    let at_once = place(&prepared);
    let together = at_once.is_ok();
    links.extend(at_once.into_iter().flatten());
    for mut one in prepared {
        if one.function.is_some() && !together {
            match place(std::slice::from_ref(&one)) {
                Ok(own) => links.extend(own),
                Err(error) => {
                    one.report.reason = format!("the kernel refused the probe: {error}");
                    one.function = None;
                }
            }
        }
        if let Some(function) = one.function {
            one.report.placed = true;
            plan.rows.push(function.planned.clone());
            placed.functions.push(function);
        }
        plan.probes.push(one.report);
    }
}

fn kind(semantics: &Semantics) -> EntryKind {
    match semantics.operation {
        Operation::Alloc => EntryKind::Alloc,
        Operation::AllocZeroed => EntryKind::AllocZeroed,
        Operation::Realloc => EntryKind::Realloc,
        Operation::Free => EntryKind::Free,
    }
}

/// The ABI's code of a place, if it has one.
pub(crate) fn location(at: ArgLocation) -> Option<ArgumentAt> {
    match at {
        ArgLocation::Register(register) => Some(match register {
            ArgRegister::Rdi => 1,
            ArgRegister::Rsi => 2,
            ArgRegister::Rdx => 3,
            ArgRegister::Rcx => 4,
            ArgRegister::R8 => 5,
            ArgRegister::R9 => 6,
            ArgRegister::Rax => 7,
            ArgRegister::Rbx => 8,
            ArgRegister::Rbp => 9,
            ArgRegister::R10 => 10,
            ArgRegister::R11 => 11,
            ArgRegister::R12 => 12,
            ArgRegister::R13 => 13,
            ArgRegister::R14 => 14,
            ArgRegister::R15 => 15,
        }),
        ArgLocation::Stack { offset_bytes } => {
            let slot = u8::try_from(offset_bytes / 8).ok().filter(|slot| *slot < 0x80)?;
            (offset_bytes % 8 == 0).then_some(0x80 | slot)
        }
    }
}
