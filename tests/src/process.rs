//! Looks at processes from outside, through /proc alone: their state, their children, and whether any breakpoint is
//! left in their code. Responsible for facts that must not come from the recorder itself.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// The state letter of a process (`R`, `S`, `T`, `t`, `Z`…); `None` when it is gone.
pub fn state(pid: u32) -> Option<char> {
    state_in(Path::new(&format!("/proc/{pid}/stat")))
}

fn state_in(stat: &Path) -> Option<char> {
    let text = std::fs::read_to_string(stat).ok()?;
    text[text.rfind(')')? + 1..].trim_start().chars().next()
}

/// The state letters of all threads of a process; empty when it is gone.
pub fn thread_states(pid: u32) -> Vec<char> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks.flatten().filter_map(|task| state_in(&task.path().join("stat"))).collect()
}

/// Parent of a process.
pub fn parent(pid: u32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text[text.rfind(')')? + 1..].split_whitespace().nth(1)?.parse().ok()
}

/// All processes whose executable is this file.
pub fn running(executable: &Path) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path == executable))
        .filter(|pid| state(*pid).is_some_and(|state| state != 'Z'))
        .collect()
}

/// The process that traces this one, 0 for none.
pub fn tracer(pid: u32) -> u32 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("TracerPid:"))
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or_default()
}

/// One place where the code in memory is not the code in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breakpoint {
    /// The mapped file.
    pub path: PathBuf,
    /// Offset in it.
    pub offset: u64,
}

/// Every byte of a process's mapped executable code that is an `int3` in memory and something else in its file: probes
/// stand there. An empty answer is proof that none is left. `None` when the process is gone.
pub fn breakpoints(pid: u32) -> Option<Vec<Breakpoint>> {
    const INT3: u8 = 0xcc;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut found = Vec::new();
    for line in maps.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [range, rights, offset, _, _, path] = fields[..] else { continue };
        if !rights.contains('x') || !path.starts_with('/') {
            continue;
        }
        let (start, end) = range.split_once('-')?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        let offset = u64::from_str_radix(offset, 16).ok()?;
        let mut in_memory = vec![0; (end - start) as usize];
        let mut in_file = vec![0; in_memory.len()];
        memory.read_exact_at(&mut in_memory, start).ok()?;
        let length = read_up_to(&File::open(path).ok()?, &mut in_file, offset);
        for (index, (now, then)) in in_memory.iter().zip(&in_file[..length]).enumerate() {
            if now != then && *now == INT3 {
                found.push(Breakpoint { path: path.into(), offset: offset + index as u64 });
            }
        }
    }
    Some(found)
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> usize {
    let mut done = 0;
    while let Ok(length @ 1..) = file.read_at(&mut buffer[done..], offset + done as u64) {
        done += length;
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_probes_has_no_breakpoints() {
        assert_eq!(breakpoints(std::process::id()), Some(Vec::new()));
    }

    #[test]
    fn state_and_parent_of_this_process() {
        assert!(matches!(state(std::process::id()), Some('R' | 'S')));
        assert_eq!(parent(std::process::id()), Some(std::os::unix::process::parent_id()));
        assert_eq!(state(u32::MAX), None);
    }
}
