//! Loads the eBPF object and gives typed access to its maps. Responsible for what the kernel must offer and for saying
//! in words what is missing; not for where probes stand.

#![expect(unsafe_code, reason = "map values are plain bytes by declaration; one bpf(2) call that aya lacks")]

use std::{
    fs,
    num::NonZeroU32,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader, Pod, include_bytes_aligned,
    maps::{Array, HashMap, Map, MapData, PerCpuArray},
    programs::{
        UProbe,
        uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope},
    },
};
use probe_abi::{
    COOKIE_PLACE_SHIFT, Control, CpuState, Descriptor, KNOWN_RULES, MAX_DESCRIPTORS, PENDING_DEPTH, Pending, Place,
    THREAD_SLOTS, ThreadState, WalkState,
    unwind::{MAX_WIDE_RULES, Mapping, WideRule},
};

use super::{
    multi::{MultiPrograms, Point},
    ring::Ring,
    tables::{TableTotals, Tables},
    walks::Walks,
};
use crate::{error::CollectError, machine, unwind::UnwindTable};

static OBJECT: &[u8] = include_bytes_aligned!("../heaptape.bpf.o");

/// A map value of the ABI.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Row<T>(pub(super) T);

// SAFETY: `repr(C)` integers without padding that matters; every bit pattern is a value.
unsafe impl Pod for Row<Control> {}
// SAFETY: as above.
unsafe impl Pod for Row<Descriptor> {}
// SAFETY: as above.
unsafe impl Pod for Row<CpuState> {}
// SAFETY: as above.
unsafe impl Pod for Row<ThreadState> {}
// SAFETY: as above.
unsafe impl Pod for Row<WalkMemory> {}

/// A thread's memory for stack walks; only ever given back from here.
pub(super) type WalkMemory = [u64; size_of::<WalkState>() / 8];

/// A slot that nobody uses.
const NO_THREAD: ThreadState = ThreadState {
    depth: 0,
    record_count: 0,
    tid: 0,
    last_ns: 0,
    last_pid: 0,
    begin_count: 0,
    return_count: 0,
    abandoned_count: 0,
    unmatched_count: 0,
    nested_count: 0,
    last_freed: 0,
    last_freed_descriptor: 0,
    last_freed_slot: 0,
    pending: [Pending {
        slot: 0,
        return_address: 0,
        size: 0,
        pointer: 0,
        descriptor: 0,
        domain: 0,
        outer_domain: 0,
        alignment: 0,
        nested: 0,
        released: 0,
        ret_probes: 0,
        reserved: [0; 4],
    }; PENDING_DEPTH],
};

/// Which program a probe runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Entry of an allocator function.
    Enter,
    /// Its return, by return probe.
    Leave,
    /// Its return, by a probe on a `ret` instruction.
    LeaveAtRet,
    /// The dynamic linker's report.
    LinkMap,
    /// A marked place.
    Marker,
}

impl Hook {
    const ALL: [Self; 5] = [Self::Enter, Self::Leave, Self::LeaveAtRet, Self::LinkMap, Self::Marker];

    /// The program to run. One program can be a return probe and another probe at a time, but for links of the kind `Perf`.
    fn program(self, tuning: Tuning, kind: LinkKind) -> &'static str {
        let walks = tuning.max_frames > 0;
        let returns = self == Self::Leave && kind == LinkKind::Perf;
        match self {
            Self::LinkMap => "link_map",
            _ if tuning.floor => {
                if returns {
                    "empty_return"
                } else {
                    "empty"
                }
            }
            _ if returns => {
                if walks {
                    "call_return"
                } else {
                    "call_return_bare"
                }
            }
            _ => {
                if walks {
                    "call"
                } else {
                    "call_bare"
                }
            }
        }
    }

    /// What a probe's program gets to know it by.
    fn cookie(self, row: u32) -> u64 {
        let place = match self {
            Self::Leave => Place::Return,
            Self::LeaveAtRet => Place::Ret,
            Self::Marker => Place::Marker,
            Self::Enter | Self::LinkMap => Place::Entry,
        };
        (place as u64) << COOKIE_PLACE_SHIFT | u64::from(row)
    }
}

/// One or more placed probes; dropping it removes them, which waits for a grace period of the kernel.
pub enum Link {
    /// All probes of a hook in a file.
    Multi(OwnedFd),
    /// One probe.
    Single(UProbeLink),
}

/// The kind of links in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// One link for many probes (Linux 6.6). Runs for one process, also where others share its memory.
    Multi,
    /// One perf event for each probe. Runs for whoever shares the memory of the process.
    Perf,
}

impl LinkKind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Multi => "uprobe_multi",
            Self::Perf => "perf event",
        }
    }
}

/// A probe to place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// What it runs.
    pub hook: Hook,
    /// Offset in the file.
    pub offset: u64,
    /// Row of the descriptor table.
    pub cookie: u32,
}

/// How the programs behave; see `probe_abi::Control`.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// Size of the ring, a power of two of at least a page.
    pub ring_bytes: u64,
    /// Stop threads before the ring overflows.
    pub lossless: bool,
    /// Deepest stack walk, 0 for the return address alone.
    pub max_frames: u32,
    /// Stacks for frees too.
    pub free_stacks: bool,
    /// Attach empty programs: measures what probes cost by themselves.
    pub floor: bool,
    /// Stop at one in this many stacks to have it checked; 0 for none.
    pub check_every: u32,
}

impl Tuning {
    fn control(&self, armed: bool) -> Control {
        Control {
            armed: u32::from(armed),
            max_frames: self.max_frames,
            stop_bytes: if self.lossless { self.ring_bytes / 8 * 5 } else { 0 },
            free_stacks: u32::from(self.free_stacks),
            lossy: 0,
            check_mask: if self.ring_bytes >= 1 << 20 { 7 } else { 0 },
            check_every: self.check_every,
        }
    }
}

/// The kernel side, loaded.
pub struct Kernel {
    ebpf: Ebpf,
    multi: Option<MultiPrograms>,
    tuning: Tuning,
    control: Array<MapData, Row<Control>>,
    slots: Array<MapData, Row<ThreadState>>,
    threads: HashMap<MapData, u32, Row<ThreadState>>,
    walks: Walks,
    tables: Tables,
    stops: HashMap<MapData, u32, u32>,
    cpus: PerCpuArray<MapData, Row<CpuState>>,
    descriptors: Array<MapData, Row<Descriptor>>,
    rows: RowTable,
    guardian: (OwnedFd, OwnedFd),
    /// Programs that are loaded late name the ring by this descriptor.
    _ring: Map,
}

/// Hands out rows of the descriptor table.
#[derive(Debug, Default)]
pub struct RowTable {
    next: u32,
    free: Vec<u32>,
}

impl RowTable {
    /// A row nobody uses; `None` when the table is full.
    pub fn take(&mut self) -> Option<u32> {
        self.free.pop().or_else(|| {
            (self.next < MAX_DESCRIPTORS).then(|| {
                self.next += 1;
                self.next - 1
            })
        })
    }
}

pub(super) fn missing(what: impl std::fmt::Display) -> CollectError {
    CollectError::Unsupported { reason: what.to_string() }
}

impl Kernel {
    /// Loads programs and maps and maps the ring.
    ///
    /// # Errors
    /// `Unsupported` with one sentence on what is missing and how to get it.
    pub fn load(tuning: Tuning) -> Result<(Self, Ring), CollectError> {
        check_machine()?;
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("RING", tuning.ring_bytes as u32)
            .load(OBJECT)
            .map_err(|error| missing(explain(&error)))?;
        let fds = ebpf.maps().filter_map(|(name, map)| Some((name.to_owned(), map_fd(map)?))).collect();
        let multi = if kernel_version() >= (6, 6) { load_multi(&fds, tuning).ok() } else { None };
        if multi.is_none() {
            load_perf(&mut ebpf, tuning)?;
        }
        let mut take = |name: &str| ebpf.take_map(name).expect("the embedded object has this map");
        let control_map = take("CONTROL");
        let stops_map = take("STOPS");
        let guardian = (share(&control_map)?, share(&stops_map)?);
        let broken = |error: aya::maps::MapError| missing(explain(&error));
        let ring_map = take("RING");
        let ring_fd = share(&ring_map)?;
        let ring = Ring::map(ring_fd, tuning.ring_bytes)
            .map_err(|error| missing(format!("the ring cannot be mapped: {error}")))?;
        let mut kernel = Self {
            control: Array::try_from(control_map).map_err(broken)?,
            slots: Array::try_from(take("SLOTS")).map_err(broken)?,
            threads: HashMap::try_from(take("THREADS")).map_err(broken)?,
            walks: Walks::new(&mut take, tuning.max_frames > 0)?,
            tables: Tables::new(take("TABLES"), take("WIDE_RULES"), take("SPACES"))?,
            stops: HashMap::try_from(stops_map).map_err(broken)?,
            cpus: PerCpuArray::try_from(take("CPUS")).map_err(broken)?,
            descriptors: Array::try_from(take("DESCRIPTORS")).map_err(broken)?,
            rows: RowTable::default(),
            guardian,
            _ring: ring_map,
            multi,
            ebpf,
            tuning,
        };
        kernel.arm(false)?;
        Ok((kernel, ring))
    }

    /// Lets the programs record, or makes them return at once.
    ///
    /// # Errors
    /// When the control map cannot be written.
    pub fn arm(&mut self, armed: bool) -> Result<(), CollectError> {
        self.control.set(0, Row(self.tuning.control(armed)), 0).map_err(|error| missing(explain(&error)))
    }

    /// Writes one descriptor and returns its row, the cookie of its probes.
    ///
    /// # Errors
    /// When the table is full or cannot be written.
    pub fn describe(&mut self, descriptor: Descriptor) -> Result<u32, CollectError> {
        let row = self
            .rows
            .take()
            .ok_or_else(|| CollectError::TooMany { what: "allocator functions", limit: u64::from(MAX_DESCRIPTORS) })?;
        self.descriptors.set(row, Row(descriptor), 0).map_err(|error| missing(explain(&error)))?;
        Ok(row)
    }

    /// Writes a row anew: its probes mean something else from now on.
    pub fn describe_again(&mut self, row: u32, descriptor: Descriptor) {
        let _ = self.descriptors.set(row, Row(descriptor), 0);
    }

    /// Whether stacks are walked, and need tables.
    pub fn walks_stacks(&self) -> bool {
        self.tuning.max_frames > 0 && !self.tuning.floor
    }

    /// Gives the kernel a module's unwind table; returns its number.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn load_table(&mut self, table: &UnwindTable) -> Result<u32, CollectError> {
        self.tables.load(table)
    }

    /// Gives the kernel the code of a process, with the tables loaded so far; returns its number.
    ///
    /// # Errors
    /// When it has more executable mappings than a walk can search, or there is no room.
    pub fn load_space(&mut self, mappings: &[Mapping]) -> Result<u32, CollectError> {
        self.tables.commit()?;
        self.tables.load_space(mappings)
    }

    /// Forgets the code of a process.
    pub fn drop_space(&mut self, space: u32) {
        self.tables.drop_space(space);
    }

    /// What the tables take.
    pub fn table_totals(&self) -> TableTotals {
        self.tables.totals()
    }

    /// Kernel memory that stack walks take: tables, lists of mappings, known rules, and memory of threads.
    pub fn unwind_bytes(&self) -> u64 {
        let fixed = u64::from(KNOWN_RULES) * 16 + u64::from(MAX_WIDE_RULES) * size_of::<WideRule>() as u64;
        fixed + self.walks.kernel_bytes() + self.tables.totals().kernel_bytes
    }

    /// Makes a row mean nothing: probes that still carry it are ignored.
    pub fn blank(&mut self, row: u32) {
        let _ = self.descriptors.set(row, Row(Descriptor::default()), 0);
    }

    /// Gives rows back when no probe uses them any more.
    pub fn release_rows(&mut self, rows: impl IntoIterator<Item = u32>) {
        self.rows.free.extend(rows);
    }

    /// The kind of links in use.
    pub fn link_kind(&self) -> LinkKind {
        if self.multi.is_some() { LinkKind::Multi } else { LinkKind::Perf }
    }

    /// Places probes of process `pid` in a file: all of them, or none.
    ///
    /// # Errors
    /// The kernel's refusal of one of them, in words.
    pub fn attach(&mut self, file: &Path, pid: u32, probes: &[Wanted]) -> Result<Vec<Link>, String> {
        let tuning = self.tuning;
        let Some(multi) = &mut self.multi else {
            return probes.iter().map(|probe| self.attach_one(file, pid, *probe)).collect();
        };
        let mut links = Vec::new();
        for hook in Hook::ALL {
            let of_hook = probes.iter().filter(|probe| probe.hook == hook);
            let points: Vec<Point> =
                of_hook.map(|probe| Point { offset: probe.offset, cookie: hook.cookie(probe.cookie) }).collect();
            if !points.is_empty() {
                let link = multi
                    .link(hook.program(tuning, LinkKind::Multi), hook == Hook::Leave, file, pid, &points)
                    .map_err(|error| error.to_string())?;
                links.push(Link::Multi(link));
            }
        }
        Ok(links)
    }

    fn attach_one(&mut self, file: &Path, pid: u32, probe: Wanted) -> Result<Link, String> {
        let program: &mut UProbe = self
            .ebpf
            .program_mut(probe.hook.program(self.tuning, LinkKind::Perf))
            .expect("the embedded object has this program")
            .try_into()
            .expect("it is a uprobe");
        if program.fd().is_err() {
            program.load().map_err(|error| explain(&error))?;
        }
        let point = UProbeAttachPoint {
            location: UProbeAttachLocation::AbsoluteOffset(probe.offset),
            cookie: Some(probe.hook.cookie(probe.cookie)),
        };
        let scope = UProbeScope::OneProcess(NonZeroU32::new(pid).expect("no process has pid 0"));
        let link = program.attach(point, file, scope).and_then(|id| program.take_link(id));
        link.map(Link::Single).map_err(|error| explain(&error))
    }

    /// Why our programs stopped a thread, if they did; forgets it.
    pub fn take_stop(&mut self, tid: u32) -> Option<u32> {
        let reason = self.stops.get(&tid, 0).ok()?;
        let _ = self.stops.remove(&tid);
        Some(reason)
    }

    /// What is known of a thread's calls; forgets it. To be called when the thread is gone or the recording ends.
    pub fn take_thread(&mut self, tid: u32) -> Option<ThreadState> {
        self.walks.release(tid);
        let index = tid % THREAD_SLOTS;
        if let Ok(Row(state)) = self.slots.get(&index, 0)
            && state.tid == u64::from(tid)
        {
            let _ = self.slots.set(index, Row(NO_THREAD), 0);
            return Some(state);
        }
        let Row(state) = self.threads.get(&tid, 0).ok()?;
        let _ = self.threads.remove(&tid);
        Some(state)
    }

    /// What is known of a thread's calls now.
    pub fn thread(&self, tid: u32) -> Option<ThreadState> {
        let slot = self.slots.get(&(tid % THREAD_SLOTS), 0).ok().map(|Row(state)| state);
        let slot = slot.filter(|state| state.tid == u64::from(tid));
        slot.or_else(|| self.threads.get(&tid, 0).ok().map(|Row(state)| state))
    }

    /// Losses and stops, by CPU.
    pub fn cpu_states(&self) -> Vec<CpuState> {
        self.cpus.get(&0, 0).map(|values| values.iter().map(|Row(state)| *state).collect()).unwrap_or_default()
    }

    /// Runs of our programs that the kernel skipped, and time and runs where the kernel keeps them.
    pub fn program_costs(&self) -> ProgramCosts {
        let mut costs = ProgramCosts::default();
        let of_perf = self.ebpf.programs().filter_map(|(_, program)| Some(program.fd().ok()?.as_fd().as_raw_fd()));
        let of_multi = self.multi.iter().flat_map(MultiPrograms::loaded);
        for info in of_perf.chain(of_multi).filter_map(program_info) {
            costs.missed_run_count += info.recursion_misses;
            costs.run_time_ns += info.run_time_ns;
            costs.run_count += info.run_cnt;
        }
        costs
    }

    /// The control and the stop map, for the guardian.
    pub fn guardian_maps(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.guardian.0.as_fd(), self.guardian.1.as_fd())
    }
}

/// Loads the programs that every recording needs, as `uprobe_multi`.
fn load_multi(maps: &std::collections::HashMap<String, RawFd>, tuning: Tuning) -> std::io::Result<MultiPrograms> {
    let mut multi = MultiPrograms::prepare(OBJECT, maps)?;
    for hook in [Hook::Enter, Hook::Leave, Hook::LinkMap] {
        multi.load(hook.program(tuning, LinkKind::Multi))?;
    }
    Ok(multi)
}

/// Loads all programs through aya, for perf links.
fn load_perf(ebpf: &mut Ebpf, tuning: Tuning) -> Result<(), CollectError> {
    let names: std::collections::BTreeSet<&str> =
        Hook::ALL.iter().map(|hook| hook.program(tuning, LinkKind::Perf)).collect();
    for name in names {
        let program: &mut UProbe =
            ebpf.program_mut(name).expect("the embedded object has this program").try_into().expect("it is a uprobe");
        program.load().map_err(|error| missing(explain(&error)))?;
    }
    Ok(())
}

/// Descriptor of a map of any of the kinds we have.
fn map_fd(map: &Map) -> Option<RawFd> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data)
        | Map::ArrayOfMaps(data) => Some(data.fd().as_fd().as_raw_fd()),
        _ => None,
    }
}

/// A second handle on a map.
pub(super) fn share(map: &Map) -> Result<OwnedFd, CollectError> {
    let (Map::Array(data) | Map::HashMap(data) | Map::RingBuf(data) | Map::ArrayOfMaps(data)) = map else {
        unreachable!("maps of other kinds are not shared")
    };
    data.fd().as_fd().try_clone_to_owned().map_err(|error| missing(format!("a map cannot be shared: {error}")))
}

/// What the kernel counted of our programs.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProgramCosts {
    /// Runs skipped by recursion protection.
    pub missed_run_count: u64,
    /// Time inside the programs, where kept.
    pub run_time_ns: u64,
    /// Runs, where kept.
    pub run_count: u64,
}

fn program_info(fd: i32) -> Option<aya_obj::generated::bpf_prog_info> {
    const OBJ_GET_INFO_BY_FD: i64 = 15;
    #[repr(C)]
    struct Attributes {
        fd: u32,
        length: u32,
        info: u64,
        padding: [u64; 14],
    }
    // SAFETY: the info is plain integers.
    let mut info: aya_obj::generated::bpf_prog_info = unsafe { std::mem::zeroed() };
    let mut attributes =
        Attributes { fd: fd as u32, length: size_of_val(&info) as u32, info: (&raw mut info) as u64, padding: [0; 14] };
    // SAFETY: the attributes name a buffer of the length given, which outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, OBJ_GET_INFO_BY_FD, &raw mut attributes, size_of::<Attributes>()) };
    (result == 0).then_some(info)
}

/// Refuses machines and kernels we cannot record on, in a sentence.
fn check_machine() -> Result<(), CollectError> {
    if !cfg!(target_arch = "x86_64") {
        return Err(missing("recording needs an x86-64 machine; traces can be analysed anywhere"));
    }
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } != 0 && !has_bpf_capabilities() {
        return Err(missing(
            "recording needs root (or CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and CAP_SYS_ADMIN): run it with sudo",
        ));
    }
    if kernel_version() < (6, 1) {
        return Err(missing(format!("recording needs Linux 6.1 or newer, this is {}", machine::kernel_release())));
    }
    if !Path::new("/sys/bus/event_source/devices/uprobe").exists() {
        return Err(missing("this kernel has no uprobes (CONFIG_UPROBE_EVENTS): use a kernel built with them"));
    }
    Ok(())
}

/// Major and minor version of the running kernel.
fn kernel_version() -> (u32, u32) {
    let release = machine::kernel_release();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Whether the effective capabilities suffice (`CAP_SYS_ADMIN`, `CAP_SYS_PTRACE`, `CAP_PERFMON`, `CAP_BPF`).
fn has_bpf_capabilities() -> bool {
    const NEEDED: [u32; 4] = [21, 19, 38, 39];
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .unwrap_or(0);
    NEEDED.iter().all(|bit| effective >> bit & 1 == 1)
}

/// An error with all its causes in one line.
pub(super) fn explain(error: &dyn std::error::Error) -> String {
    let mut text = format!("the kernel refused our eBPF programs: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
