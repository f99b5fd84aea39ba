//! Where probes are placed: rule by rule on hand-assembled code, on allocators whose good places are known, and against objdump and gdb
//! as independent judges.

mod programs;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::File;
use std::path::Path;

use probe_collector::allocators::recognise;
use probe_collector::placement::{
    ArgLocation, ArgRegister, CodeSlice, CodeSource, ExitError, Function, KernelRules, LineEnd, Need, Placement,
    PlacementError, Reach, place, reach, ret_exits, thunk_target,
};
use probe_collector::target::{ModuleCache, ModuleFile, PlannedFunction};
use programs::{compile, directory, hex, real_rustc, system_libc, tool};

const BASE: u64 = 0x1000;
const RDI: ArgLocation = ArgLocation::Register(ArgRegister::Rdi);

fn code(bytes: &[u8]) -> CodeSlice<'_> {
    CodeSlice { vaddr: BASE, bytes }
}

fn whole(bytes: &[u8]) -> Function {
    Function { vaddr: BASE, size_bytes: bytes.len() as u64 }
}

fn place_for(name: &str, bytes: &[u8]) -> Result<Placement, PlacementError> {
    let semantics = recognise(name.as_bytes()).unwrap().semantics;
    place(&code(bytes), whole(bytes), &Need::of(&semantics), KernelRules::default())
}

fn malloc(bytes: &[u8]) -> Placement {
    place_for("malloc", bytes).unwrap()
}

fn free(bytes: &[u8]) -> Placement {
    place_for("free", bytes).unwrap()
}

#[track_caller]
fn assert_at(placement: &Placement, offset: u32, instruction: &str, emulated: bool) {
    let found = (placement.offset, placement.instruction.as_str(), placement.emulated);
    assert_eq!(found, (offset, instruction, emulated), "{}", placement.reason);
}

#[test]
fn the_first_instruction_is_taken_if_it_is_emulated() {
    assert_at(&malloc(&[0x55, 0xc3]), 0, "push rbp", true);
    assert_at(&malloc(&[0x41, 0x54, 0xc3]), 0, "push r12", true);
    assert_at(&malloc(&[0x90, 0xc3]), 0, "nop", true);
    assert_at(&malloc(&[0xe9, 0, 1, 0, 0]), 0, "jmp 0x1105", true);
    assert_at(&malloc(&[0xe8, 0, 1, 0, 0, 0xc3]), 0, "call 0x1105", true);
    assert_at(&malloc(&[0x0f, 0x84, 0, 1, 0, 0, 0xc3]), 0, "je 0x1106", true);
}

#[test]
fn endbr64_is_stepped_over() {
    let placement = malloc(&[0xf3, 0x0f, 0x1e, 0xfa, 0x41, 0x57, 0xc3]);
    assert_at(&placement, 4, "push r15", true);
    assert_eq!((placement.arguments.as_slice(), placement.stack_adjust_bytes), (&[RDI][..], 0));
}

#[test]
fn pushes_the_kernel_does_not_emulate_are_single_stepped() {
    // REX.W push rbp; ret: two bytes, but not with REX 41.
    let placement = malloc(&[0x48, 0x55, 0xc3]);
    assert_at(&placement, 0, "push rbp", false);
    assert!(placement.reason.contains("second trap"), "{}", placement.reason);
    // 16-bit push.
    assert!(!malloc(&[0x66, 0x50, 0xc3]).emulated);
}

#[test]
fn a_function_that_only_returns_is_probed_at_its_return() {
    let placement = free(&[0xc3]);
    assert_at(&placement, 0, "ret", false);
    assert!(placement.reason.contains("control flow"), "{}", placement.reason);
}

#[test]
fn the_line_ends_where_an_argument_is_overwritten() {
    // xor edi, edi; push rbp: the size is gone at the push. (A 32-bit write clears the upper half too.)
    let placement = malloc(&[0x31, 0xff, 0x55, 0xc3]);
    assert_at(&placement, 0, "xor edi, edi", false);
    assert!(placement.reason.contains("argument 0 is overwritten"), "{}", placement.reason);
    // mov dil, 1 likewise, though it writes one byte only.
    assert_at(&malloc(&[0x40, 0xb7, 0x01, 0x55]), 0, "mov dil, 1", false);
    // calloc: mul rsi writes rax and rdx, neither of them an argument of calloc; of reallocarray it is one.
    let multiply = [0x48, 0xf7, 0xe6, 0x55, 0xc3];
    assert_at(&place_for("calloc", &multiply).unwrap(), 3, "push rbp", true);
    assert_at(&place_for("reallocarray", &multiply).unwrap(), 0, "mul rsi", false);
    // cpuid writes rax, rbx, rcx and rdx; rdi is safe, rdx is not.
    assert_at(&malloc(&[0x0f, 0xa2, 0x55, 0xc3]), 2, "push rbp", true);
    assert_at(&place_for("posix_memalign", &[0x0f, 0xa2, 0x55, 0xc3]).unwrap(), 0, "cpuid", false);
}

#[test]
fn copies_of_arguments_are_followed() {
    // mov rax, rdi; mov rdi, rsi; mov rsi, rax; jmp: what mimalloc's memalign does.
    let swap = [0x48, 0x89, 0xf8, 0x48, 0x89, 0xf7, 0x48, 0x89, 0xc6, 0xeb, 0x10];
    let placement = place_for("memalign", &swap).unwrap();
    assert_at(&placement, 9, "jmp 0x101b", true);
    assert_eq!(placement.arguments, [ArgLocation::Register(ArgRegister::Rax), RDI]);
    // mov eax, edi copies half of it.
    let placement = malloc(&[0x89, 0xf8, 0x31, 0xff, 0x55]);
    assert_at(&placement, 0, "mov eax, edi", false);
    // xchg is not followed, so the argument counts as lost.
    assert_at(&malloc(&[0x48, 0x87, 0xf8, 0x55]), 0, "xchg rax, rdi", false);
}

#[test]
fn arguments_saved_on_the_stack_are_found_there() {
    // free: sub rsp, 24; mov [rsp+8], rdi; xor edi, edi; call. No return probe, so the stack may have moved.
    let bytes = [0x48, 0x83, 0xec, 0x18, 0x48, 0x89, 0x7c, 0x24, 0x08, 0x31, 0xff, 0xe8, 0, 0, 1, 0];
    let placement = free(&bytes);
    assert_at(&placement, 11, "call 0x11010", true);
    assert_eq!(placement.arguments, [ArgLocation::Stack { offset_bytes: 8 }]);
    assert_eq!(placement.stack_adjust_bytes, 24);
    // The same with a store over the slot, or to somewhere unknown, in between.
    for store in [&[0xc6, 0x44, 0x24, 0x0f, 0x00][..], &[0x48, 0x89, 0x06]] {
        let mut changed = bytes[..11].to_vec();
        changed.extend(store);
        changed.extend(&bytes[11..]);
        let placement = free(&changed);
        assert_at(&placement, 0, "sub rsp, 0x18", false);
        assert!(placement.reason.contains("argument 0"), "{}", placement.reason);
    }
    // push rdi; xor edi, edi; pop rdx; nop: back in another register.
    let placement = free(&[0x57_u8].map(|_| 0x90));
    assert_at(&placement, 0, "nop", true);
    let needs = Need { arguments: vec![0], return_probe: false, ignore_null: None };
    // sub rsp,8 ; mov [rsp],rdi ; xor edi,edi ; mov rdx,[rsp] ; nop
    let bytes = [0x48, 0x83, 0xec, 0x08, 0x48, 0x89, 0x3c, 0x24, 0x31, 0xff, 0x48, 0x8b, 0x14, 0x24, 0x90, 0xc3];
    let placement = place(&code(&bytes), whole(&bytes), &needs, KernelRules::default()).unwrap();
    assert_at(&placement, 14, "nop", true);
    assert_eq!(placement.arguments, [ArgLocation::Register(ArgRegister::Rdx)]);
}

#[test]
fn a_return_probe_never_stands_behind_a_push() {
    // REX.W push (not emulated), then push rbp (emulated, but rsp has moved).
    let bytes = [0x48, 0x53, 0x55, 0xc3];
    let placement = malloc(&bytes);
    assert_at(&placement, 0, "push rbx", false);
    assert!(placement.reason.contains("stack pointer moves"), "{}", placement.reason);
    // A free has no return probe and takes it; the return address is then 8 bytes up.
    let placement = free(&bytes);
    assert_at(&placement, 2, "push rbp", true);
    assert_eq!(placement.stack_adjust_bytes, 8);
    // sub rsp, 8 is single-stepped: the return probe stands on it.
    assert_at(&malloc(&[0x48, 0x83, 0xec, 0x08, 0x90]), 0, "sub rsp, 8", false);
    // A stack pointer that comes from elsewhere cannot be followed.
    assert_at(&free(&[0x48, 0x89, 0xc4, 0x90]), 0, "mov rsp, rax", false);
    assert_at(&free(&[0x48, 0x83, 0xe4, 0xf0, 0x90]), 0, "and rsp, 0xfffffffffffffff0", false);
}

#[test]
fn the_line_ends_before_a_branch_target() {
    // test rdi,rdi; (target) nop; dec rdi; jne target; ret
    let bytes = [0x48, 0x85, 0xff, 0x90, 0x48, 0xff, 0xcf, 0x75, 0xfa, 0xc3];
    let placement = malloc(&bytes);
    assert_at(&placement, 0, "test rdi, rdi", false);
    assert!(placement.reason.contains("a branch leads to the next instruction"), "{}", placement.reason);
    // The same without the backward branch takes the nop.
    assert_at(&malloc(&[0x48, 0x85, 0xff, 0x90, 0xc3]), 3, "nop", true);
}

#[test]
fn branches_from_cold_fragments_count_too() {
    // 0: test rdi,rdi; 3: nop; 4: je 0x10; 6: ret … 0x10 (outside the function): jmp 3
    let mut bytes = vec![0x48, 0x85, 0xff, 0x90, 0x74, 0x0a, 0xc3];
    bytes.resize(0x10, 0xcc);
    bytes.extend([0xeb, 0xf1]);
    let function = Function { vaddr: BASE, size_bytes: 7 };
    let need = Need { arguments: vec![0], return_probe: true, ignore_null: None };
    let placement = place(&code(&bytes), function, &need, KernelRules::default()).unwrap();
    assert_at(&placement, 0, "test rdi, rdi", false);
    // Without the fragment, the nop.
    let placement = place(&code(&bytes[..7]), function, &need, KernelRules::default()).unwrap();
    assert_at(&placement, 3, "nop", true);
}

#[test]
fn a_branch_back_to_the_entry_is_told() {
    // push rbp; pop rbp; jmp entry
    let placement = malloc(&[0x55, 0x5d, 0xeb, 0xfc]);
    assert_at(&placement, 0, "push rbp", true);
    assert!(placement.re_entered && placement.reason.contains("back to the entry"), "{}", placement.reason);
    assert!(!malloc(&[0x55, 0x5d, 0xc3]).re_entered);
}

#[test]
fn frees_go_on_where_the_pointer_is_not_null() {
    // glibc: test rdi,rdi; je; push rbp
    let placement = free(&[0x48, 0x85, 0xff, 0x74, 0x05, 0x55, 0x5d, 0x90, 0x90, 0x90, 0xc3]);
    assert_at(&placement, 5, "push rbp", true);
    assert!(!placement.sees_null);
    assert!(placement.reason.contains("behind the test for NULL at +0x3"), "{}", placement.reason);
    // test rdi,rdi; jne 6; ret; 6: push rbp: the other side.
    let placement = free(&[0x48, 0x85, 0xff, 0x75, 0x01, 0xc3, 0x55, 0xc3]);
    assert_at(&placement, 6, "push rbp", true);
    assert!(!placement.sees_null);
    // cmp rdi, 0 tests as well.
    assert_at(&free(&[0x48, 0x83, 0xff, 0x00, 0x74, 0x01, 0x55, 0xc3]), 6, "push rbp", true);
    // Nothing emulated behind it: the branch itself.
    let placement = free(&[0x48, 0x85, 0xff, 0x74, 0x01, 0xc3, 0xc3]);
    assert_at(&placement, 3, "je 0x1006", true);
    assert!(placement.sees_null);
    // A malloc must see size 0, a free that tests another register its pointer.
    assert_at(&malloc(&[0x48, 0x85, 0xff, 0x74, 0x01, 0x55, 0xc3]), 3, "je 0x1006", true);
    assert_at(&free(&[0x48, 0x85, 0xf6, 0x74, 0x01, 0x55, 0xc3]), 3, "je 0x1006", true);
    // The flags of another instruction in between are another test.
    assert_at(&free(&[0x48, 0x85, 0xff, 0x48, 0x85, 0xf6, 0x74, 0x01, 0x55, 0xc3]), 6, "je 0x1009", true);
    // The far side is reached from elsewhere too: stay at the branch. (test; jne 8; jmp 8; ret; 8: push)
    let placement = free(&[0x48, 0x85, 0xff, 0x75, 0x03, 0xeb, 0x01, 0xc3, 0x55, 0xc3]);
    assert_at(&placement, 3, "jne 0x1008", true);
}

#[test]
fn nops_of_five_bytes_are_never_probed() {
    let nop5 = [0x0f, 0x1f, 0x44, 0x00, 0x00];
    let mut bytes = nop5.to_vec();
    bytes.extend([0x48, 0x85, 0xff, 0xc3]);
    assert_at(&malloc(&bytes), 5, "test rdi, rdi", false);
    bytes.splice(5..8, [0x53]);
    assert_at(&malloc(&bytes), 5, "push rbx", true);
    let emulating = KernelRules { emulates_long_nops: true };
    let need = Need { arguments: vec![0], return_probe: true, ignore_null: None };
    assert_at(&place(&code(&bytes), whole(&bytes), &need, emulating).unwrap(), 5, "push rbx", true);
    // Other lengths follow the kernel.
    let nop4 = [0x0f, 0x1f, 0x40, 0x00, 0x53, 0xc3];
    assert_at(&malloc(&nop4), 4, "push rbx", true);
    assert_at(&place(&code(&nop4), whole(&nop4), &need, emulating).unwrap(), 0, "nop [rax]", true);
    // Alone it leaves nothing.
    let refused = place_for("malloc", &nop5).unwrap_err();
    assert!(matches!(refused, PlacementError::Refused { count: 1, end: LineEnd::CodeEnds, .. }), "{refused}");
}

#[test]
fn instructions_the_kernel_refuses_are_passed_over() {
    for (refused, what) in [
        (&[0xf0, 0xff, 0x00][..], "lock inc [rax]"),
        (&[0x2e, 0xff, 0x00], "segment prefix"),
        (&[0xc5, 0xf8, 0x77], "vzeroupper"),
        (&[0x62, 0xf1, 0x7c, 0x48, 0x57, 0xc0], "EVEX"),
        (&[0x41, 0x90], "xchg r8, rax, which the kernel takes for a nop"),
        (&[0xfa], "cli"),
        (&[0x8e, 0xd0], "mov ss, eax"),
    ] {
        let mut bytes = refused.to_vec();
        bytes.extend([0x48, 0x85, 0xff, 0xc3]);
        assert_at(&malloc(&bytes), refused.len() as u32, "test rdi, rdi", false);
        bytes.truncate(refused.len());
        let error = place_for("malloc", &bytes).unwrap_err();
        assert!(matches!(error, PlacementError::Refused { .. }), "{what}: {error}");
    }
    // A branch with an operand size prefix is refused and ends the line.
    assert!(matches!(place_for("malloc", &[0x66, 0xe9, 0, 0, 0, 0]), Err(PlacementError::Refused { .. })));
}

#[test]
fn rip_relative_operands_are_accepted_where_nothing_is_emulated() {
    // cmp byte ptr [rip+x], 0; ret
    let placement = malloc(&[0x80, 0x3d, 0x10, 0, 0, 0, 0, 0xc3]);
    assert_at(&placement, 0, "cmp byte ptr [0x1017], 0", false);
    // glibc's posix_memalign: the same, then push r12.
    assert_at(&malloc(&[0x80, 0x3d, 0x10, 0, 0, 0, 0, 0x41, 0x54]), 7, "push r12", true);
}

#[test]
fn code_that_is_none_is_an_error() {
    assert_eq!(place_for("malloc", &[]), Err(PlacementError::NoCode { vaddr: BASE }));
    assert_eq!(place_for("malloc", &[0x06]), Err(PlacementError::NotAnInstruction { vaddr: BASE }));
    assert_eq!(place_for("malloc", &[0x48]), Err(PlacementError::NotAnInstruction { vaddr: BASE }), "cut off");
    let need = Need { arguments: vec![6], return_probe: false, ignore_null: None };
    let placed = place(&code(&[0x55]), whole(&[0x55]), &need, KernelRules::default());
    assert_eq!(placed, Err(PlacementError::NotInRegister { position: 6 }));
}

#[test]
fn every_return_is_found_through_branches_and_tail_jumps() {
    // 0: test; 3: je 8; 5: call 0x20; (falls to) a? laid out by hand:
    // 0x00 test rdi,rdi · 0x03 je 0x0b · 0x05 call 0x20 · 0x0a ret · 0x0b jmp 0x10 · 0x0d pad · 0x10 ret 8 · 0x20 ret
    let mut bytes =
        vec![0x48, 0x85, 0xff, 0x74, 0x06, 0xe8, 0x16, 0, 0, 0, 0xc3, 0xeb, 0x03, 0xcc, 0xcc, 0xcc, 0xc2, 0x08, 0x00];
    bytes.resize(0x20, 0xcc);
    bytes.push(0xc3);
    let function = Function { vaddr: BASE, size_bytes: 0x0d };
    assert_eq!(ret_exits(&code(&bytes), function), Ok(vec![BASE + 0x0a, BASE + 0x10]), "not the callee's");

    // A call at the end of the function does not return; without the size, its padding is no instruction.
    let noreturn = [0x74, 0x01, 0xc3, 0xe8, 0, 0, 1, 0, 0x06];
    let function = |size_bytes| Function { vaddr: BASE, size_bytes };
    assert_eq!(ret_exits(&code(&noreturn), function(8)), Ok(vec![BASE + 2]));
    assert_eq!(ret_exits(&code(&noreturn), function(0)), Ok(vec![BASE + 2]));

    assert_eq!(ret_exits(&code(&[0xff, 0xe0]), function(2)), Err(ExitError::IndirectJump { vaddr: BASE }));
    assert_eq!(ret_exits(&code(&[0xeb, 0xfe]), function(2)), Err(ExitError::NeverReturns));
    assert_eq!(ret_exits(&code(&[0xeb, 0x20]), function(2)), Err(ExitError::NoCode { vaddr: BASE + 0x22 }));
    let long: Vec<u8> = std::iter::repeat_n(0x90, 5000).chain([0xc3]).collect();
    assert_eq!(ret_exits(&code(&long), function(5001)), Err(ExitError::TooLong));
}

#[test]
fn shells_and_thunks_are_recognised() {
    let inner = |vaddr| vaddr == BASE + 0x40;
    let ask = |bytes: &[u8], ignore_null| {
        let mut bytes = bytes.to_vec();
        bytes.resize(0x41, 0xc3);
        reach(&code(&bytes), Function { vaddr: BASE, size_bytes: 0x20 }, ignore_null, &inner)
    };
    // push rbx; call inner; pop rbx; ret: libstdc++'s operator new, in short.
    assert_eq!(ask(&[0x53, 0xe8, 0x3a, 0, 0, 0, 0x5b, 0xc3], None), Reach::Always);
    // test rdi,rdi; je ret; jmp inner; ret: operator delete.
    let delete = [0x48, 0x85, 0xff, 0x74, 0x02, 0xeb, 0x39, 0xc3];
    assert_eq!(ask(&delete, Some(0)), Reach::Always, "freeing NULL is nothing");
    assert_eq!(ask(&delete, None), Reach::SometimesByJump);
    assert_eq!(ask(&delete, Some(1)), Reach::SometimesByJump, "another argument");
    // A fast path that returns, a slow one that calls.
    assert_eq!(ask(&[0x48, 0x85, 0xff, 0x74, 0x01, 0xc3, 0xe8, 0x35, 0, 0, 0, 0xc3], None), Reach::NeverByJump);
    assert_eq!(ask(&[0xc3], None), Reach::NeverByJump);

    let thunk = |bytes: &[u8], arguments: &[u8]| thunk_target(&code(bytes), whole(bytes), arguments);
    assert_eq!(thunk(&[0xeb, 0x3e], &[0]), Some(BASE + 0x40));
    assert_eq!(thunk(&[0x31, 0xc0, 0xeb, 0x3c], &[0]), Some(BASE + 0x40), "rax is no argument");
    assert_eq!(thunk(&[0x31, 0xff, 0xeb, 0x3c], &[0]), None, "another size");
    assert_eq!(thunk(&[0x48, 0x89, 0xfe, 0x31, 0xff, 0xeb, 0x39], &[0]), None, "in another register");
    assert_eq!(thunk(&[0x53, 0xeb, 0x3d], &[0]), None, "behind a push it is no jump into a function");
}

/// Everything planned in a file, by name.
fn planned(path: &Path) -> (std::sync::Arc<ModuleFile>, BTreeMap<String, PlannedFunction>) {
    let facts = ModuleCache::default().get(&File::open(path).unwrap(), path).unwrap();
    let functions = facts.allocators.iter().flat_map(|allocator| &allocator.functions);
    let by_name = functions.flat_map(|function| function.names.iter().map(|name| (name.clone(), function.clone())));
    let by_name = by_name.collect();
    (facts, by_name)
}

#[test]
fn places_in_known_allocators_are_the_measured_ones() {
    if let Some(libc) = system_libc() {
        let (facts, functions) = planned(&libc);
        let build_id = hex(&facts.image.build_id);
        if build_id == "93ac61ec5a8eb1396f9fbd350e3169a558528a40" {
            for (name, offset) in [
                ("malloc", 0),
                ("calloc", 0),
                ("realloc", 0),
                ("posix_memalign", 7),
                ("memalign", 7),
                ("aligned_alloc", 7),
                ("free", 9),
            ] {
                let placement = functions[name].entry.as_ref().unwrap();
                assert_eq!((placement.offset, placement.emulated), (offset, true), "{name}: {}", placement.reason);
            }
        } else {
            eprintln!("skipped: another glibc (build id {build_id})");
        }
    }
    if let Some(rustc) = real_rustc() {
        let version = tool(rustc.to_str().unwrap(), &["-V"]).unwrap_or_default();
        let (facts, functions) = planned(&rustc);
        if version.starts_with("rustc 1.95.0 (59807616e ") && facts.image.file_bytes == 644_784 {
            for (name, offset) in [
                ("malloc", 7),
                ("free", 0x27),
                ("calloc", 0),
                ("realloc", 0),
                ("posix_memalign", 0),
                ("aligned_alloc", 0),
                ("memalign", 0),
                ("valloc", 0),
            ] {
                let placement = functions[name].entry.as_ref().unwrap();
                assert_eq!((placement.offset, placement.emulated), (offset, true), "{name}: {}", placement.reason);
            }
        } else {
            eprintln!("skipped: another rustc ({})", version.trim());
        }
    }
}

#[test]
fn probed_instructions_are_those_objdump_sees() {
    for path in system_libc().into_iter().chain(real_rustc()) {
        let (_, functions) = planned(&path);
        assert!(functions.len() >= 8);
        for (name, function) in functions {
            let Ok(placement) = function.entry else { panic!("{name}: no place") };
            let range = [
                format!("--start-address={:#x}", function.vaddr),
                format!("--stop-address={:#x}", function.vaddr + u64::from(placement.offset) + 16),
            ];
            let arguments = ["-d", "-M", "intel", "--no-show-raw-insn", &range[0], &range[1], path.to_str().unwrap()];
            let Some(text) = tool("objdump", &arguments) else { return };
            let address = format!("{:x}:", function.vaddr + u64::from(placement.offset));
            let line = text.lines().find(|line| line.trim_start().starts_with(&address));
            let line = line.unwrap_or_else(|| panic!("{name}: {address} is inside an instruction\n{text}"));
            let mnemonic = line.split_whitespace().nth(1).unwrap();
            assert_eq!(placement.instruction.split(' ').next(), Some(mnemonic), "{name}");
            // Between the entry and the probe nothing may leave the line, except a branch on NULL.
            let before = text.lines().skip_while(|line| !line.contains(">:")).skip(1).take_while(|l| *l != line);
            let leaving = before.filter(|line| {
                let mnemonic = line.split_whitespace().nth(1).unwrap_or_default();
                mnemonic.starts_with('j') || mnemonic == "call" || mnemonic == "ret"
            });
            assert_eq!(leaving.count(), usize::from(!placement.sees_null), "{name}\n{text}");
        }
    }
}

const CALLS: &str = r"
    #define _GNU_SOURCE
    #include <stdlib.h>
    #include <malloc.h>
    void *volatile keep;
    int main(void) {
        void *p, *q;
        keep = p = malloc(0x1111);
        keep = p = realloc(p, 0x2222);
        free(p);
        keep = p = calloc(3, 0x333);
        free(p);
        posix_memalign(&q, 64, 0x444); keep = q; free(q);
        keep = p = aligned_alloc(128, 0x580); free(p);
        keep = p = valloc(0x666); free(p);
        keep = p = pvalloc(0x777); free(p);
        keep = p = reallocarray(0, 5, 0x88); free(p);
        free(0);
        return 0;
    }
";

/// gdb stops at the entry of each function and at the probed instruction, and prints registers: what the placement says of the second
/// must be what the calling convention says of the first.
#[test]
fn arguments_and_return_address_are_where_gdb_finds_them() {
    let directory = directory("gdb");
    let Some(program) = compile(&directory, "calls", CALLS, &["-static"]) else { return };
    let (_, functions) = planned(&program);
    let by_vaddr: BTreeMap<u64, &PlannedFunction> =
        functions.values().map(|function| (function.vaddr, function)).collect();
    let mut script = String::from("set pagination off\nset confirm off\n");
    let mut stop = |address: u64, tag: &str, expressions: &[String]| {
        let values: Vec<String> = expressions.iter().map(|value| format!(", (unsigned long)({value})")).collect();
        let values = values.concat();
        let format = " %lx".repeat(expressions.len());
        write!(script, "break *{address:#x}\ncommands\nsilent\nprintf \"{tag}{format}\\n\"{values}\ncontinue\nend\n")
            .unwrap();
    };
    for function in by_vaddr.values() {
        let positions = function.semantics.arguments();
        let registers = ["$rdi", "$rsi", "$rdx", "$rcx", "$r8", "$r9"];
        let mut expected: Vec<String> = positions.iter().map(|at| registers[usize::from(*at)].to_owned()).collect();
        expected.push("*(unsigned long *)$rsp".into());
        expected.push("$rsp".into());
        let placement = function.entry.as_ref().unwrap();
        let mut found: Vec<String> = placement.arguments.iter().copied().map(gdb_expression).collect();
        found.push(format!("*(unsigned long *)($rsp + {})", placement.stack_adjust_bytes));
        found.push(format!("$rsp + {}", placement.stack_adjust_bytes));
        if placement.offset == 0 {
            let both: Vec<String> = expected.iter().chain(&found).cloned().collect();
            stop(function.vaddr, &format!("BOTH {:x}", function.vaddr), &both);
        } else {
            stop(function.vaddr, &format!("ENTRY {:x}", function.vaddr), &expected);
            stop(function.vaddr + u64::from(placement.offset), &format!("PROBE {:x}", function.vaddr), &found);
        }
    }
    script.push_str("run\n");
    let script_path = directory.join("script");
    std::fs::write(&script_path, script).unwrap();
    let arguments = ["-nx", "-batch", "-x", script_path.to_str().unwrap(), program.to_str().unwrap()];
    let Some(output) = tool("gdb", &arguments) else { return };
    if !output.contains("exited normally") {
        eprintln!("skipped: gdb could not run the program: {output}");
        return;
    }

    let mut entered: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut compared: BTreeMap<&str, u32> = BTreeMap::new();
    for line in output.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        match fields.as_slice() {
            ["BOTH", vaddr, values @ ..] => {
                let (expected, found) = values.split_at(values.len() / 2);
                assert_eq!(expected, found);
                *compared.entry(vaddr).or_default() += 1;
            }
            ["ENTRY", vaddr, values @ ..] => drop(entered.insert(vaddr, values.to_vec())),
            ["PROBE", vaddr, values @ ..] => {
                let name = by_vaddr[&u64::from_str_radix(vaddr, 16).unwrap()].name();
                assert_eq!(entered.remove(vaddr).as_deref(), Some(values), "{name}");
                *compared.entry(vaddr).or_default() += 1;
            }
            _ => {}
        }
    }
    for name in
        ["malloc", "calloc", "realloc", "free", "posix_memalign", "aligned_alloc", "valloc", "pvalloc", "reallocarray"]
    {
        let vaddr = format!("{:x}", functions[name].vaddr);
        assert!(compared.get(vaddr.as_str()).is_some_and(|count| *count > 0), "{name} was never seen\n{output}");
    }
}

fn gdb_expression(location: ArgLocation) -> String {
    match location {
        ArgLocation::Register(register) => format!("${register:?}").to_lowercase(),
        ArgLocation::Stack { offset_bytes } => format!("*(unsigned long *)($rsp + {offset_bytes})"),
    }
}

#[test]
fn decoding_any_bytes_never_panics() {
    // All of libc's data and code, taken for functions at odd offsets.
    let Some(libc) = system_libc() else { return };
    let bytes = std::fs::read(libc).unwrap();
    let need = Need { arguments: vec![0, 1, 2], return_probe: false, ignore_null: Some(0) };
    let mut placed = 0;
    for start in (0..bytes.len().saturating_sub(600)).step_by(997) {
        let slice = CodeSlice { vaddr: u64::MAX - 300, bytes: &bytes[start..start + 600] };
        let function = Function { vaddr: slice.vaddr, size_bytes: 250 };
        placed += u32::from(place(&slice, function, &need, KernelRules::default()).is_ok());
        let _ = ret_exits(&slice, function);
        let _ = reach(&slice, function, Some(0), &|vaddr| vaddr % 7 == 0);
        let _ = thunk_target(&slice, function, &[0, 1]);
        assert!(slice.code_at(0, 10).is_empty());
    }
    assert!(placed > 100);
}
