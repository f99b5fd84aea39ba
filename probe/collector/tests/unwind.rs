//! Unwind tables against gimli's own lookup: by the sorted table of `.eh_frame_hdr`, which ours never reads, at addresses
//! all over real files. Each rule is applied to the same registers.

#![expect(clippy::print_stderr, reason = "a test that is skipped says why")]

use std::{fs::File, path::PathBuf, process::Command};

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, LittleEndian, Register, RegisterRule, UnwindContext,
    UnwindSection as _, X86_64,
};
use object::{Object as _, ObjectSection as _};
use probe_abi::unwind::{
    BASE_CFA, BASE_RBP, BASE_SAME, KIND_RBP, KIND_RSP, KIND_SPECIAL, KIND_WIDE, Rule, SPECIAL_NONE, SPECIAL_ROOT,
};
use probe_collector::unwind::{Source, TableCache, UnwindTable};

const RSP: u64 = 0x7fff_0000_1000;
const RBP: u64 = 0x7fff_0000_8000;

/// Where a frame's CFA is and where the caller's rbp is saved (`None`: unchanged), for the registers above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Out {
        cfa: u64,
        rbp_at: Option<u64>,
    },
    Root,
    None,
    /// Something that this test does not compute.
    Unusual,
}

fn by_table(table: &UnwindTable, rule: Rule) -> Step {
    match rule.kind() {
        kind @ (KIND_RSP | KIND_RBP) => {
            let cfa = if kind == KIND_RSP { RSP } else { RBP } + u64::from(rule.cfa_words()) * 8;
            let slot = u64::from(rule.rbp_slot()) * 8;
            Step::Out { cfa, rbp_at: (slot != 0).then(|| cfa - slot) }
        }
        KIND_SPECIAL if rule.cfa_words() == SPECIAL_NONE => Step::None,
        KIND_SPECIAL if rule.cfa_words() == SPECIAL_ROOT => Step::Root,
        KIND_WIDE => {
            let wide = table.wide[rule.wide_index() as usize];
            if wide.cfa_deref != 0 {
                return Step::Unusual;
            }
            let base = if wide.cfa_base == BASE_RBP { RBP } else { RSP };
            let cfa = base.wrapping_add_signed(wide.cfa_offset.into());
            let from = match wide.rbp_base {
                BASE_CFA => cfa,
                BASE_RBP => RBP,
                _ => RSP,
            };
            let rbp_at = (wide.rbp_base != BASE_SAME).then(|| from.wrapping_add_signed(wide.rbp_offset.into()));
            Step::Out { cfa, rbp_at }
        }
        _ => Step::Unusual,
    }
}

struct Oracle<'a> {
    section: EhFrame<gimli::EndianSlice<'a, LittleEndian>>,
    header: gimli::ParsedEhFrameHdr<gimli::EndianSlice<'a, LittleEndian>>,
    bases: BaseAddresses,
}

impl<'a> Oracle<'a> {
    fn of(elf: &object::File<'a>) -> Self {
        let section = elf.section_by_name(".eh_frame").expect("the file has .eh_frame");
        let index = elf.section_by_name(".eh_frame_hdr").expect("the file has .eh_frame_hdr");
        let bases = BaseAddresses::default()
            .set_eh_frame(section.address())
            .set_eh_frame_hdr(index.address())
            .set_text(elf.section_by_name(".text").map_or(0, |text| text.address()));
        let header =
            EhFrameHdr::new(index.data().expect("it has bytes"), LittleEndian).parse(&bases, 8).expect("sound");
        Self { section: EhFrame::new(section.data().expect("it has bytes"), LittleEndian), header, bases }
    }

    fn step(&self, address: u64) -> Step {
        let mut context = UnwindContext::new();
        let table = self.header.table().expect("it has a table");
        let Ok(row) =
            table.unwind_info_for_address(&self.section, &self.bases, &mut context, address, EhFrame::cie_from_offset)
        else {
            return Step::None;
        };
        match row.register(X86_64::RA) {
            Some(RegisterRule::Undefined) => return Step::Root,
            Some(RegisterRule::Offset(-8)) => {}
            _ => return Step::Unusual,
        }
        let value = |register: Register| match register {
            X86_64::RSP => Some(RSP),
            X86_64::RBP => Some(RBP),
            _ => None,
        };
        let CfaRule::RegisterAndOffset { register, offset } = row.cfa() else { return Step::Unusual };
        let Some(base) = value(*register) else { return Step::Unusual };
        let cfa = base.wrapping_add_signed(*offset);
        match row.register(X86_64::RBP) {
            None | Some(RegisterRule::SameValue | RegisterRule::Undefined) => Step::Out { cfa, rbp_at: None },
            Some(RegisterRule::Offset(offset)) => Step::Out { cfa, rbp_at: Some(cfa.wrapping_add_signed(offset)) },
            _ => Step::Unusual,
        }
    }
}

/// Files with much and varied code, as far as they are here.
fn files() -> Vec<PathBuf> {
    let output = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok()?;
        Some(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
    };
    let mut files = vec![std::env::current_exe().expect("a test knows its path")];
    files.extend(
        ["libc.so.6", "ld-linux-x86-64.so.2", "libstdc++.so.6"]
            .map(|name| output("gcc", &[&format!("-print-file-name={name}")]).unwrap_or_default()),
    );
    files.extend(output("g++", &["-print-prog-name=cc1plus"]));
    if let Some(root) = output("rustc", &["--print", "sysroot"]) {
        let libraries = std::fs::read_dir(root.join("lib")).into_iter().flatten().flatten();
        files.extend(
            libraries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|kind| kind == "so")),
        );
    }
    files.retain(|path| path.is_file());
    files
}

#[test]
fn every_rule_is_that_of_the_section() {
    for path in files() {
        let bytes = std::fs::read(&path).expect("the file can be read");
        // Some are scripts for the linker.
        let Ok(elf) = object::File::parse(bytes.as_slice()) else { continue };
        if elf.section_by_name(".eh_frame_hdr").is_none() {
            eprintln!("skipped {}: no .eh_frame_hdr to compare with", path.display());
            continue;
        }
        let table = UnwindTable::build(&bytes).expect("it has a table");
        let oracle = Oracle::of(&elf);
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        let (mut compared, mut unusual) = (0, 0);
        for start in table.functions.iter().step_by(table.functions.len().div_ceil(4000).max(1)) {
            for _ in 0..5 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let address = start + (random >> 57);
                let expected = oracle.step(address);
                let found = by_table(&table, table.rule_at(address));
                match (expected, found) {
                    (Step::Unusual, _) | (_, Step::Unusual) => unusual += 1,
                    // `_start`, which nothing covers.
                    (Step::None, Step::Root) if address - elf.entry() < 128 => {}
                    // Padding behind a function keeps its rule.
                    (Step::None, Step::Out { .. }) if (1..16).any(|back| oracle.step(address - back) == found) => {}
                    _ => {
                        compared += 1;
                        assert_eq!(found, expected, "{} at {address:#x}", path.display());
                    }
                }
            }
        }
        assert!(compared > 20 * unusual, "{}: {compared} compared, {unusual} not", path.display());
    }
}

#[test]
fn functions_begin_where_entries_do() {
    let bytes = std::fs::read(std::env::current_exe().expect("a test knows its path")).expect("it can be read");
    let table = UnwindTable::build(&bytes).expect("it has a table");
    let start = table.functions[table.functions.len() / 2];
    assert_eq!(table.function_start(start), Some(start));
    assert_eq!(table.function_start(start + 1), Some(start));
    assert_eq!(table.function_start(0), None);
    assert!(table.functions.is_sorted());
}

#[test]
fn a_cache_gives_back_what_was_built_or_builds_again() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let cache = TableCache::at(folder.path().join("made/when/needed"));
    let path = std::env::current_exe().expect("a test knows its path");
    let file = File::open(&path).expect("it can be opened");
    let (built, source) = cache.get(&file, &[7; 20]).expect("it has a table");
    assert_eq!(source, Source::Built);
    let (cached, source) = cache.get(&file, &[7; 20]).expect("it has a table");
    assert_eq!(source, Source::Cached);
    assert_eq!(built, cached);
    assert_eq!(cache.get(&file, &[8; 20]).expect("it has a table").1, Source::Built, "another build is another file");
    let stored: Vec<PathBuf> = std::fs::read_dir(folder.path().join("made/when/needed"))
        .expect("the folder was made")
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    assert_eq!(stored.len(), 2);
    for path in &stored {
        let mut bytes = std::fs::read(path).expect("it can be read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).expect("it can be written");
    }
    let (again, source) = cache.get(&file, &[7; 20]).expect("it has a table");
    assert_eq!((source, &again), (Source::Built, &built), "a damaged file is as if it were not there");
    assert_eq!(cache.get(&file, &[7; 20]).expect("it has a table").1, Source::Cached, "and is replaced");
}

#[test]
fn what_is_no_elf_file_is_refused_and_damage_is_survived() {
    assert!(UnwindTable::build(b"no such thing").is_err());
    let bytes = std::fs::read(std::env::current_exe().expect("a test knows its path")).expect("it can be read");
    for cut in [64, 1000, bytes.len() / 3, bytes.len() / 2] {
        let _ = UnwindTable::build(&bytes[..cut]);
    }
    let elf = object::File::parse(bytes.as_slice()).expect("it is an ELF file");
    let (offset, length) = elf.section_by_name(".eh_frame").and_then(|found| found.file_range()).expect("it has one");
    let mut random = 1u64;
    for _ in 0..20 {
        let mut damaged = bytes.clone();
        for _ in 0..50 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            damaged[(offset + random % length) as usize] = (random >> 40) as u8;
        }
        let _ = UnwindTable::build(&damaged);
    }
}
