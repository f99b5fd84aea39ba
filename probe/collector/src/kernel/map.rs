//! Maps made by ourselves, for those that lie in another map. Responsible for the bpf(2) calls on them.

#![expect(unsafe_code, reason = "bpf(2) is a system call that takes pointers in a union")]

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use super::multi::bpf;

const CREATE: i64 = 0;
const LOOKUP: i64 = 1;
const UPDATE: i64 = 2;
const UPDATE_BATCH: i64 = 26;
const TYPE_ARRAY: u32 = 2;

/// Makes an array.
pub(super) fn create_array(value_size: u32, max_entries: u32, map_flags: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        map_flags: u32,
        padding: [u32; 15],
    }
    let mut attributes =
        Create { map_type: TYPE_ARRAY, key_size: 4, value_size, max_entries, map_flags, padding: [0; 15] };
    bpf(CREATE, &raw mut attributes, size_of::<Create>())
}

/// Puts maps at consecutive indices of a map of maps, in one operation: the kernel waits for a grace period after each.
pub(super) fn put_all(outer: &OwnedFd, first: u32, inner: &[OwnedFd]) -> io::Result<()> {
    #[repr(C)]
    struct Batch {
        from: u64,
        to: u64,
        keys: u64,
        values: u64,
        count: u32,
        map: u32,
        element_flags: u64,
        flags: u64,
    }
    if inner.is_empty() {
        return Ok(());
    }
    let keys: Vec<u32> = (first..).take(inner.len()).collect();
    let values: Vec<u32> = inner.iter().map(|map| map.as_raw_fd() as u32).collect();
    let mut attributes = Batch {
        from: 0,
        to: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len() as u32,
        map: outer.as_raw_fd() as u32,
        element_flags: 0,
        flags: 0,
    };
    // SAFETY: the attributes name as many live keys and values as they say.
    let result = unsafe { libc::syscall(libc::SYS_bpf, UPDATE_BATCH, &raw mut attributes, size_of::<Batch>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Writes the value at an index.
pub(super) fn update<T>(map: &OwnedFd, index: u32, value: &T) -> io::Result<()> {
    element(UPDATE, map, index, std::ptr::from_ref(value).cast_mut())
}

/// Reads the value at an index into `value`. `T` must be of the map's size, and any bytes a value of it.
pub(super) fn lookup<T: aya::Pod>(map: &OwnedFd, index: u32, value: &mut T) -> io::Result<()> {
    element(LOOKUP, map, index, value)
}

fn element<T>(command: i64, map: &OwnedFd, index: u32, value: *mut T) -> io::Result<()> {
    #[repr(C)]
    struct Element {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let mut attributes = Element {
        map: map.as_raw_fd() as u32,
        padding: 0,
        key: (&raw const index) as u64,
        value: value as u64,
        flags: 0,
    };
    // SAFETY: the attributes name a live key and a live value of the sizes that the map has.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attributes, size_of::<Element>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
