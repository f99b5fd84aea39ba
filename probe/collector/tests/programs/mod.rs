//! Builds and runs small C programs for tests, and other tools that serve as oracles. Where one is missing, the test that needs it says
//! so and is skipped.
#![expect(dead_code, reason = "every test binary uses another part of it")]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Output of a tool, or `None` with a line on stderr if it is missing or fails.
pub(crate) fn tool(program: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(program).args(arguments).env("LC_ALL", "C").output() {
        Ok(output) if output.status.success() => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => {
            eprintln!("skipped: {program} {arguments:?} failed: {}", String::from_utf8_lossy(&output.stderr));
            None
        }
        Err(error) => {
            eprintln!("skipped: cannot run {program}: {error}");
            None
        }
    }
}

/// A directory of this test's own.
pub(crate) fn directory(test: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// Compiles C source, or `None` with a line on stderr if there is no compiler for it.
pub(crate) fn compile(directory: &Path, name: &str, source: &str, options: &[&str]) -> Option<PathBuf> {
    let source_path = directory.join(format!("{name}.c"));
    std::fs::write(&source_path, source).unwrap();
    let binary = directory.join(name);
    // A text that still runs cannot be written to.
    let _ = std::fs::remove_file(&binary);
    let mut arguments = vec!["-O1", "-w", "-o", binary.to_str()?, source_path.to_str()?];
    arguments.extend(options);
    tool("cc", &arguments)?;
    Some(binary)
}

/// A running program that printed a line and now waits; killed when dropped.
pub(crate) struct Running {
    child: Child,
    /// What it printed first.
    pub(crate) first_line: String,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let first_line = line(&mut child);
        Self { child, first_line }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it go on until it prints the next line.
    pub(crate) fn go_on(&mut self) -> String {
        use std::io::Write;
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        line(&mut self.child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn line(child: &mut Child) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    let output = child.stdout.as_mut().unwrap();
    while output.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// The real rustc behind the rustup proxy.
pub(crate) fn real_rustc() -> Option<PathBuf> {
    let sysroot = tool("rustc", &["--print", "sysroot"])?;
    let path = Path::new(sysroot.trim()).join("bin/rustc");
    path.exists().then_some(path)
}

/// The C library of this machine, where Debian or Fedora have it.
pub(crate) fn system_libc() -> Option<PathBuf> {
    let places = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6"];
    let found = places.iter().map(PathBuf::from).find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: no glibc in any of {places:?}");
    }
    found
}

/// Bytes as `readelf` writes them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
