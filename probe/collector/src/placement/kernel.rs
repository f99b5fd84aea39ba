//! What the Linux kernel does with a probed x86-64 instruction. Responsible for the rules of `arch/x86/kernel/uprobes.c`; not
//! for choosing.
//!
//! | encoding | treatment |
//! |---|---|
//! | `90` | emulated: nothing happens |
//! | `eb`, `e9` jmp rel · `70`–`7f`, `0f 80`–`0f 8f` jcc rel | emulated: `rip` is set, by the flags of the trap |
//! | `e8` call rel | emulated: return address pushed, `rip` set |
//! | `50`–`57` push, alone or with REX exactly `41` | emulated: register pushed |
//! | any of the branches with a `66` prefix | refused |
//! | `es`/`cs`/`ss`/`ds` prefix (also `notrack` and branch hints), `lock` | refused |
//! | loads of `ss`, opcodes missing from the kernel's tables | refused |
//! | VEX, EVEX, XOP, REX2 encodings | refused here: the kernel looks their opcodes up in tables meant for others |
//! | `90` with REX.B, an `xchg` with r8 | refused here: the kernel takes it for a nop |
//! | nops of several bytes | as [`KernelRules::emulates_long_nops`] says; of five bytes: never used |
//! | everything else | single-stepped out of line; rip-relative operands by way of a scratch register |
//!
//! A nop of exactly five bytes may be turned by kernels 6.18 and later into a call, which writes below `rsp`, where leaf functions
//! keep live data.

use iced_x86::{Instruction, Mnemonic};

/// What differs between kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KernelRules {
    /// Whether nops of several bytes are emulated (five bytes are avoided in any case).
    pub emulates_long_nops: bool,
}

/// What the kernel does with an instruction it replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// One trap.
    Emulated,
    /// Two traps.
    SingleStepped,
    /// No probe can, or should, stand there.
    Refused(&'static str),
}

impl KernelRules {
    /// What happens to this instruction; `bytes` are exactly its bytes.
    pub fn treatment(self, instruction: &Instruction, bytes: &[u8]) -> Treatment {
        let prefix_count = bytes.iter().take_while(|byte| is_legacy_prefix(**byte)).count();
        let (prefixes, rest) = bytes.split_at(prefix_count);
        let (rex, opcode) = match rest {
            [rex @ 0x40..=0x4f, opcode @ ..] => (Some(*rex), opcode),
            opcode => (None, opcode),
        };
        if prefixes.iter().any(|prefix| matches!(prefix, 0x26 | 0x2e | 0x36 | 0x3e)) {
            return Treatment::Refused("it has a segment prefix");
        }
        if prefixes.contains(&0xf0) {
            return Treatment::Refused("it has a lock prefix");
        }
        let narrowed = prefixes.contains(&0x66);
        match opcode {
            [0x90] if rex.is_some_and(|rex| rex & 1 == 1) => {
                Treatment::Refused("the kernel would take an xchg for a nop")
            }
            [0x90] if !narrowed => Treatment::Emulated,
            [0xeb | 0xe9 | 0xe8 | 0x70..=0x7f, ..] | [0x0f, 0x80..=0x8f, ..] if narrowed => {
                Treatment::Refused("it is a branch with an operand size prefix")
            }
            [0xeb | 0xe9 | 0xe8 | 0x70..=0x7f, ..] | [0x0f, 0x80..=0x8f, ..] => Treatment::Emulated,
            [0x50..=0x57] if prefixes.is_empty() && matches!(rex, None | Some(0x41)) => Treatment::Emulated,
            _ if instruction.mnemonic() == Mnemonic::Nop => self.long_nop(bytes.len()),
            [0x8e, modrm, ..] if modrm & 0x38 == 0x10 => Treatment::Refused("it loads the stack segment"),
            [0x8f, modrm, ..] if modrm & 0x38 != 0 => Treatment::Refused("it is XOP encoded"),
            [0xc4 | 0xc5, ..] => Treatment::Refused("it is VEX encoded"),
            [0x0f, second, ..] if is_bad_two_byte_opcode(*second) => Treatment::Refused("the kernel does not step it"),
            [first, ..] if is_bad_opcode(*first) => Treatment::Refused("the kernel does not step it"),
            [] => Treatment::Refused("it is no instruction"),
            _ => Treatment::SingleStepped,
        }
    }

    fn long_nop(self, size_bytes: usize) -> Treatment {
        match (size_bytes, self.emulates_long_nops) {
            (5, _) => Treatment::Refused("it is a nop of five bytes, which newer kernels turn into a call"),
            (_, true) => Treatment::Emulated,
            (_, false) => Treatment::SingleStepped,
        }
    }
}

fn is_legacy_prefix(byte: u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
}

/// One-byte opcodes that the kernel's table for 64-bit programs lacks, and the encodings named in the module's table.
fn is_bad_opcode(opcode: u8) -> bool {
    matches!(
        opcode,
        0x06 | 0x07 | 0x0e | 0x16 | 0x17 | 0x1e | 0x1f | 0x27 | 0x2f | 0x37 | 0x3f | 0x60..=0x62 | 0x6c..=0x6f | 0x82 | 0x9a
            | 0xcc..=0xcf | 0xd4..=0xd6 | 0xe4..=0xe7 | 0xea | 0xec..=0xef | 0xf1 | 0xf4 | 0xfa | 0xfb
    )
}

/// Second bytes of `0f` opcodes that the kernel's table lacks.
fn is_bad_two_byte_opcode(opcode: u8) -> bool {
    matches!(opcode, 0x00 | 0x01 | 0x05..=0x09 | 0x0b | 0x30 | 0x34 | 0x35 | 0x37 | 0x78 | 0x79 | 0xae)
}
