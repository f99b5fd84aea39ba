//! The compilers that are recorded, and how they are called directly. Responsible for command lines whose memory is one
//! process's; drivers (`gcc`, `g++`) are called as they are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::requirements::{find_program, program};
use crate::workload::{build_if_changed, scratch_dir};

/// GCC's C++ compiler proper.
pub fn cc1plus() -> PathBuf {
    let output = Command::new(program("g++")).arg("-print-prog-name=cc1plus").output().expect("g++ starts");
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    assert!(path.is_absolute(), "g++ knows no cc1plus");
    path
}

/// `cc1plus -O2 INPUT -o OUTPUT`, as the driver would call it.
pub fn cc1plus_command(input: &Path, output: &Path) -> Vec<String> {
    let multiarch = Command::new(program("g++")).arg("-print-multiarch").output().expect("g++ starts");
    let multiarch = String::from_utf8_lossy(&multiarch.stdout).trim().to_owned();
    [
        &cc1plus().display().to_string(),
        "-quiet",
        "-imultiarch",
        &multiarch,
        "-D_GNU_SOURCE",
        &input.display().to_string(),
        "-quiet",
        "-mtune=generic",
        "-march=x86-64",
        "-O2",
        "-o",
        &output.display().to_string(),
    ]
    .map(str::to_owned)
    .to_vec()
}

/// `clang-19 LEVEL -c INPUT -o OUTPUT` within one process.
pub fn clang_command(level: &str, input: &Path, output: &Path) -> Vec<String> {
    let input = input.display().to_string();
    let output = output.display().to_string();
    [&program("clang-19").display().to_string(), "-fintegrated-cc1", level, "-w", "-c", &input, "-o", &output]
        .map(str::to_owned)
        .to_vec()
}

/// The rustc executable itself, not rustup's proxy.
pub fn rustc() -> PathBuf {
    let output = Command::new(program("rustc")).args(["--print", "sysroot"]).output().expect("rustc starts");
    assert!(output.status.success(), "rustc --print sysroot failed");
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()).join("bin/rustc");
    assert!(path.is_file(), "no rustc at {}", path.display());
    path
}

/// A copy of the rustc executable that nobody else runs: kernel probes on its file see this test's run alone, even while
/// cargo builds elsewhere. It finds the toolchain's libraries through a link beside it.
pub fn private_rustc() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let original = rustc();
        let toolchain = original.parent().and_then(Path::parent).expect("rustc lies in TOOLCHAIN/bin");
        let private = scratch_dir().join("private-rustc");
        std::fs::create_dir_all(private.join("bin")).expect("the target folder is writable");
        let library = private.join("lib");
        let _ = std::fs::remove_file(&library);
        std::os::unix::fs::symlink(toolchain.join("lib"), &library).expect("links can be made");
        let copy = private.join("bin/rustc");
        build_if_changed(&copy, [original.clone()], "copy", |part| {
            std::fs::copy(&original, part).expect("rustc can be copied");
        });
        copy.canonicalize().expect("the copy was just made")
    })
    .clone()
}

/// `RUSTC --emit=obj INPUT -o OUTPUT`.
pub fn rustc_command(rustc: &Path, input: &Path, output: &Path) -> Vec<String> {
    [
        rustc.display().to_string(),
        "--edition".to_owned(),
        "2021".to_owned(),
        "--emit=obj".to_owned(),
        input.display().to_string(),
        "-o".to_owned(),
        output.display().to_string(),
    ]
    .to_vec()
}

/// Version of the Zig compiler that is fetched where none is installed.
const ZIG_VERSION: &str = "0.14.1";

/// A command that runs the Zig compiler: the installed one, else the one that Python's package index has.
///
/// # Errors
/// Why there is none.
pub fn zig() -> Result<Command, String> {
    if let Some(zig) = find_program("zig") {
        return Ok(Command::new(zig));
    }
    let python = find_program("python3").ok_or("neither zig nor python3 is installed")?;
    let packages = scratch_dir().join(format!("ziglang-{ZIG_VERSION}"));
    if !packages.join("ziglang").is_dir() {
        let wanted = format!("ziglang=={ZIG_VERSION}");
        let output = Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--target"])
            .arg(&packages)
            .arg(&wanted)
            .output()
            .map_err(|error| format!("python3 does not start: {error}"))?;
        if !output.status.success() {
            return Err(format!("pip cannot fetch {wanted}: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
    }
    let mut command = Command::new(python);
    command.args(["-m", "ziglang"]).env("PYTHONPATH", packages);
    Ok(command)
}

/// A workload in Zig, built with an optimisation mode and libc.
///
/// # Errors
/// Why there is no Zig compiler.
pub fn zig_program(name: &str, mode: &str) -> Result<PathBuf, String> {
    let mut command = zig()?;
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("workloads").join(format!("{name}.zig"));
    let folder = scratch_dir().join("zig");
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let program = folder.canonicalize().map_err(|error| error.to_string())?.join(format!("{name}-{mode}"));
    command.args(["build-exe", "-lc", "-O", mode]).arg(source);
    command.arg(format!("-femit-bin={}", program.display()));
    command.arg("--cache-dir").arg(folder.join("cache")).arg("--global-cache-dir").arg(folder.join("global"));
    let output = command.output().map_err(|error| error.to_string())?;
    assert!(output.status.success(), "zig: {}", String::from_utf8_lossy(&output.stderr));
    Ok(program)
}
