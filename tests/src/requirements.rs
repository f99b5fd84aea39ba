//! Names the programs that live tests and the benchmark start, and the Debian packages they come from. Responsible for
//! saying what is missing; installs nothing (`.ci/test` does, from this list).

use std::path::PathBuf;

/// Debian 12 packages the tests use, beside a stable Rust toolchain. `heaptrack` is only compared with, if present.
pub const DEBIAN_PACKAGES: &[&str] = &[
    "gcc",           // C workloads, the preload counter, cc1 as a target
    "g++",           // C++ workloads, cc1plus as a target
    "libc6-dev",     // libc.a for the static workloads
    "clang-19",      // a compiler whose memory lives in libc under LLVM
    "tcc",           // a compiler that frees everything
    "make",          // a driver with a job server
    "bash",          // job control
    "coreutils",     // timeout
    "util-linux",    // setpriv, taskset, mount
    "valgrind",      // a third opinion on the planted truth
    "libc6-dbg",     // without which valgrind does not start on Debian
    "strace",        // another tracer
    "libunwind-dev", // a second opinion on stacks
    "libjemalloc2",  // an allocator that replays load
    "dpkg-dev",      // unpacks bison's source package
    "m4",            // bison runs it
    "heaptrack",     // the peer of the benchmark, where present
];

/// Where a program is on the search path.
pub fn find_program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The program's path. Panics with the Debian package list where it is missing: a live test that quietly did not run
/// would look like one that passed.
pub fn program(name: &str) -> PathBuf {
    find_program(name).unwrap_or_else(|| {
        panic!("`{name}` is not installed; on Debian: apt-get install {}", DEBIAN_PACKAGES.join(" "))
    })
}
