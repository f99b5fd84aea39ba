//! Walks the line from a function's entry and chooses the probed instruction. The rules are derived in the module above.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Formatter, Instruction, IntelFormatter, Mnemonic, OpKind};

use super::arguments::ArgumentState;
use super::branches::BranchTargets;
use super::kernel::{KernelRules, Treatment};
use super::{CodeSource, Function, LineEnd, Need, Placement, PlacementError};

/// Instructions of the line that are looked at: allocators do their work long before that.
const MAX_LINE_INSTRUCTIONS: usize = 64;

/// An instruction of the line that could be probed.
struct Candidate {
    placement: Placement,
    /// Address of the instruction.
    vaddr: u64,
}

/// Chooses the instruction of `function` where a probe that needs `need` stands.
///
/// # Errors
/// If there is no code, or the kernel refuses every usable instruction.
pub fn place(
    code: &dyn CodeSource,
    function: Function,
    need: &Need,
    rules: KernelRules,
) -> Result<Placement, PlacementError> {
    let bytes = code.code_at(function.vaddr, function.extent_bytes(code));
    if bytes.is_empty() {
        return Err(PlacementError::NoCode { vaddr: function.vaddr });
    }
    let targets = BranchTargets::scan(code, function, &bytes);
    let state =
        ArgumentState::at_entry(&need.arguments).map_err(|position| PlacementError::NotInRegister { position })?;
    let mut walk = Walk { function, need, rules, targets, state, dear: None, with_null: None, refusal: None, count: 0 };
    walk.run(&bytes)
}

/// The probe on the very instruction at `vaddr`, whatever stands there.
///
/// # Errors
/// If there is no code, or the kernel refuses it.
pub fn place_at(code: &dyn CodeSource, vaddr: u64, rules: KernelRules) -> Result<Placement, PlacementError> {
    let bytes = code.code_at(vaddr, 16);
    if bytes.is_empty() {
        return Err(PlacementError::NoCode { vaddr });
    }
    let instruction = Decoder::with_ip(64, &bytes, vaddr, DecoderOptions::NONE).decode();
    if instruction.is_invalid() {
        return Err(PlacementError::NotAnInstruction { vaddr });
    }
    let treatment = rules.treatment(&instruction, &bytes[..instruction.len()]);
    if let Treatment::Refused(refusal) = treatment {
        return Err(PlacementError::Refused { count: 1, refusal, end: LineEnd::ControlFlow });
    }
    Ok(Placement {
        offset: 0,
        instruction: text(&instruction),
        emulated: treatment == Treatment::Emulated,
        arguments: Vec::new(),
        caller_rbp: None,
        stack_adjust_bytes: 0,
        sees_null: true,
        re_entered: false,
        reason: "the instruction that the program names".to_owned(),
    })
}

struct Walk<'a> {
    function: Function,
    need: &'a Need,
    rules: KernelRules,
    targets: BranchTargets,
    state: ArgumentState,
    /// First single-stepped instruction, used if none is emulated.
    dear: Option<Candidate>,
    /// The branch on NULL, used if no emulated instruction follows it.
    with_null: Option<Candidate>,
    /// Why the kernel refuses the first refused instruction.
    refusal: Option<&'static str>,
    count: usize,
}

/// Where the line goes after an instruction.
enum Next {
    Chosen(Candidate),
    At { vaddr: u64, from: Option<u64> },
    End(LineEnd),
}

impl Walk<'_> {
    fn run(&mut self, bytes: &[u8]) -> Result<Placement, PlacementError> {
        let start = self.function.vaddr;
        let (mut vaddr, mut from) = (start, None);
        let mut previous: Option<Instruction> = None;
        let end = loop {
            if vaddr != start && self.targets.leads_to(vaddr, from) {
                break LineEnd::BranchTarget;
            }
            let Some(rest) = vaddr.checked_sub(start).and_then(|distance| bytes.get(distance as usize..)) else {
                break LineEnd::CodeEnds;
            };
            let instruction = Decoder::with_ip(64, rest, vaddr, DecoderOptions::NONE).decode();
            if instruction.is_invalid() || self.count >= MAX_LINE_INSTRUCTIONS {
                break LineEnd::CodeEnds;
            }
            self.count += 1;
            match self.look(&instruction, &rest[..instruction.len()], previous.as_ref()) {
                Next::Chosen(candidate) => return Ok(candidate.placement),
                Next::At { vaddr: next, from: source } => (vaddr, from) = (next, source),
                Next::End(end) => break end,
            }
            previous = Some(instruction);
        };
        if let Some(candidate) = self.with_null.take() {
            return Ok(candidate.placement);
        }
        if let Some(mut candidate) = self.dear.take() {
            let reason = &mut candidate.placement.reason;
            *reason =
                format!("{reason}; no instruction the kernel emulates before {end}: each hit costs a second trap");
            return Ok(candidate.placement);
        }
        match self.refusal {
            Some(refusal) => Err(PlacementError::Refused { count: self.count, refusal, end }),
            None => Err(PlacementError::NotAnInstruction { vaddr: start }),
        }
    }

    fn look(&mut self, instruction: &Instruction, bytes: &[u8], previous: Option<&Instruction>) -> Next {
        let locations = match self.state.locations() {
            Ok(locations) => locations,
            Err(end) => return Next::End(end),
        };
        if self.need.return_probe && self.state.pushed_bytes() != 0 {
            return Next::End(LineEnd::StackPointerMoved);
        }
        let Ok(stack_adjust_bytes) = u32::try_from(self.state.pushed_bytes()) else {
            return Next::End(LineEnd::StackPointerLost);
        };
        let treatment = self.rules.treatment(instruction, bytes);
        let candidate = |reason: String| Candidate {
            vaddr: instruction.ip(),
            placement: Placement {
                offset: instruction.ip().wrapping_sub(self.function.vaddr) as u32,
                instruction: text(instruction),
                emulated: treatment == Treatment::Emulated,
                arguments: locations.clone(),
                caller_rbp: self.state.caller_rbp(),
                stack_adjust_bytes,
                sees_null: self.with_null.is_none(),
                re_entered: self.targets.leads_to(self.function.vaddr, None),
                reason,
            },
        };
        match treatment {
            Treatment::Emulated => {
                let candidate = candidate(self.explain(instruction));
                return match self.branch_on_null(instruction, previous) {
                    Some(next) if self.with_null.is_none() => {
                        self.with_null = Some(candidate);
                        next
                    }
                    _ => Next::Chosen(candidate),
                };
            }
            Treatment::SingleStepped if self.dear.is_none() => {
                let first = instruction.ip() == self.function.vaddr;
                let place = if first { "the first instruction" } else { "the first instruction the kernel accepts" };
                self.dear = Some(candidate(place.to_owned()));
            }
            Treatment::SingleStepped => {}
            Treatment::Refused(refusal) => {
                self.refusal.get_or_insert(refusal);
            }
        }
        if instruction.flow_control() != FlowControl::Next {
            return Next::End(LineEnd::ControlFlow);
        }
        match self.state.step(instruction) {
            Ok(()) => Next::At { vaddr: instruction.next_ip(), from: None },
            Err(end) => Next::End(end),
        }
    }

    fn explain(&self, instruction: &Instruction) -> String {
        let mut reason = if instruction.ip() == self.function.vaddr {
            "the first instruction is one the kernel emulates".to_owned()
        } else {
            "the first instruction the kernel emulates, arguments intact".to_owned()
        };
        if let Some(branch) = &self.with_null {
            let distance = branch.vaddr.wrapping_sub(self.function.vaddr);
            reason = format!("{reason}, behind the test for NULL at +{distance:#x}");
        }
        if self.targets.leads_to(self.function.vaddr, None) {
            reason.push_str("; a branch leads back to the entry, so that one call can hit it again");
        }
        reason
    }

    /// If this is the branch after a test for NULL of the argument that may be ignored: where the line goes on.
    fn branch_on_null(&self, branch: &Instruction, previous: Option<&Instruction>) -> Option<Next> {
        let not_null = not_null_side(&self.state, self.need.ignore_null?, previous?, branch)?;
        let falls_through = not_null == branch.next_ip();
        // Only forwards: an offset before the function could not be told.
        let forwards = not_null > branch.ip();
        forwards.then_some(Next::At { vaddr: not_null, from: (!falls_through).then_some(branch.ip()) })
    }
}

/// Where a branch leads if the argument at `position`, which `test` compares with NULL, is not NULL. `None` if the two
/// instructions are not such a pair.
pub(super) fn not_null_side(
    state: &ArgumentState,
    position: u8,
    test: &Instruction,
    branch: &Instruction,
) -> Option<u64> {
    let tests_pointer = match test.mnemonic() {
        Mnemonic::Test => test.op0_kind() == OpKind::Register && test.op0_register() == test.op1_register(),
        Mnemonic::Cmp => {
            test.op0_kind() == OpKind::Register
                && matches!(test.op1_kind(), OpKind::Immediate8to64 | OpKind::Immediate32to64)
                && test.immediate(1) == 0
        }
        _ => false,
    };
    if !tests_pointer || !state.holds(test.op0_register(), position) {
        return None;
    }
    match branch.mnemonic() {
        Mnemonic::Je => Some(branch.next_ip()),
        Mnemonic::Jne => Some(branch.near_branch_target()),
        _ => None,
    }
}

fn text(instruction: &Instruction) -> String {
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_branch_leading_zeros(false);
    options.set_show_branch_size(false);
    options.set_space_after_operand_separator(true);
    let mut text = String::new();
    formatter.format(instruction, &mut text);
    text
}
