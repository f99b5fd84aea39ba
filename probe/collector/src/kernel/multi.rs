//! Programs and links of the kind `uprobe_multi`, which aya does not offer yet: one link holds any number of probes of a
//! file, placed and removed in one operation. Responsible for the bpf(2) calls this takes; maps stay aya's.

#![expect(unsafe_code, reason = "bpf(2) is a system call that takes pointers in a union")]

use std::{
    collections::{HashMap, HashSet},
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::{Object, ProgramSection, generated::bpf_attr};

const PROG_LOAD: i64 = 5;
const BTF_LOAD: i64 = 18;
const LINK_CREATE: i64 = 28;
const PROG_TYPE_KPROBE: u32 = 2;
const TRACE_UPROBE_MULTI: u32 = 48;
const RETURN_PROBE: u32 = 1;
/// `BPF_F_SLEEPABLE`.
const MAY_SLEEP: u32 = 1 << 4;

/// The programs of the object, relocated and ready to be loaded when first needed.
pub(super) struct MultiPrograms {
    object: Object,
    btf: OwnedFd,
    loaded: HashMap<&'static str, OwnedFd>,
}

/// One probe of a link.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    /// Offset in the file.
    pub(super) offset: u64,
    /// What the program gets to know it by.
    pub(super) cookie: u64,
}

impl MultiPrograms {
    /// Prepares the programs of an object whose maps exist already, by name.
    pub(super) fn prepare(object: &[u8], maps: &HashMap<String, RawFd>) -> io::Result<Self> {
        let other = |error: &dyn std::fmt::Display| io::Error::other(error.to_string());
        let mut object = Object::parse(object).map_err(|error| other(&error))?;
        let btf = object
            .fixup_and_sanitize_btf(aya::features().btf().ok_or_else(|| io::Error::other("the kernel takes no BTF"))?)
            .map_err(|error| other(&error))?
            .ok_or_else(|| io::Error::other("the object has no BTF"))?
            .to_bytes();
        let btf = load_btf(&btf)?;
        let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        let definitions = std::mem::take(&mut object.maps);
        let known = definitions.iter().filter_map(|(name, map)| Some((name.as_str(), *maps.get(name)?, map)));
        object.relocate_maps(known, &text).map_err(|error| other(&error))?;
        object.relocate_calls(&text).map_err(|error| other(&error))?;
        Ok(Self { object, btf, loaded: HashMap::new() })
    }

    /// Loads a program unless it is loaded.
    pub(super) fn load(&mut self, name: &'static str) -> io::Result<RawFd> {
        if let Some(fd) = self.loaded.get(name) {
            return Ok(fd.as_raw_fd());
        }
        let program = self.object.programs.get(name).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let function = &self.object.functions[&program.function_key()];
        let functions = function.func_info.func_info_bytes();
        let lines = function.line_info.line_info_bytes();
        // SAFETY: all zero is a valid attribute union.
        let mut attributes: bpf_attr = unsafe { std::mem::zeroed() };
        // SAFETY: the fields of the program-load variant, of an all-zero union.
        let load = unsafe { &mut attributes.__bindgen_anon_3 };
        for (to, from) in load.prog_name.iter_mut().zip(name.bytes().take(15)) {
            *to = from as libc::c_char;
        }
        load.prog_type = PROG_TYPE_KPROBE;
        load.expected_attach_type = TRACE_UPROBE_MULTI;
        let may_sleep = matches!(program.section, ProgramSection::UProbe { sleepable: true });
        load.prog_flags = if may_sleep { MAY_SLEEP } else { 0 };
        load.insns = function.instructions.as_ptr() as u64;
        load.insn_cnt = function.instructions.len() as u32;
        load.license = self.object.license.as_ptr() as u64;
        load.prog_btf_fd = self.btf.as_raw_fd() as u32;
        load.func_info = functions.as_ptr() as u64;
        load.func_info_cnt = function.func_info.func_info.len() as u32;
        load.func_info_rec_size = function.func_info_rec_size as u32;
        load.line_info = lines.as_ptr() as u64;
        load.line_info_cnt = function.line_info.line_info.len() as u32;
        load.line_info_rec_size = function.line_info_rec_size as u32;
        let fd = bpf(PROG_LOAD, &raw mut attributes, size_of::<bpf_attr>())?;
        let raw = fd.as_raw_fd();
        self.loaded.insert(name, fd);
        Ok(raw)
    }

    /// Links a program to points of a file, for one process.
    pub(super) fn link(
        &mut self,
        name: &'static str,
        is_return: bool,
        file: &Path,
        pid: u32,
        points: &[Point],
    ) -> io::Result<OwnedFd> {
        /// `link_create` of `union bpf_attr`, as far as `uprobe_multi` uses it.
        #[repr(C)]
        struct LinkCreate {
            program: u32,
            target: u32,
            attach_type: u32,
            flags: u32,
            path: u64,
            offsets: u64,
            reference_counters: u64,
            cookies: u64,
            count: u32,
            kind: u32,
            pid: u32,
            padding: u32,
        }
        let program = self.load(name)?;
        let path = CString::new(file.as_os_str().as_bytes())?;
        let offsets: Vec<u64> = points.iter().map(|point| point.offset).collect();
        let cookies: Vec<u64> = points.iter().map(|point| point.cookie).collect();
        let mut attributes = LinkCreate {
            program: program as u32,
            target: 0,
            attach_type: TRACE_UPROBE_MULTI,
            flags: 0,
            path: path.as_ptr() as u64,
            offsets: offsets.as_ptr() as u64,
            reference_counters: 0,
            cookies: cookies.as_ptr() as u64,
            count: points.len() as u32,
            kind: if is_return { RETURN_PROBE } else { 0 },
            pid,
            padding: 0,
        };
        bpf(LINK_CREATE, &raw mut attributes, size_of::<LinkCreate>())
    }

    /// The programs that are loaded.
    pub(super) fn loaded(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.loaded.values().map(OwnedFd::as_raw_fd)
    }
}

fn load_btf(bytes: &[u8]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct BtfLoad {
        btf: u64,
        log: u64,
        size: u32,
        log_size: u32,
        log_level: u32,
        padding: u32,
    }
    let mut attributes =
        BtfLoad { btf: bytes.as_ptr() as u64, log: 0, size: bytes.len() as u32, log_size: 0, log_level: 0, padding: 0 };
    bpf(BTF_LOAD, &raw mut attributes, size_of::<BtfLoad>())
}

/// A bpf(2) call that yields a descriptor.
pub(super) fn bpf<T>(command: i64, attributes: *mut T, size: usize) -> io::Result<OwnedFd> {
    // SAFETY: callers hand over a live structure of that size whose pointers outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}
