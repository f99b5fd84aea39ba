//! Follows a function to all its ends. Responsible for finding its `ret`s, and for telling whether it is a mere shell around other
//! functions.
//!
//! A return probe puts its own address on the stack, where an unwinder meets it and gives up; so a function that an exception can
//! leave (`operator new`) must not have one. Instead, entry probes on each of its `ret` instructions read the result:
//!
//! ```text
//! operator new: …fast path…   ret          ◀ probe: rax is the result, rsp = E
//!               jmp slow ───▶ slow: …  ret ◀ probe: likewise; also hit by other callers of `slow`, whose E differs
//!               call handler (may throw: no ret is passed, the pending call is dropped)
//! ```
//!
//! At a `ret`, `rsp` is E, its value at the entry: that tells whose return it is. `ret` is single-stepped by the kernel, so
//! this is dear; it is used only where nothing cheaper is correct.

use std::collections::HashSet;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};

use super::branches::branch_target;
use super::{CodeSource, Function};

/// Most instructions followed from one entry.
const MAX_INSTRUCTIONS: usize = 4096;
/// Bytes of code fetched at once.
const FRAGMENT_BYTES: usize = 1024;

/// Why the ends of a function could not all be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExitError {
    /// A jump whose target only the running program knows.
    #[error("an indirect jump at {vaddr:#x} leads out of sight")]
    IndirectJump {
        /// The jump.
        vaddr: u64,
    },
    /// Bytes that are no instruction, reached by a branch or in sequence.
    #[error("no instruction at {vaddr:#x}, where the function goes on")]
    NoCode {
        /// Where.
        vaddr: u64,
    },
    /// Too much code is reachable.
    #[error("more than {MAX_INSTRUCTIONS} instructions are reachable")]
    TooLong,
    /// It never returns.
    #[error("no return instruction is reachable")]
    NeverReturns,
}

/// Addresses of all `ret` instructions that a call of `function` can return through, following jumps into other functions of the
/// module (tail calls), ascending. Calls are taken to return, except where the function's code ends behind them.
///
/// # Errors
/// If not all of them can be found: then none may be used, since a missed one would be a lost result.
pub fn ret_exits(code: &dyn CodeSource, function: Function) -> Result<Vec<u64>, ExitError> {
    let mut exits = Vec::new();
    follow(code, function, |instruction| {
        if instruction.flow_control() == FlowControl::Return {
            exits.push(instruction.ip());
        }
        Way::Everywhere
    })?;
    exits.sort_unstable();
    if exits.is_empty() { Err(ExitError::NeverReturns) } else { Ok(exits) }
}

/// Whether every way from the entry to a `ret` calls or jumps to an address for which `is_inner` holds: then the function is a
/// shell (libstdc++'s `operator new` around `malloc`) and needs no probe of its own. `false` if that cannot be shown.
pub fn reaches_only_through(code: &dyn CodeSource, function: Function, is_inner: &dyn Fn(u64) -> bool) -> bool {
    let (mut found_inner, mut found_bypass) = (false, false);
    let followed = follow(code, function, |instruction| match instruction.flow_control() {
        FlowControl::Return => {
            found_bypass = true;
            Way::Finished
        }
        FlowControl::Call | FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch
            if is_inner(instruction.near_branch_target()) =>
        {
            found_inner = true;
            // Behind a call the inner function has been passed; beside a branch not taken it has not.
            if instruction.flow_control() == FlowControl::ConditionalBranch { Way::NotTaken } else { Way::Nowhere }
        }
        _ => Way::Everywhere,
    });
    followed.is_ok() && found_inner && !found_bypass
}

/// Where to go on from an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Everywhere,
    /// Only behind it, not where it branches.
    NotTaken,
    Nowhere,
    /// All is known.
    Finished,
}

/// Visits every instruction reachable from the entry once. The visitor says whether to follow the way further.
fn follow(
    code: &dyn CodeSource,
    function: Function,
    mut visit: impl FnMut(&Instruction) -> Way,
) -> Result<(), ExitError> {
    let mut seen = HashSet::new();
    let mut pending = vec![function.vaddr];
    let own_end = match function.size_bytes {
        0 => None,
        size => function.vaddr.checked_add(size),
    };
    let end_of = |vaddr: u64| {
        let own = own_end.filter(|end| (function.vaddr..*end).contains(&vaddr));
        own.or_else(|| code.function_end(vaddr))
    };
    while let Some(block) = pending.pop() {
        let mut vaddr = block;
        let mut behind_call = false;
        let end = end_of(block);
        'fragments: loop {
            let bytes = code.code_at(vaddr, FRAGMENT_BYTES);
            let fragment_start = vaddr;
            let mut decoder = Decoder::with_ip(64, &bytes, vaddr, DecoderOptions::NONE);
            let mut instruction = Instruction::default();
            loop {
                if behind_call && end.is_some_and(|end| vaddr >= end) {
                    break 'fragments; // The call does not return.
                }
                decoder.decode_out(&mut instruction);
                if instruction.is_invalid() {
                    if vaddr > fragment_start && bytes.len() == FRAGMENT_BYTES {
                        continue 'fragments; // Perhaps cut off at the end of the fetched bytes.
                    }
                    if behind_call {
                        break 'fragments; // Padding behind a call that does not return.
                    }
                    return Err(ExitError::NoCode { vaddr });
                }
                if !seen.insert(vaddr) {
                    break 'fragments;
                }
                if seen.len() > MAX_INSTRUCTIONS {
                    return Err(ExitError::TooLong);
                }
                let way = visit(&instruction);
                match way {
                    Way::Finished => return Ok(()),
                    Way::Nowhere => break 'fragments,
                    Way::Everywhere | Way::NotTaken => {}
                }
                match instruction.flow_control() {
                    FlowControl::IndirectBranch => return Err(ExitError::IndirectJump { vaddr }),
                    FlowControl::UnconditionalBranch => {
                        pending.extend(branch_target(&instruction));
                        break 'fragments;
                    }
                    FlowControl::ConditionalBranch if way == Way::NotTaken => {}
                    FlowControl::ConditionalBranch => pending.extend(branch_target(&instruction)),
                    FlowControl::Return | FlowControl::Exception | FlowControl::Interrupt => break 'fragments,
                    _ if instruction.mnemonic() == Mnemonic::Hlt => break 'fragments,
                    _ => {}
                }
                behind_call = matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall);
                vaddr = instruction.next_ip();
            }
        }
    }
    Ok(())
}
