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
//!
//! A jump through a linkage stub is followed to the function of this file that the stub is named for: that another module's function
//! of the same name could be bound instead is not considered.

use std::collections::HashSet;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};

use super::arguments::{ARGUMENT_REGISTERS, ArgumentState};
use super::walk::not_null_side;
use super::{CodeSource, Function};

/// Most instructions followed from one entry.
const MAX_INSTRUCTIONS: usize = 4096;
/// Bytes of code fetched at once.
const FRAGMENT_BYTES: usize = 1024;
/// Longest straight line from an entry that is looked at for a test for NULL or a jump elsewhere.
const MAX_LINE_INSTRUCTIONS: usize = 16;

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
    follow(code, function, |instruction, _| {
        if instruction.flow_control() == FlowControl::Return {
            exits.push(instruction.ip());
        }
        Way::Everywhere
    })?;
    exits.sort_unstable();
    if exits.is_empty() { Err(ExitError::NeverReturns) } else { Ok(exits) }
}

/// Whether a function does its work through others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Every way from the entry to a `ret` passes one of them: it is a shell (libstdc++'s `operator new` around `malloc`).
    Always,
    /// Some ways *jump* to one of them, so that both have the same return address; others do not.
    SometimesByJump,
    /// No jump to one of them was found; calls are possible.
    NeverByJump,
}

/// How `function` reaches an address for which `is_inner` holds, ways with NULL in the argument at `ignore_null` left aside.
pub fn reach(
    code: &dyn CodeSource,
    function: Function,
    ignore_null: Option<u8>,
    is_inner: &dyn Fn(u64) -> bool,
) -> Reach {
    let not_null = ignore_null.and_then(|position| null_branch(code, function, position));
    let (mut found_call, mut found_jump, mut found_bypass) = (false, false, false);
    let followed = follow(code, function, |instruction, target| {
        let to_inner = target.is_some_and(is_inner);
        match instruction.flow_control() {
            FlowControl::Return => {
                found_bypass = true;
                Way::Nowhere
            }
            // What is behind the call has passed it.
            FlowControl::Call | FlowControl::IndirectCall if to_inner => {
                found_call = true;
                Way::Nowhere
            }
            FlowControl::UnconditionalBranch | FlowControl::IndirectBranch if to_inner => {
                found_jump = true;
                Way::Nowhere
            }
            FlowControl::ConditionalBranch if to_inner => {
                found_jump = true;
                Way::Only(instruction.next_ip())
            }
            FlowControl::ConditionalBranch => match not_null {
                Some((branch, side)) if branch == instruction.ip() => Way::Only(side),
                _ => Way::Everywhere,
            },
            _ => Way::Everywhere,
        }
    });
    match (followed, found_call || found_jump) {
        (Ok(()), true) if !found_bypass => Reach::Always,
        _ if found_jump => Reach::SometimesByJump,
        _ => Reach::NeverByJump,
    }
}

/// Where a function jumps to straight from its entry with all of `arguments` still in their registers and nothing pushed: it is then
/// that function under another name.
pub fn thunk_target(code: &dyn CodeSource, function: Function, arguments: &[u8]) -> Option<u64> {
    let mut target = None;
    line(code, function, arguments, |instruction, _, state| {
        let intact = arguments.iter().all(|position| {
            ARGUMENT_REGISTERS.get(usize::from(*position)).is_some_and(|own| state.holds(*own, *position))
        });
        if intact && state.pushed_bytes() == 0 {
            target = jump_target(code, instruction);
        }
    });
    target
}

/// The branch on NULL of the argument at `position`, and where it leads if that is not NULL.
fn null_branch(code: &dyn CodeSource, function: Function, position: u8) -> Option<(u64, u64)> {
    let mut found = None;
    line(code, function, &[position], |instruction, previous, state| {
        let side = previous.and_then(|test| not_null_side(state, position, test, instruction));
        found = side.map(|side| (instruction.ip(), side));
    });
    found
}

/// Walks the straight line from the entry and calls `at_end` for the instruction that ends it.
fn line(
    code: &dyn CodeSource,
    function: Function,
    arguments: &[u8],
    at_end: impl FnOnce(&Instruction, Option<&Instruction>, &ArgumentState),
) {
    let Ok(mut state) = ArgumentState::at_entry(arguments) else { return };
    let bytes = code.code_at(function.vaddr, function.extent_bytes(code).min(FRAGMENT_BYTES));
    let mut previous = None;
    let mut decoder = Decoder::with_ip(64, &bytes, function.vaddr, DecoderOptions::NONE);
    for instruction in decoder.iter().take(MAX_LINE_INSTRUCTIONS) {
        if instruction.is_invalid() {
            return;
        }
        if instruction.flow_control() != FlowControl::Next {
            return at_end(&instruction, previous.as_ref(), &state);
        }
        if state.step(&instruction).is_err() {
            return;
        }
        previous = Some(instruction);
    }
}

/// Where to go on from an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Everywhere,
    /// Only there, of the two sides of a branch.
    Only(u64),
    Nowhere,
}

/// Where a jump or call leads, through a linkage stub if there is one.
fn jump_target(code: &dyn CodeSource, instruction: &Instruction) -> Option<u64> {
    match instruction.flow_control() {
        FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch | FlowControl::Call => {
            let target = instruction.near_branch_target();
            Some(stub_target(code, target).unwrap_or(target))
        }
        FlowControl::IndirectBranch | FlowControl::IndirectCall if instruction.is_ip_rel_memory_operand() => {
            code.slot_target(instruction.ip_rel_memory_address())
        }
        _ => None,
    }
}

/// If there is a linkage stub (`[endbr64]; jmp [rip + slot]`) at `vaddr`: the function its slot is bound to.
fn stub_target(code: &dyn CodeSource, vaddr: u64) -> Option<u64> {
    let bytes = code.code_at(vaddr, 16);
    let mut decoder = Decoder::with_ip(64, &bytes, vaddr, DecoderOptions::NONE);
    let mut instruction = decoder.iter().find(|instruction| instruction.mnemonic() != Mnemonic::Endbr64)?;
    if instruction.is_invalid() || instruction.flow_control() != FlowControl::IndirectBranch {
        return None;
    }
    instruction.set_has_repne_prefix(false);
    instruction.is_ip_rel_memory_operand().then(|| code.slot_target(instruction.ip_rel_memory_address()))?
}

/// Visits every instruction reachable from the entry once, with the target of a jump or call where it is known. The visitor says
/// where to follow it.
fn follow(
    code: &dyn CodeSource,
    function: Function,
    mut visit: impl FnMut(&Instruction, Option<u64>) -> Way,
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
        let mut bytes = Vec::new();
        let mut bytes_start = vaddr;
        loop {
            if behind_call && end.is_some_and(|end| vaddr >= end) {
                break; // The call does not return.
            }
            let mut instruction = decode(&bytes, bytes_start, vaddr);
            if instruction.is_none() {
                bytes = code.code_at(vaddr, FRAGMENT_BYTES);
                bytes_start = vaddr;
                instruction = decode(&bytes, bytes_start, vaddr);
            }
            let Some(instruction) = instruction else {
                if behind_call {
                    break; // Padding behind a call that does not return.
                }
                return Err(ExitError::NoCode { vaddr });
            };
            if !seen.insert(vaddr) {
                break;
            }
            if seen.len() > MAX_INSTRUCTIONS {
                return Err(ExitError::TooLong);
            }
            let target = jump_target(code, &instruction);
            let way = visit(&instruction, target);
            let falls_through = match instruction.flow_control() {
                _ if way == Way::Nowhere => false,
                FlowControl::ConditionalBranch => {
                    if let Way::Only(side) = way {
                        pending.push(side);
                    } else {
                        pending.push(instruction.next_ip());
                        pending.extend(target);
                    }
                    false
                }
                FlowControl::UnconditionalBranch | FlowControl::IndirectBranch => {
                    pending.push(target.ok_or(ExitError::IndirectJump { vaddr })?);
                    false
                }
                FlowControl::Return | FlowControl::Exception | FlowControl::Interrupt => false,
                _ => instruction.mnemonic() != Mnemonic::Hlt,
            };
            if !falls_through {
                break;
            }
            // Padding does not change that.
            behind_call = matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall)
                || (behind_call && instruction.mnemonic() == Mnemonic::Nop);
            vaddr = instruction.next_ip();
        }
    }
    Ok(())
}

/// The instruction at `vaddr`, if all of it is in `bytes`.
fn decode(bytes: &[u8], bytes_start: u64, vaddr: u64) -> Option<Instruction> {
    let rest = bytes.get(usize::try_from(vaddr.checked_sub(bytes_start)?).ok()?..)?;
    let instruction = Decoder::with_ip(64, rest, vaddr, DecoderOptions::NONE).decode();
    (!instruction.is_invalid()).then_some(instruction)
}
