//! Follows arguments and the stack pointer along a straight line of instructions. Responsible for where a value still is; not
//! for which instructions make the line.
//!
//! Per argument the state is the set of 64-bit registers and of stack slots known to hold it. With E the value of `rsp` at
//! the entry and d the distance `rsp - E`:
//!
//! ```text
//! entry            holders(a) = { register of a }                        d = 0
//! mov r, r'        holders of r become those of r'
//! push r           slot E+d-8 holds what r holds                        d -= 8
//! mov [rsp+c], r   slot E+d+c holds what r holds
//! mov r, [rsp+c]   r holds what slot E+d+c holds
//! pop r            r holds what slot E+d holds                          d += 8
//! sub/add rsp, c   slots below rsp are forgotten                        d -= c / d += c
//! other write to r      r holds nothing
//! other write to memory every slot it may overlap holds nothing
//! ```

use iced_x86::{
    Code, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register, UsedMemory, UsedRegister,
};

use super::LineEnd;

/// A register that can hold an argument, numbered as in machine code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names of the machine's registers say it")]
pub enum ArgRegister {
    Rax,
    Rcx,
    Rdx,
    Rbx,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
}

/// Where an argument is when the probe is hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ArgLocation {
    /// In a register.
    Register(ArgRegister),
    /// In memory at `rsp +` this.
    Stack {
        /// Bytes above the stack pointer at the probe.
        offset_bytes: i32,
    },
}

const REGISTERS: [(Register, ArgRegister); 15] = [
    (Register::RDI, ArgRegister::Rdi),
    (Register::RSI, ArgRegister::Rsi),
    (Register::RDX, ArgRegister::Rdx),
    (Register::RCX, ArgRegister::Rcx),
    (Register::R8, ArgRegister::R8),
    (Register::R9, ArgRegister::R9),
    (Register::RAX, ArgRegister::Rax),
    (Register::RBX, ArgRegister::Rbx),
    (Register::RBP, ArgRegister::Rbp),
    (Register::R10, ArgRegister::R10),
    (Register::R11, ArgRegister::R11),
    (Register::R12, ArgRegister::R12),
    (Register::R13, ArgRegister::R13),
    (Register::R14, ArgRegister::R14),
    (Register::R15, ArgRegister::R15),
];

/// System V argument registers, by position.
pub(super) const ARGUMENT_REGISTERS: [Register; 6] =
    [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::R8, Register::R9];

#[derive(Debug, Clone)]
struct Argument {
    position: u8,
    registers: Vec<Register>,
    /// Distances from E.
    slots: Vec<i64>,
}

/// Stands for the caller's rbp, which stack walks need, in the list of arguments.
const CALLER_RBP: u8 = u8::MAX;

/// Where the arguments and the caller's rbp are at one point of the line.
pub(super) struct ArgumentState {
    /// The caller's rbp comes last.
    arguments: Vec<Argument>,
    /// `rsp - E`.
    stack_distance: i64,
    info: InstructionInfoFactory,
}

impl ArgumentState {
    /// The state at a function's first instruction; `Err` with the position that is not in a register.
    pub(super) fn at_entry(positions: &[u8]) -> Result<Self, u8> {
        let argument = |&position: &u8| {
            let register = ARGUMENT_REGISTERS.get(usize::from(position)).ok_or(position)?;
            Ok(Argument { position, registers: vec![*register], slots: Vec::new() })
        };
        let mut arguments = positions.iter().map(argument).collect::<Result<Vec<_>, u8>>()?;
        arguments.push(Argument { position: CALLER_RBP, registers: vec![Register::RBP], slots: Vec::new() });
        Ok(Self { arguments, stack_distance: 0, info: InstructionInfoFactory::new() })
    }

    /// Bytes the function pushed so far.
    pub(super) fn pushed_bytes(&self) -> i64 {
        -self.stack_distance
    }

    /// Whether `register` holds the argument at `position`.
    pub(super) fn holds(&self, register: Register, position: u8) -> bool {
        let argument = self.arguments.iter().find(|argument| argument.position == position);
        argument.is_some_and(|argument| argument.registers.contains(&register))
    }

    /// Where each argument is, the register of its position preferred, then any register, then the stack.
    pub(super) fn locations(&self) -> Result<Vec<ArgLocation>, LineEnd> {
        let arguments = self.arguments.iter().filter(|argument| argument.position != CALLER_RBP);
        arguments
            .map(|argument| {
                let own = ARGUMENT_REGISTERS[usize::from(argument.position)];
                self.location(argument, own).ok_or(LineEnd::ArgumentLost(argument.position))
            })
            .collect()
    }

    /// Where the caller's rbp is, if anywhere.
    pub(super) fn caller_rbp(&self) -> Option<ArgLocation> {
        self.arguments.last().and_then(|argument| self.location(argument, Register::RBP))
    }

    fn location(&self, argument: &Argument, own: Register) -> Option<ArgLocation> {
        let named = |register: &Register| REGISTERS.iter().find(|(known, _)| known == register).map(|(_, name)| *name);
        let in_register = (argument.registers.iter().find(|register| **register == own))
            .or_else(|| argument.registers.first())
            .and_then(named);
        let on_stack = argument.slots.iter().max().and_then(|slot| i32::try_from(slot - self.stack_distance).ok());
        in_register
            .map(ArgLocation::Register)
            .or_else(|| on_stack.map(|offset_bytes| ArgLocation::Stack { offset_bytes }))
    }

    /// The state behind `instruction`, which falls through.
    pub(super) fn step(&mut self, instruction: &Instruction) -> Result<(), LineEnd> {
        let before = self.stack_distance;
        let after = before.checked_add(stack_change(instruction)?).ok_or(LineEnd::StackPointerLost)?;

        // What is copied is taken from the state before the instruction.
        let copied = self.copy_of(instruction, before);

        let info = self.info.info(instruction);
        let written: Vec<Register> = info.used_registers().iter().copied().filter_map(written_register).collect();
        let stored: Vec<Store> = info.used_memory().iter().filter_map(|memory| store(memory, before)).collect();
        for argument in &mut self.arguments {
            argument.registers.retain(|register| !written.contains(register));
            argument.slots.retain(|slot| *slot >= after && !stored.iter().any(|store| store.may_touch(*slot)));
        }
        for (index, destination) in copied {
            match destination {
                Holder::Register(register) => self.arguments[index].registers.push(register),
                Holder::Slot(slot) => self.arguments[index].slots.push(slot),
            }
        }
        self.stack_distance = after;
        Ok(())
    }

    /// Which arguments the instruction copies where.
    fn copy_of(&self, instruction: &Instruction, distance: i64) -> Vec<(usize, Holder)> {
        let slot = || rsp_operand(instruction).map(|displacement| Holder::Slot(distance + displacement));
        let (source, destination) = match instruction.code() {
            Code::Mov_r64_rm64 | Code::Mov_rm64_r64 => {
                let operand = |index| match instruction.op_kind(index) {
                    OpKind::Register => Some(Holder::Register(instruction.op_register(index))),
                    _ => slot(),
                };
                (operand(1), operand(0))
            }
            Code::Push_r64 => (Some(Holder::Register(instruction.op0_register())), Some(Holder::Slot(distance - 8))),
            Code::Pop_r64 => (Some(Holder::Slot(distance)), Some(Holder::Register(instruction.op0_register()))),
            _ => (None, None),
        };
        let (Some(source), Some(destination)) = (source, destination) else { return Vec::new() };
        if destination == Holder::Register(Register::RSP) {
            return Vec::new();
        }
        let holds = |argument: &Argument| match source {
            Holder::Register(register) => argument.registers.contains(&register),
            Holder::Slot(slot) => argument.slots.contains(&slot),
        };
        let holding = self.arguments.iter().enumerate().filter(|(_, argument)| holds(argument));
        holding.map(|(index, _)| (index, destination)).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    Register(Register),
    Slot(i64),
}

/// A write to memory.
enum Store {
    /// To a known part of the stack: from this distance, so many bytes.
    Stack { start: i64, size_bytes: i64 },
    /// To anywhere.
    Unknown,
}

impl Store {
    fn may_touch(&self, slot: i64) -> bool {
        match self {
            Self::Stack { start, size_bytes } => *start < slot + 8 && slot < *start + *size_bytes,
            Self::Unknown => true,
        }
    }
}

fn is_write(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

fn written_register(used: UsedRegister) -> Option<Register> {
    is_write(used.access()).then(|| used.register().full_register())
}

fn store(used: &UsedMemory, distance: i64) -> Option<Store> {
    if !is_write(used.access()) {
        return None;
    }
    let size_bytes = used.memory_size().size() as i64;
    let on_stack = used.base() == Register::RSP
        && used.index() == Register::None
        && !matches!(used.segment(), Register::FS | Register::GS)
        && size_bytes > 0;
    let start = distance.wrapping_add(used.displacement() as i64);
    Some(if on_stack { Store::Stack { start, size_bytes } } else { Store::Unknown })
}

/// Displacement of a plain `[rsp + c]` operand.
fn rsp_operand(instruction: &Instruction) -> Option<i64> {
    let plain = instruction.memory_base() == Register::RSP
        && instruction.memory_index() == Register::None
        && !matches!(instruction.memory_segment(), Register::FS | Register::GS);
    plain.then(|| instruction.memory_displacement64() as i64)
}

/// How far the instruction moves `rsp`.
fn stack_change(instruction: &Instruction) -> Result<i64, LineEnd> {
    let writes_rsp = instruction.op_count() > 0
        && instruction.op0_kind() == OpKind::Register
        && instruction.op0_register().full_register() == Register::RSP;
    match instruction.mnemonic() {
        Mnemonic::Enter | Mnemonic::Leave => Err(LineEnd::StackPointerLost),
        Mnemonic::Push | Mnemonic::Pushfq => Ok(i64::from(instruction.stack_pointer_increment())),
        Mnemonic::Pop | Mnemonic::Popfq if !writes_rsp => Ok(i64::from(instruction.stack_pointer_increment())),
        Mnemonic::Sub if instruction.op0_register() == Register::RSP && is_immediate(instruction) => {
            (instruction.immediate(1) as i64).checked_neg().ok_or(LineEnd::StackPointerLost)
        }
        Mnemonic::Add if instruction.op0_register() == Register::RSP && is_immediate(instruction) => {
            Ok(instruction.immediate(1) as i64)
        }
        Mnemonic::Lea if instruction.op0_register() == Register::RSP => {
            rsp_operand(instruction).ok_or(LineEnd::StackPointerLost)
        }
        // Comparisons name a register first without writing it.
        Mnemonic::Cmp | Mnemonic::Test => Ok(0),
        _ if writes_rsp || instruction.is_stack_instruction() => Err(LineEnd::StackPointerLost),
        Mnemonic::Xchg | Mnemonic::Xadd if instruction.op1_register().full_register() == Register::RSP => {
            Err(LineEnd::StackPointerLost)
        }
        _ => Ok(0),
    }
}

fn is_immediate(instruction: &Instruction) -> bool {
    matches!(
        instruction.op1_kind(),
        OpKind::Immediate8 | OpKind::Immediate8to64 | OpKind::Immediate32 | OpKind::Immediate32to64
    )
}
