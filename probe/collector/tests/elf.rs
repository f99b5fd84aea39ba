//! What is read from ELF files, compared with binutils, and what becomes of damaged ones.

mod programs;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use probe_collector::allocators::recognise;
use probe_collector::elf::{ElfError, ElfImage, Linkage};
use probe_collector::target::{ModuleCache, PlannedFunction};
use programs::{compile, directory, hex, real_rustc, system_libc, tool};

/// Names and addresses of allocator functions, as `nm` lists them.
fn by_nm(path: &Path) -> Option<BTreeMap<String, u64>> {
    let path = path.to_str()?;
    let exported = tool("nm", &["-D", "--defined-only", path])?;
    let all = tool("nm", &["--defined-only", path]).unwrap_or_default();
    let functions = exported.lines().chain(all.lines()).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (address, kind, name) = (fields.next()?, fields.next()?, fields.next()?);
        let name = name.split('@').next()?;
        let is_function = matches!(kind, "T" | "t" | "W" | "w" | "i");
        let address = u64::from_str_radix(address, 16).ok()?;
        (is_function && recognise(name.as_bytes()).is_some()).then(|| (name.to_owned(), address))
    });
    Some(functions.collect())
}

fn by_us(image: &ElfImage) -> BTreeMap<String, u64> {
    let named = |function: &probe_collector::elf::AllocatorFunction| {
        let vaddr = function.vaddr;
        function.names.iter().map(move |name| (name.name.clone(), vaddr)).collect::<Vec<_>>()
    };
    image.functions.iter().flat_map(named).collect()
}

/// Large real files: libc, what clang loads, rustc.
fn real_files() -> Vec<PathBuf> {
    let mut files: BTreeSet<PathBuf> = system_libc().into_iter().chain(real_rustc()).collect();
    let loaded = tool("ldd", &["/usr/bin/clang-19"]).unwrap_or_default();
    files.extend(loaded.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
    files.extend(["/bin/sh", "/usr/bin/gdb"].map(PathBuf::from));
    files.into_iter().filter(|file| file.exists()).collect()
}

#[test]
fn allocator_functions_are_those_nm_lists() {
    let mut compared = 0;
    for path in real_files() {
        let Some(expected) = by_nm(&path) else { continue };
        assert_eq!(by_us(&ElfImage::open(&path).unwrap()), expected, "{}", path.display());
        compared += expected.len();
    }
    eprintln!("{compared} names compared");
    assert!(compared > 10 || tool("nm", &["--version"]).is_none());
}

#[test]
fn headers_are_what_readelf_says() {
    for path in real_files() {
        let image = ElfImage::open(&path).unwrap();
        let Some(text) = tool("readelf", &["-lnW", path.to_str().unwrap()]) else { return };
        let build_id = text.split("Build ID: ").nth(1).map_or("", |rest| rest.lines().next().unwrap());
        assert_eq!(hex(&image.build_id), build_id, "{}", path.display());
        let interpreter = text.split("program interpreter: ").nth(1).and_then(|rest| rest.split(']').next());
        assert_eq!(image.interpreter.as_deref(), interpreter.map(Path::new), "{}", path.display());

        let loads = text.lines().filter(|line| line.trim_start().starts_with("LOAD"));
        let fields: Vec<Vec<&str>> = loads.map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(fields.len(), image.segments.len());
        for (expected, segment) in fields.iter().zip(&image.segments) {
            let hex = |index: usize| u64::from_str_radix(expected[index].trim_start_matches("0x"), 16).unwrap();
            assert_eq!(
                (segment.file_offset, segment.vaddr, segment.file_bytes, segment.memory_bytes),
                (hex(1), hex(2), hex(4), hex(5)),
                "{}",
                path.display()
            );
            assert_eq!(segment.executable, expected[6..expected.len() - 1].concat().contains('E'));
            if segment.file_bytes > 0 {
                assert_eq!(image.file_offset(segment.vaddr), Some(segment.file_offset));
                assert_eq!(
                    image.file_offset(segment.vaddr + segment.file_bytes - 1),
                    Some(segment.file_offset + segment.file_bytes - 1)
                );
            }
            if segment.executable {
                assert_eq!(image.vaddr(segment.file_offset), Some(segment.vaddr), "code wins where pages are shared");
            }
        }
        assert_eq!(image.file_offset(u64::MAX), None);
    }
}

const PROGRAM: &str = "int main(void) { return 0; }";
const ALLOCATOR: &str = r#"
    #include <stddef.h>
    static char heap[1 << 16]; static size_t used;
    __attribute__((visibility("default"))) void *malloc(size_t n) { void *p = heap + used; used += (n + 15) & ~15ul; return p; }
    void *je_malloc(size_t n) __attribute__((alias("malloc")));
    __attribute__((noinline)) void free(void *p) { __asm__ volatile("" :: "r"(p)); }
    void *folded(void *p) { __asm__ volatile("" :: "r"(p)); return p; }
    void *_rjem_malloc(size_t n) __attribute__((alias("folded")));
    void _rjem_free(void *p) __attribute__((alias("folded")));
    extern int _dl_debug_state; int landmark(void) { return 0; }
"#;

#[test]
fn linkage_is_told_apart() {
    let directory = directory("linkage");
    for (options, expected) in [
        (&["-static"][..], Linkage::Static),
        (&["-static-pie"], Linkage::StaticPie),
        (&["-pie", "-fPIE"], Linkage::Dynamic),
        (&["-no-pie"], Linkage::Dynamic),
    ] {
        let Some(binary) = compile(&directory, "program", PROGRAM, options) else { return };
        assert_eq!(ElfImage::open(&binary).unwrap().linkage, expected, "{options:?}");
    }
    let Some(library) = compile(&directory, "library.so", ALLOCATOR, &["-shared", "-fPIC"]) else { return };
    assert_eq!(ElfImage::open(&library).unwrap().linkage, Linkage::SharedObject);
}

#[test]
fn aliases_are_one_function_and_contradictions_none() {
    let Some(library) = compile(&directory("aliases"), "library.so", ALLOCATOR, &["-shared", "-fPIC"]) else { return };
    let image = ElfImage::open(&library).unwrap();
    let find = |name: &str| {
        let named =
            |function: &&probe_collector::elf::AllocatorFunction| function.names.iter().any(|known| known.name == name);
        image.functions.iter().find(named).unwrap()
    };
    let malloc = find("je_malloc");
    assert_eq!(malloc.name(), "malloc");
    assert!(malloc.names.iter().all(|name| name.exported) && malloc.size_bytes > 0);
    assert_eq!(find("_rjem_free").semantics, None, "malloc and free cannot be one function");
    let functions = image.functions.len();

    let (_, facts) = (functions, ModuleCache::default().get(&File::open(&library).unwrap(), &library).unwrap());
    let allocators: Vec<_> = facts.allocators.iter().map(|allocator| allocator.prefix).collect();
    assert_eq!(allocators, [""], "je_malloc is malloc; what _rjem_ names mean is not known");
}

#[test]
fn symbols_are_found_by_name_and_visited() {
    let Some(library) = compile(&directory("by_name"), "library.so", ALLOCATOR, &["-shared", "-fPIC"]) else { return };
    let image = ElfImage::open(&library).unwrap();
    let file = File::open(&library).unwrap();
    let symbols = tool("nm", &[library.to_str().unwrap()]).unwrap();
    let line = symbols.lines().find(|line| line.ends_with(" landmark")).unwrap();
    let expected = u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap();
    assert_eq!(image.symbol(&file, "landmark").unwrap().unwrap().vaddr, expected);
    assert_eq!(image.symbol(&file, "landmar").unwrap(), None);
    assert_eq!(image.symbol(&file, "landmarks").unwrap(), None);
    let mut visited = BTreeSet::new();
    image.visit_functions(&file, |symbol| visited.extend([(symbol.name.to_vec(), symbol.exported)])).unwrap();
    assert!(visited.contains(&(b"landmark".to_vec(), true)) && visited.contains(&(b"landmark".to_vec(), false)));
}

#[test]
fn a_file_without_section_headers_still_shows_its_exports() {
    let directory = directory("sections");
    for style in ["gnu", "sysv"] {
        let style = format!("-Wl,--hash-style={style}");
        let Some(library) = compile(&directory, "library.so", ALLOCATOR, &["-shared", "-fPIC", "-s", &style]) else {
            return;
        };
        let before = ElfImage::open(&library).unwrap();
        let file = OpenOptions::new().write(true).open(&library).unwrap();
        file.write_all_at(&[0; 8], 40).unwrap(); // e_shoff
        file.write_all_at(&[0; 4], 60).unwrap(); // e_shnum, e_shstrndx
        let after = ElfImage::open(&library).unwrap();
        assert_eq!(by_us(&after), by_us(&before), "{style}");
        assert!(by_us(&after).contains_key("je_malloc"));
    }
}

#[test]
fn other_machines_and_other_files_are_refused_in_words() {
    let directory = directory("refusals");
    let path = directory.join("file");
    let message = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        ElfImage::open(&path).unwrap_err().to_string()
    };
    assert!(message(b"#!/bin/sh\n").contains("not an ELF file"));
    assert!(message(b"").contains("not an ELF file"));
    let header = |class: u8, machine: u16| {
        let mut header = [0; 64];
        header[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1]);
        header[18..20].copy_from_slice(&machine.to_le_bytes());
        header
    };
    assert!(message(&header(2, 183)).contains("AArch64; heaptape records x86-64 Linux programs only"));
    assert!(message(&header(1, 3)).contains("32-bit x86"));
    assert!(message(&header(1, 62)).contains("x32"));
    assert!(message(&header(2, 62)[..40]).contains("truncated"));
    assert!(matches!(ElfImage::open(&directory), Err(ElfError::Read { .. })), "a directory");
    assert!(matches!(ElfImage::open(&directory.join("nothing")), Err(ElfError::Read { .. })));
}

#[test]
fn damage_is_an_error_or_harmless_but_never_a_panic() {
    let directory = directory("damage");
    let options = ["-shared", "-fPIC", "-nostdlib", "-Wl,--build-id"];
    let Some(library) = compile(&directory, "library.so", ALLOCATOR, &options) else { return };
    let whole = std::fs::read(&library).unwrap();
    let path = directory.join("damaged");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    // With everything built on it: placements, ends of functions.
    let look = || ModuleCache::default().get(&file, &path).map(|facts| facts.image.functions.len());
    let reference = {
        file.write_all_at(&whole, 0).unwrap();
        look().unwrap()
    };
    assert!(reference >= 3);

    for size in (0..whole.len()).rev() {
        file.set_len(size as u64).unwrap();
        let found = look();
        assert!(found.is_err() || size > 1024, "{size} bytes of an ELF file were taken for one: {found:?}");
    }
    file.write_all_at(&whole, 0).unwrap();
    for offset in 0..whole.len() {
        for damaged in [whole[offset] ^ 0x80, 0xff, whole[offset].wrapping_add(1)] {
            file.write_all_at(&[damaged], offset as u64).unwrap();
            let _ = look();
        }
        file.write_all_at(&whole[offset..=offset], offset as u64).unwrap();
    }
    // Whole fields of the headers at once: sizes and offsets beyond everything.
    for offset in (16..whole.len().min(4096)).step_by(8) {
        for absurd in [u64::MAX, i64::MAX as u64, 1 << 40, (whole.len() as u64) - 1] {
            file.write_all_at(&absurd.to_le_bytes(), offset as u64).unwrap();
            let _ = look();
        }
        file.write_all_at(&whole, 0).unwrap();
    }
    file.set_len(whole.len() as u64).unwrap();
    assert_eq!(look().unwrap(), reference, "the file is whole again");
}

#[test]
fn claims_of_a_sparse_file_do_not_fill_memory() {
    let Some(library) = compile(&directory("sparse"), "library.so", ALLOCATOR, &["-shared", "-fPIC"]) else { return };
    let whole = std::fs::read(&library).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&library).unwrap();
    file.set_len(1 << 40).unwrap();
    // The symbol table claims a hundred gigabytes, which the file has.
    let sections = u64::from_le_bytes(whole[40..48].try_into().unwrap()) as usize;
    let headers = whole[sections..].chunks_exact(64).enumerate();
    let (index, _) = headers.into_iter().find(|(_, header)| header[4] == 11).unwrap();
    file.write_all_at(&(100u64 << 30).to_le_bytes(), (sections + index * 64 + 32) as u64).unwrap();
    assert!(matches!(ElfImage::from_file(&file, &library), Err(ElfError::Malformed { .. })));
}

#[test]
fn functions_that_are_others_under_a_second_name_are_left_out() {
    // Through linkage stubs, and with direct jumps.
    let source = r#"
        #include <stddef.h>
        static char heap[1 << 16]; static size_t used;
        __attribute__((noinline)) void *je_malloc(size_t n) { void *p = heap + used; used += n; __asm__ volatile(""); return p; }
        __attribute__((noinline)) void je_free(void *p) { __asm__ volatile("" :: "r"(p) : "memory"); }
        void je_cfree(void *p) { je_free(p); }
        void je_sdallocx(void *p, size_t n, int flags) { if (p) je_free(p); }
        void je_dallocx(void *p, int flags) { if (flags) je_free(p); else __asm__ volatile("" :: "r"(p) : "memory"); }
        void *je_valloc(size_t n) { return je_malloc(n); }
        void *je_pvalloc(size_t n) { return je_malloc((n + 4095) & -4096); }
        void *je_memalign(size_t a, size_t n) { return je_malloc(n); }
    "#;
    for binding in ["-Wl,-z,lazy", "-Wl,-Bsymbolic"] {
        let options = ["-O2", "-shared", "-fPIC", binding];
        let Some(library) = compile(&directory("seconds"), "library.so", source, &options) else { return };
        let facts = ModuleCache::default().get(&File::open(&library).unwrap(), &library).unwrap();
        let [allocator] = facts.allocators.as_slice() else { panic!("{:?}", facts.allocators) };
        let probed: BTreeSet<&str> = allocator.functions.iter().map(PlannedFunction::name).collect();
        let left_out: BTreeSet<&str> = allocator.left_out.iter().map(|left| left.name.as_str()).collect();
        // je_dallocx frees without je_free at times; the sizes of je_pvalloc are not those it hands on, and je_memalign's are elsewhere.
        assert_eq!(
            probed,
            BTreeSet::from(["je_malloc", "je_free", "je_dallocx", "je_pvalloc", "je_memalign"]),
            "{binding}"
        );
        assert_eq!(left_out, BTreeSet::from(["je_cfree", "je_sdallocx", "je_valloc"]), "{binding}");
    }
}
