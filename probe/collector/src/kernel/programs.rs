//! Loads the eBPF object and gives typed access to its maps; not responsible for where probes stand.

#![expect(unsafe_code, reason = "map values are plain bytes by declaration")]

use std::{
    num::NonZeroU32,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader, Pod, include_bytes_aligned,
    maps::{Array, HashMap, Map, MapData, PerCpuArray},
    programs::{
        UProbe,
        uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeScope},
    },
};
use probe_abi::{
    Control, CpuState, Descriptor, KNOWN_RULES, MAX_DESCRIPTORS, PENDING_DEPTH, Pending, THREAD_SLOTS, ThreadState,
    WalkState,
    unwind::{MAX_WIDE_RULES, Mapping, WideRule},
};

use super::{
    costs::{ProgramCosts, program_info},
    hooks::{Hook, Link, LinkKind, Wanted},
    multi::{MultiPrograms, Point},
    requirements::{check_machine, explain, kernel_version, missing},
    ring::Ring,
    tables::{TableTotals, Tables},
    walks::Walks,
};
use crate::{error::CollectError, unwind::UnwindTable};

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
    /// One perf link for each probe, as on kernels before 6.6. The kernel takes their breakpoints out of forked children that are
    /// not recorded, when these meet them.
    pub perf_links: bool,
}

impl Tuning {
    /// Enough to see whether this machine can record.
    pub(crate) const PROOF: Self = Self {
        ring_bytes: 1 << 16,
        lossless: false,
        max_frames: 0,
        free_stacks: false,
        floor: false,
        check_every: 0,
        perf_links: false,
    };

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
        let has_multi = kernel_version() >= (6, 6) && !tuning.perf_links;
        let multi = if has_multi { load_multi(&fds, tuning).ok() } else { None };
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

    /// Whether our programs have sent a thread a stop that [`Self::take_stop`] has not met.
    pub fn is_stopping(&self, tid: u32) -> bool {
        self.stops.get(&tid, 0).is_ok()
    }

    /// Whether they have sent any thread such a stop.
    pub fn is_any_stopping(&self) -> bool {
        self.stops.keys().next().is_some()
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
        let state = self.thread(tid);
        if state.is_some_and(|state| self.slots.get(&index, 0).is_ok_and(|Row(slot)| slot.tid == state.tid)) {
            let _ = self.slots.set(index, Row(NO_THREAD), 0);
        }
        // It may have been there before its slot was free.
        let _ = self.threads.remove(&tid);
        state
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
