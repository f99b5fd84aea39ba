//! `/proc/PID/maps`: what is mapped where, and how to open the file behind a mapping. Responsible for the text of that file and for
//! the ways to a file; not for what is in it.

use std::ffi::OsString;
use std::fs::File;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::TargetError;
use super::memory::proc_error;

/// One mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Its addresses.
    pub range: Range<u64>,
    /// Whether it can be written to.
    pub writable: bool,
    /// Whether code can run there.
    pub executable: bool,
    /// Where in its file it starts.
    pub file_offset: u64,
    /// Device number as the text gives it (`major << 32 | minor`), 0 for anonymous memory.
    pub device: u64,
    /// Inode on it, 0 for anonymous memory.
    pub inode: u64,
    /// Path as the process sees it, or a bracketed name, or empty. ` (deleted)` is stripped.
    pub path: PathBuf,
    /// Whether the file has no name any more (or never had one, like a memfd).
    pub deleted: bool,
}

impl Mapping {
    /// Whether a file is behind it.
    pub fn is_file(&self) -> bool {
        self.inode != 0 && self.path.as_os_str().as_bytes().starts_with(b"/")
    }
}

/// All mappings of a process, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mappings(Vec<Mapping>);

impl Mappings {
    /// Of a process.
    ///
    /// # Errors
    /// If the process is gone or may not be read.
    pub fn read(pid: u32) -> Result<Self, TargetError> {
        let path = PathBuf::from(format!("/proc/{pid}/maps"));
        let text = std::fs::read(&path).map_err(|source| proc_error(pid, path, source))?;
        Ok(Self::parse(&text))
    }

    /// From the text of the file; lines that make no sense are skipped.
    pub fn parse(text: &[u8]) -> Self {
        let mut mappings: Vec<_> = text.split(|&byte| byte == b'\n').filter_map(parse_line).collect();
        mappings.sort_by_key(|mapping| mapping.range.start);
        Self(mappings)
    }

    /// In order of addresses.
    pub fn iter(&self) -> std::slice::Iter<'_, Mapping> {
        self.0.iter()
    }

    /// The mapping an address lies in.
    pub fn at(&self, address: u64) -> Option<&Mapping> {
        let after = self.0.partition_point(|mapping| mapping.range.start <= address);
        self.0[..after].last().filter(|mapping| mapping.range.contains(&address))
    }

    /// Whether code can run at an address.
    pub fn is_executable(&self, address: u64) -> bool {
        self.at(address).is_some_and(|mapping| mapping.executable)
    }
}

impl<'a> IntoIterator for &'a Mappings {
    type Item = &'a Mapping;
    type IntoIter = std::slice::Iter<'a, Mapping>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// `start-end perms offset major:minor inode      path`
fn parse_line(line: &[u8]) -> Option<Mapping> {
    let mut rest = line;
    let mut field = || {
        let start = rest.iter().position(|&byte| byte != b' ')?;
        let end = rest[start..].iter().position(|&byte| byte == b' ').map_or(rest.len(), |length| start + length);
        let field = std::str::from_utf8(&rest[start..end]).ok()?;
        rest = &rest[end..];
        Some(field)
    };
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = field()?.split_once('-')?;
    let permissions = field()?.as_bytes();
    let file_offset = hex(field()?)?;
    let (major, minor) = field()?.split_once(':')?;
    let inode = field()?.parse().ok()?;
    let path = rest.iter().position(|&byte| byte != b' ').map_or(&[][..], |start| &rest[start..]);
    let (path, deleted) = match path.strip_suffix(b" (deleted)") {
        Some(path) => (path, true),
        None => (path, false),
    };
    Some(Mapping {
        range: hex(start)?..hex(end)?,
        writable: permissions.get(1) == Some(&b'w'),
        executable: permissions.get(2) == Some(&b'x'),
        file_offset,
        device: hex(major)? << 32 | hex(minor)?,
        inode,
        path: PathBuf::from(OsString::from_vec(unescape(path))),
        deleted,
    })
}

/// The kernel writes a newline in a path as `\012`, and nothing else specially.
fn unescape(path: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, behind)) = rest.split_first() {
        if let Some(behind) = rest.strip_prefix(b"\\012") {
            plain.push(b'\n');
            rest = behind;
        } else {
            plain.push(first);
            rest = behind;
        }
    }
    plain
}

/// Opens the file behind a mapping: the very file that is mapped, also when it was replaced or deleted, or lies in a container or an
/// overlay. Where that is not permitted, the file of the same path as the process sees it.
///
/// # Errors
/// If none of the ways leads to a file.
pub fn open_mapped_file(pid: u32, mapping: &Mapping, is_executable_file: bool) -> Result<(File, PathBuf), TargetError> {
    let Range { start, end } = mapping.range;
    let direct = PathBuf::from(format!("/proc/{pid}/map_files/{start:x}-{end:x}"));
    let first_error = match File::open(&direct) {
        Ok(file) => return Ok((file, direct)),
        Err(error) => error,
    };
    let exe = PathBuf::from(format!("/proc/{pid}/exe"));
    let mut ways = Vec::new();
    if is_executable_file {
        ways.push(exe);
    }
    if !mapping.deleted && mapping.is_file() {
        let relative = mapping.path.strip_prefix("/").unwrap_or(&mapping.path);
        ways.push(Path::new(&format!("/proc/{pid}/root")).join(relative));
    }
    for way in ways {
        if let Ok(file) = File::open(&way) {
            return Ok((file, way));
        }
    }
    Err(proc_error(pid, direct, first_error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"\
55d0c8a00000-55d0c8a02000 r--p 00000000 fe:00 131 /usr/bin/with space\n\
55d0c8a02000-55d0c8a06000 r-xp 00002000 fe:00 131 /usr/bin/with space\n\
7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \n\
7f0000002000-7f0000003000 r-xp 00000000 fe:01 77                         /tmp/lib.so (deleted)\n\
7f0000004000-7f0000005000 rwxs 00000000 00:01 9 /memfd:jit (deleted)\n\
nonsense\n\
7ffc1c1fe000-7ffc1c200000 r-xp 00000000 00:00 0                          [vdso]\n";

    #[test]
    fn lines_give_what_the_manual_says() {
        let mappings = Mappings::parse(TEXT);
        assert_eq!(mappings.iter().count(), 6);
        let program = mappings.at(0x55d0_c8a0_2fff).unwrap();
        assert_eq!(program.path, Path::new("/usr/bin/with space"));
        assert!(program.executable && !program.writable && program.is_file() && !program.deleted);
        assert_eq!((program.file_offset, program.device, program.inode), (0x2000, 0xfe << 32, 131));
        let library = mappings.at(0x7f00_0000_2000).unwrap();
        assert_eq!((library.path.as_path(), library.deleted), (Path::new("/tmp/lib.so"), true));
        let vdso = mappings.at(0x7ffc_1c1f_e000).unwrap();
        assert_eq!((vdso.path.as_path(), vdso.is_file()), (Path::new("[vdso]"), false));
        assert!(!mappings.at(0x7f00_0000_0000).unwrap().is_file());
        assert_eq!(mappings.at(0x7f00_0000_1000), None, "ends are exclusive");
        assert_eq!(mappings.at(0), None);
    }

    #[test]
    fn the_file_of_this_test_is_found_through_its_mapping() {
        let pid = std::process::id();
        let mappings = Mappings::read(pid).unwrap();
        let here = mappings.at(the_file_of_this_test_is_found_through_its_mapping as *const () as u64).unwrap();
        assert!(here.executable);
        let (file, _) = open_mapped_file(pid, here, true).unwrap();
        let own = std::fs::metadata(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(file.metadata().unwrap().len(), own.len());
    }
}
