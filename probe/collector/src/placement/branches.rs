//! Finds the instructions of a function that branches lead to. Responsible for the scan only.
//!
//! Two scans, both bounded, since each can miss what the other finds: the function's bytes from end to end (finds code
//! that only indirect jumps reach), and a walk along every direct branch from the entry (finds cold fragments elsewhere that jump
//! back in, and is not confused by data between instructions). A branch that is not there costs an opportunity; one that is
//! missed costs correctness, so both results count. Targets of jump tables are not known; compilers point them behind the
//! dispatch, never into the line that leads to it.

use std::collections::{BTreeMap, HashSet};

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};

use super::{CodeSource, Function};

/// Instructions followed outside the function, altogether.
const MAX_FOLLOWED_INSTRUCTIONS: usize = 8192;
/// Bytes fetched at once of code outside the function.
const FRAGMENT_BYTES: usize = 4096;

/// Branch targets inside one function, with where they are branched to from.
pub(super) struct BranchTargets {
    sources: BTreeMap<u64, Vec<u64>>,
}

impl BranchTargets {
    pub(super) fn scan(code: &dyn CodeSource, function: Function, bytes: &[u8]) -> Self {
        let start = function.vaddr;
        let end = start.saturating_add(bytes.len() as u64);
        let mut targets = Self { sources: BTreeMap::new() };

        let mut decoder = Decoder::with_ip(64, bytes, start, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        while decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            targets.note(&instruction, start..end);
        }
        targets.follow(code, start, end, bytes);
        targets
    }

    /// Whether anything but a branch at `from` leads to `vaddr`.
    pub(super) fn leads_to(&self, vaddr: u64, from: Option<u64>) -> bool {
        self.sources.get(&vaddr).is_some_and(|sources| sources.iter().any(|source| Some(*source) != from))
    }

    fn note(&mut self, instruction: &Instruction, function: std::ops::Range<u64>) {
        if let Some(target) = branch_target(instruction).filter(|target| function.contains(target)) {
            let sources = self.sources.entry(target).or_default();
            if !sources.contains(&instruction.ip()) {
                sources.push(instruction.ip());
            }
        }
    }

    fn follow(&mut self, code: &dyn CodeSource, start: u64, end: u64, bytes: &[u8]) {
        let mut seen = HashSet::new();
        let mut pending = vec![start];
        let mut instruction = Instruction::default();
        while let Some(block) = pending.pop() {
            let inside = block.checked_sub(start).and_then(|distance| bytes.get(distance as usize..));
            let outside;
            let block_bytes = match inside {
                Some(inside) if block < end => inside,
                _ => {
                    outside = code.code_at(block, FRAGMENT_BYTES);
                    &outside
                }
            };
            let mut decoder = Decoder::with_ip(64, block_bytes, block, DecoderOptions::NONE);
            while decoder.can_decode() {
                decoder.decode_out(&mut instruction);
                if instruction.is_invalid() || !seen.insert(instruction.ip()) || seen.len() > MAX_FOLLOWED_INSTRUCTIONS
                {
                    break;
                }
                self.note(&instruction, start..end);
                pending.extend(branch_target(&instruction));
                let falls_through = matches!(
                    instruction.flow_control(),
                    FlowControl::Next | FlowControl::ConditionalBranch | FlowControl::Call | FlowControl::IndirectCall
                );
                if !falls_through {
                    break;
                }
            }
        }
    }
}

/// Where a direct jump, conditional or not, leads.
pub(super) fn branch_target(instruction: &Instruction) -> Option<u64> {
    let is_branch =
        matches!(instruction.flow_control(), FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch);
    is_branch.then(|| instruction.near_branch_target())
}

/// Addresses of functions that a piece of code mentions: computed relative to itself (`lea r, [rip + x]`), taken as constants
/// (`mov r, x`), or loaded from slots that the dynamic linker fills.
pub(crate) fn mentioned_addresses(code: &dyn CodeSource, vaddr: u64, bytes: &[u8]) -> Vec<u64> {
    let mut addresses = Vec::new();
    for instruction in &mut Decoder::with_ip(64, bytes, vaddr, DecoderOptions::NONE) {
        match instruction.mnemonic() {
            Mnemonic::Lea if instruction.is_ip_rel_memory_operand() => {
                addresses.push(instruction.ip_rel_memory_address());
            }
            _ if instruction.is_ip_rel_memory_operand() => {
                addresses.extend(code.slot_target(instruction.ip_rel_memory_address()));
            }
            Mnemonic::Mov if matches!(instruction.op1_kind(), OpKind::Immediate32 | OpKind::Immediate64) => {
                addresses.push(instruction.immediate(1));
            }
            _ => {}
        }
    }
    addresses
}
