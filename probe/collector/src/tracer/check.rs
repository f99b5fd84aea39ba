//! Has stacks checked by somebody else. Responsible for telling an independent unwinder of each thread that our programs
//! stopped for it, and for waiting until it has looked; not for comparing.
//!
//! The unwinder is another program. It gets one line for each stop and answers one when the thread may go on:
//! `pid tid ordinal n rip rsp rbp rbx r12 r13 r14 r15 (slot original)*n`, where `ordinal` counts the thread's records from 1
//! and each pair is a return address that one of our return probes has replaced.

use std::{
    fmt::Write as _,
    io::{self, BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use probe_abi::ThreadState;

use super::ptrace;

pub(super) struct Checker {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Checker {
    /// Starts the unwinder, which gets a file to write to as its argument.
    pub(super) fn start(program: &Path, output: &Path) -> io::Result<Self> {
        let mut child = Command::new(program).arg(output).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(questions), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("it has no pipes"));
        };
        Ok(Self { child, questions, answers: BufReader::new(answers) })
    }

    /// Has the stack of a stopped thread looked at.
    pub(super) fn check(&mut self, pid: u32, tid: u32, state: &ThreadState) -> io::Result<()> {
        let r = ptrace::registers(tid)?;
        let replaced: Vec<_> = state
            .pending
            .iter()
            .take(state.depth as usize)
            .filter(|call| call.ret_probes == 0 && call.return_address != 0)
            .collect();
        let mut line = format!(
            "{pid} {tid} {} {} {:x} {:x} {:x} {:x} {:x} {:x} {:x} {:x}",
            state.record_count,
            replaced.len(),
            r.rip,
            r.rsp,
            r.rbp,
            r.rbx,
            r.r12,
            r.r13,
            r.r14,
            r.r15
        );
        for call in replaced {
            let _ = write!(line, " {:x} {:x}", call.slot, call.return_address);
        }
        line.push('\n');
        self.questions.write_all(line.as_bytes())?;
        let mut answer = String::new();
        if self.answers.read_line(&mut answer)? == 0 {
            return Err(io::Error::other("the unwinder has ended"));
        }
        Ok(())
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}
