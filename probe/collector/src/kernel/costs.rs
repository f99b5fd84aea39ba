//! What the kernel counts of a program. One bpf(2) call that aya lacks.

#![expect(unsafe_code, reason = "bpf(2) is a system call")]

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

/// What the kernel knows of a program.
pub(super) fn program_info(fd: i32) -> Option<aya_obj::generated::bpf_prog_info> {
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
