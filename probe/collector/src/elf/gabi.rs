//! The numbers of the System V ABI that are used here, by their names there. They have not changed since 1997; the `object`
//! crate wraps each in a type of its own, which fields of untrusted bytes would have to be wrapped into just as well.

pub(super) const ELFMAG: [u8; 4] = *b"\x7fELF";
pub(super) const ELFCLASS32: u8 = 1;
pub(super) const ELFCLASS64: u8 = 2;
pub(super) const ELFDATA2LSB: u8 = 1;
pub(super) const ET_EXEC: u16 = 2;
pub(super) const EM_386: u16 = 3;
pub(super) const EM_X86_64: u16 = 62;
pub(super) const EM_AARCH64: u16 = 183;
pub(super) const EM_RISCV: u16 = 243;

pub(super) const PT_LOAD: u32 = 1;
pub(super) const PT_DYNAMIC: u32 = 2;
pub(super) const PT_INTERP: u32 = 3;
pub(super) const PT_NOTE: u32 = 4;
pub(super) const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
pub(super) const PF_X: u32 = 1;

pub(super) const SHT_SYMTAB: u32 = 2;
pub(super) const SHT_STRTAB: u32 = 3;
pub(super) const SHT_RELA: u32 = 4;
pub(super) const SHT_DYNSYM: u32 = 11;
pub(super) const SHF_ALLOC: u64 = 2;
pub(super) const SHN_UNDEF: u16 = 0;

pub(super) const STT_OBJECT: u8 = 1;
pub(super) const STT_FUNC: u8 = 2;
pub(super) const STT_GNU_IFUNC: u8 = 10;

pub(super) const NT_GNU_BUILD_ID: u32 = 3;

pub(super) const DT_HASH: u64 = 4;
pub(super) const DT_STRTAB: u64 = 5;
pub(super) const DT_SYMTAB: u64 = 6;
pub(super) const DT_STRSZ: u64 = 10;
pub(super) const DT_GNU_HASH: u64 = 0x6fff_fef5;
pub(super) const DT_FLAGS_1: u64 = 0x6fff_fffb;
pub(super) const DF_1_PIE: u64 = 0x0800_0000;

pub(super) const R_X86_64_64: u32 = 1;
pub(super) const R_X86_64_GLOB_DAT: u32 = 6;
pub(super) const R_X86_64_JUMP_SLOT: u32 = 7;
pub(super) const R_X86_64_IRELATIVE: u32 = 37;
