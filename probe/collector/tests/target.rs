//! What is found in live processes: static, dynamic, dlopen'ing, with allocators of their own, in further namespaces, too early and
//! gone.

mod programs;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use probe_collector::target::{
    Discovery, Domain, LinkMap, Linking, ListState, Mappings, ModuleCache, ProcessMemory, Role, TargetError, discover,
    linker_notification,
};
use programs::{Running, compile, directory, system_libc, tool};

/// Waits for a line before and after `STEP`.
fn program(step: &str) -> String {
    format!(
        r#"
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <stdio.h>
        #include <stdlib.h>
        int main(int argc, char **argv) {{
            free(malloc(100));
            printf("ready\n"); fflush(stdout); getchar();
            {step}
            printf("done\n"); fflush(stdout); getchar();
            return 0;
        }}
        "#
    )
}

/// An allocator whose names start with `PREFIX`.
fn allocator(prefix: &str) -> String {
    format!(
        r#"
        #include <stddef.h>
        #include <string.h>
        static char heap[1 << 20]; static size_t used;
        void *{prefix}malloc(size_t n) {{ void *p = heap + used; used += (n + 31) & ~15ul; return used > sizeof heap ? 0 : p; }}
        void *{prefix}calloc(size_t m, size_t n) {{ void *p = {prefix}malloc(m * n); return p ? memset(p, 0, m * n) : p; }}
        void *{prefix}realloc(void *p, size_t n) {{ void *q = {prefix}malloc(n); if (p && q) memcpy(q, p, n); return q; }}
        __attribute__((noinline)) void {prefix}free(void *p) {{ __asm__ volatile("" :: "r"(p) : "memory"); }}
        "#
    )
}

fn domain<'a>(found: &'a Discovery, name: &str) -> &'a Domain {
    let domain = found.domains.iter().find(|domain| found.domain_name(domain) == name);
    domain.unwrap_or_else(|| panic!("no {name} among {:?}", names(found)))
}

fn names(found: &Discovery) -> Vec<String> {
    found.domains.iter().map(|domain| found.domain_name(domain)).collect()
}

fn function_names(domain: &Domain) -> BTreeSet<&str> {
    domain.functions.iter().flat_map(|function| &function.names).map(String::as_str).collect()
}

/// Link-time address of a symbol, by `nm`.
fn nm(path: &Path, dynamic: bool, name: &str) -> Option<u64> {
    let mut arguments = vec!["--defined-only", path.to_str()?];
    arguments.extend(dynamic.then_some("-D"));
    let text = tool("nm", &arguments)?;
    let line = text.lines().find(|line| line.split([' ', '@']).any(|field| field == name))?;
    u64::from_str_radix(line.split(' ').next()?, 16).ok()
}

/// The files mapped executable, with the address their first byte is or would be at, by the text of maps.
fn executable_files(pid: u32) -> BTreeMap<String, u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut files = BTreeMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [range, _, offset, _, inode, path, ..] = fields[..]
            && inode != "0"
        {
            let start = u64::from_str_radix(range.split('-').next().unwrap(), 16).unwrap();
            let base = start - u64::from_str_radix(offset, 16).unwrap();
            files.entry(path.to_owned()).or_insert(base);
        }
    }
    let executable = |path: &str| text.lines().any(|line| line.ends_with(path) && line.contains("r-xp"));
    files.retain(|path, _| executable(path));
    files
}

#[test]
fn a_dynamic_program_shows_its_modules_and_libc() {
    let Some(binary) = compile(&directory("dynamic"), "program", &program(""), &[]) else { return };
    let Some(libc) = system_libc() else { return };
    let running = Running::start(&mut Command::new(&binary));
    let mut cache = ModuleCache::default();
    let found = discover(running.pid(), &mut cache).unwrap();

    assert!(matches!(found.linking, Linking::Dynamic { state: ListState::Consistent, .. }));
    assert_eq!(found.unusable, []);
    let listed: BTreeMap<String, u64> =
        found.modules.iter().map(|module| (module.path.to_string_lossy().into_owned(), module.load_bias)).collect();
    assert_eq!(listed, executable_files(running.pid()), "libraries are linked from 0, so that bias and base are one");
    assert_eq!(found.modules[0].path, binary.canonicalize().unwrap());
    let roles: Vec<Role> = found.modules.iter().map(|module| module.role).collect();
    assert_eq!(roles, [Role::Executable, Role::Library, Role::Interpreter]);

    assert_eq!(names(&found), ["libc.so.6"], "and not ld.so");
    let domain = domain(&found, "libc.so.6");
    let expected =
        ["malloc", "calloc", "realloc", "free", "posix_memalign", "aligned_alloc", "memalign", "valloc", "pvalloc"];
    assert!(expected.iter().all(|name| function_names(domain).contains(name)));
    let malloc = domain.functions.iter().find(|function| function.name() == "malloc").unwrap();
    let module = &found.modules[domain.module];
    assert_eq!(Some(malloc.vaddr), nm(&libc, true, "malloc"));
    assert!(domain.text.contains(&module.address(malloc.vaddr)));
    let mappings = Mappings::read(running.pid()).unwrap();
    assert!(mappings.is_executable(module.address(malloc.vaddr)));
    assert!(mappings.is_executable(domain.text.start) && mappings.is_executable(domain.text.end - 1));

    // The code in memory is the code in the file.
    let (file, _) = module.open().unwrap();
    let code = module.file.image.code(&file).bytes(malloc.vaddr, 64).unwrap();
    let memory = ProcessMemory::open(running.pid()).unwrap();
    assert_eq!(memory.array::<64>("code", module.address(malloc.vaddr)).unwrap(), code[..]);

    // Known files are not read again: the facts are the same object.
    let again = discover(running.pid(), &mut cache).unwrap();
    for (first, second) in found.modules.iter().zip(&again.modules) {
        assert!(std::sync::Arc::ptr_eq(&first.file, &second.file));
    }
}

#[test]
fn static_programs_need_no_linker() {
    let directory = directory("static");
    for options in [&["-static"][..], &["-static-pie"], &["-static", "-no-pie"]] {
        let Some(binary) = compile(&directory, "program", &program(""), options) else { return };
        let running = Running::start(&mut Command::new(&binary));
        let mut cache = ModuleCache::default();
        let found = discover(running.pid(), &mut cache).unwrap();
        assert_eq!(found.linking, Linking::Static, "{options:?}");
        assert_eq!(names(&found), ["program"]);
        let free = found.domains[0].functions.iter().find(|function| function.name() == "free").unwrap();
        assert_eq!(Some(free.vaddr), nm(&binary, false, "free"));
        assert!(Mappings::read(running.pid()).unwrap().is_executable(found.modules[0].address(free.vaddr)));
        assert!(linker_notification(running.pid(), &mut cache).unwrap().is_none());
    }
}

#[test]
fn an_allocator_in_the_executable_comes_before_libc() {
    let source = format!("{}\n{}", allocator(""), program("").replace("stdlib.h", "stddef.h"));
    let Some(binary) = compile(&directory("own"), "compiler", &source, &["-rdynamic", "-fno-builtin"]) else { return };
    let running = Running::start(&mut Command::new(&binary));
    let found = discover(running.pid(), &mut ModuleCache::default()).unwrap();
    assert_eq!(names(&found), ["compiler", "libc.so.6"]);
    assert!(found.domains[0].functions.iter().all(|function| function.exported && function.entry.is_ok()));
}

#[test]
fn what_dlopen_brings_is_found_after_it() {
    let directory = directory("dlopen");
    let Some(library) = compile(&directory, "plugin.so", &allocator("_rjem_"), &["-shared", "-fPIC"]) else { return };
    let step = "void *h = dlopen(argv[1], RTLD_NOW); if (!h) return 1;";
    let Some(binary) = compile(&directory, "program", &program(step), &[]) else { return };
    let mut running = Running::start(Command::new(&binary).arg(&library));
    let mut cache = ModuleCache::default();
    let before = discover(running.pid(), &mut cache).unwrap();
    assert_eq!(names(&before), ["libc.so.6"]);
    assert_eq!(running.go_on(), "done");
    let after = discover(running.pid(), &mut cache).unwrap();
    assert_eq!(names(&after), ["libc.so.6", "plugin.so (_rjem_)"]);
    let plugin = domain(&after, "plugin.so (_rjem_)");
    assert_eq!(
        function_names(plugin).into_iter().collect::<Vec<_>>(),
        ["_rjem_calloc", "_rjem_free", "_rjem_malloc", "_rjem_realloc"]
    );
}

#[test]
fn a_second_namespace_has_a_libc_of_its_own() {
    let directory = directory("dlmopen");
    let source = "#include <stdlib.h>\nvoid *take(void) { return malloc(1); }";
    let Some(library) = compile(&directory, "plugin.so", source, &["-shared", "-fPIC"]) else { return };
    let step = "if (!dlmopen(LM_ID_NEWLM, argv[1], RTLD_NOW)) return 1;";
    let Some(binary) = compile(&directory, "program", &program(step), &[]) else { return };
    let mut running = Running::start(Command::new(&binary).arg(&library));
    assert_eq!(running.go_on(), "done");
    let found = discover(running.pid(), &mut ModuleCache::default()).unwrap();
    let copies = executable_text_of(running.pid(), "libc.so.6");
    if copies.len() < 2 {
        eprintln!("skipped: this libc shares itself between namespaces");
        return;
    }
    let spaces: Vec<usize> = found.domains.iter().map(|domain| found.modules[domain.module].namespace).collect();
    assert_eq!((names(&found), spaces), (vec!["libc.so.6".to_owned(); 2], vec![0, 1]));
    for (domain, copy) in found.domains.iter().zip(copies) {
        assert!(found.domains.iter().filter(|domain| domain.text.contains(&copy)).count() == 1, "{:?}", domain.text);
    }
    let linkers = found.modules.iter().filter(|module| module.role == Role::Interpreter).count();
    assert_eq!(linkers, 1, "the linker is one for all");
}

/// Where the executable mappings of a file start.
fn executable_text_of(pid: u32, name: &str) -> Vec<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let lines = text.lines().filter(|line| line.ends_with(name) && line.contains("r-xp"));
    lines.map(|line| u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap()).collect()
}

#[test]
fn the_linker_reports_where_its_list_says_it_does() {
    let Some(binary) = compile(&directory("notification"), "program", &program(""), &[]) else { return };
    let running = Running::start(&mut Command::new(&binary));
    let mut cache = ModuleCache::default();
    let expected = discover(running.pid(), &mut cache).unwrap().linking;
    let notification = linker_notification(running.pid(), &mut cache).unwrap().unwrap();
    assert!(matches!(expected, Linking::Dynamic { notify, .. } if notify == notification.address));
    let path = notification.module.path.clone();
    assert_eq!(nm(&path, true, "_dl_debug_state"), Some(notification.vaddr));
    let file = fs::read(&path).unwrap();
    let memory = ProcessMemory::open(running.pid()).unwrap();
    let code: [u8; 1] = memory.array("code", notification.address).unwrap();
    assert_eq!(file[notification.file_offset as usize], code[0]);
}

#[test]
fn a_program_run_by_its_linker_is_found_too() {
    let Some(binary) = compile(&directory("by_linker"), "program", &program(""), &[]) else { return };
    let linker = Path::new("/lib64/ld-linux-x86-64.so.2");
    if !linker.exists() {
        eprintln!("skipped: no {}", linker.display());
        return;
    }
    let running = Running::start(Command::new(linker).arg(&binary));
    let mut cache = ModuleCache::default();
    let found = discover(running.pid(), &mut cache).unwrap();
    assert_eq!(found.modules[0].path, binary.canonicalize().unwrap());
    assert_eq!(names(&found), ["libc.so.6"]);
    assert!(linker_notification(running.pid(), &mut cache).unwrap().is_some());
}

const IFUNC: &str = r#"
    #include <stddef.h>
    static char heap[1 << 16]; static size_t used;
    __attribute__((noinline)) void *fast(size_t n) { void *p = heap + used; used += n; return p; }
    __attribute__((noinline)) void *slow(size_t n) { void *p = heap + used; used += n + 16; return p; }
    static volatile int choice = 0;
    static void *(*choose(void))(size_t) { return choice ? slow : fast; }
    void *je_malloc(size_t n) __attribute__((ifunc("choose")));
    __attribute__((noinline)) void je_free(void *p) { __asm__ volatile("" :: "r"(p) : "memory"); }
"#;

#[test]
fn the_function_an_ifunc_chose_is_probed() {
    let directory = directory("ifunc");
    let Some(library) = compile(&directory, "liballoc.so", IFUNC, &["-shared", "-fPIC"]) else { return };
    let declaration = "void *je_malloc(unsigned long); void je_free(void *);";
    let source = format!("{declaration}{}", program("je_free(je_malloc(10));"));
    let chosen = |found: &Discovery| -> BTreeSet<u64> {
        let domain = domain(found, "liballoc.so (je_)");
        let mallocs = domain.functions.iter().filter(|function| function.name() == "je_malloc");
        mallocs.map(|function| function.vaddr).collect()
    };
    let (Some(fast), Some(slow)) = (nm(&library, true, "fast"), nm(&library, true, "slow")) else { return };
    let rpath = format!("-Wl,-rpath,{}", directory.display());
    for (binding, at_once) in [("-Wl,-z,now", true), ("-Wl,-z,lazy", false)] {
        let options = [library.to_str().unwrap(), &rpath, binding];
        let Some(binary) = compile(&directory, "program", &source, &options) else { return };
        let mut running = Running::start(&mut Command::new(&binary));
        let mut cache = ModuleCache::default();
        let first = chosen(&discover(running.pid(), &mut cache).unwrap());
        if at_once {
            assert_eq!(first, BTreeSet::from([fast]));
        } else {
            assert!(first.contains(&fast), "not called yet: whatever the resolver mentions");
            assert!(first.is_subset(&BTreeSet::from([fast, slow])), "{first:x?}");
        }
        running.go_on();
        assert_eq!(chosen(&discover(running.pid(), &mut cache).unwrap()), BTreeSet::from([fast]), "{binding}");
    }
    // Static: the only relocation kind there is IRELATIVE.
    let Some(binary) = compile(&directory, "static", &format!("{IFUNC}{source}"), &["-static"]) else { return };
    let running = Running::start(&mut Command::new(&binary));
    let found = discover(running.pid(), &mut ModuleCache::default()).unwrap();
    let mallocs = domain(&found, "static (je_)").functions.iter().filter(|function| function.name() == "je_malloc");
    assert_eq!(mallocs.map(|function| function.vaddr).collect::<Vec<_>>(), [nm(&binary, false, "fast").unwrap()]);
}

#[test]
fn a_deleted_and_a_replaced_program_are_read_from_what_is_mapped() {
    let directory = directory("replaced");
    let Some(binary) = compile(&directory, "program", &program(""), &["-static"]) else { return };
    let expected = nm(&binary, false, "malloc").unwrap();
    let running = Running::start(&mut Command::new(&binary));
    fs::remove_file(&binary).unwrap();
    let find = |running: &Running| {
        let found = discover(running.pid(), &mut ModuleCache::default()).unwrap();
        let malloc = found.domains[0].functions.iter().find(|function| function.name() == "malloc").unwrap();
        assert_eq!(found.modules[0].path, binary, "without the kernel's (deleted)");
        malloc.vaddr
    };
    assert_eq!(find(&running), expected);
    fs::write(&binary, "something else").unwrap();
    assert_eq!(find(&running), expected);
}

#[test]
fn a_process_is_too_early_or_gone() {
    // An interpreter that loads nothing: the program is mapped, and nothing is listed.
    let directory = directory("early");
    let idle = r#"
        __attribute__((force_align_arg_pointer)) void _start(void) {
            long result;
            __asm__ volatile("syscall" : "=a"(result) : "a"(1), "D"(1), "S"("ready\n"), "d"(6) : "rcx", "r11", "memory");
            for (;;) __asm__ volatile("syscall" : "=a"(result) : "a"(34) : "rcx", "r11", "memory");
        }
    "#;
    let options = ["-static-pie", "-nostdlib", "-ffreestanding", "-fno-stack-protector"];
    let Some(interpreter) = compile(&directory, "interpreter", idle, &options) else { return };
    let option = format!("-Wl,--dynamic-linker={}", interpreter.display());
    let Some(binary) = compile(&directory, "program", &program(""), &[&option]) else { return };
    let running = Running::start(&mut Command::new(&binary));
    let mut cache = ModuleCache::default();
    let error = discover(running.pid(), &mut cache).unwrap_err();
    assert!(matches!(error, TargetError::NotYet { .. }), "{error}");
    let error = linker_notification(running.pid(), &mut cache).unwrap_err().to_string();
    assert!(error.contains("interpreter has no function _dl_debug_state"), "{error}");

    let pid = running.pid();
    drop(running);
    assert!(matches!(discover(pid, &mut cache), Err(TargetError::Gone { .. })));
    let mut zombie = Command::new("true").spawn().unwrap();
    while !fs::read_to_string(format!("/proc/{}/stat", zombie.id())).unwrap().contains(") Z ") {
        std::thread::yield_now();
    }
    let error = discover(zombie.id(), &mut cache).unwrap_err();
    assert!(matches!(error, TargetError::Gone { .. }), "{error}");
    zombie.wait().unwrap();
}

/// Lists in this process's own memory, with everything wrong that can be.
#[test]
fn absurd_lists_of_modules_are_cut_off() {
    let memory = ProcessMemory::open(std::process::id()).unwrap();
    let address = |words: &[u64]| words.as_ptr() as u64;
    let name = *b"/lib/one.so\0\0\0\0\0";
    let mut second = vec![0x2000, 0, 0x22, 0, 0];
    let mut first = vec![0x1000, name.as_ptr() as u64, 0x11, address(&second), 0];
    let mut debug = vec![1, address(&first), 0xbeef, 0, 0, 0];
    let read = |debug: &[u64]| LinkMap::read(&memory, address(debug));

    let list = read(&debug).unwrap();
    assert_eq!((list.notify, list.state), (0xbeef, ListState::Consistent));
    let found: Vec<_> =
        list.entries.iter().map(|entry| (entry.load_bias, entry.name.as_slice(), entry.dynamic)).collect();
    assert_eq!(found, [(0x1000, &b"/lib/one.so"[..], 0x11), (0x2000, &b""[..], 0x22)]);

    second[3] = address(&first);
    assert_eq!(read(&debug).unwrap().entries.len(), 2, "a loop");
    second[3] = 8;
    assert_eq!(read(&debug).unwrap().entries.len(), 2, "a link into nothing");
    first[1] = 1;
    assert_eq!(read(&debug).unwrap().entries[0].name, b"", "a name nowhere");
    debug[3] = 1;
    assert_eq!(read(&debug).unwrap().state, ListState::Changing);
    // A second namespace that is the first again, then one that is nowhere.
    debug[0] = 2;
    debug[5] = address(&debug);
    assert_eq!(read(&debug).unwrap().entries.len(), 2);
    debug[5] = 24;
    assert_eq!(read(&debug).unwrap().entries.len(), 2);
    debug[1] = 0;
    assert!(matches!(read(&debug), Err(TargetError::NotYet { .. })));
    assert!(matches!(LinkMap::read(&memory, 0), Err(TargetError::NotYet { .. })));
    assert!(matches!(LinkMap::read(&memory, 4096), Err(TargetError::Memory { .. })));
}

#[test]
fn a_library_that_only_frees_or_only_resembles_is_no_allocator() {
    let directory = directory("lone");
    let source =
        "void je_free(void *p) { __asm__ volatile(\"\" :: \"r\"(p)); } void *my_malloc(unsigned long n) { return 0; }";
    let Some(library) = compile(&directory, "lone.so", source, &["-shared", "-fPIC"]) else { return };
    let Some(binary) = compile(&directory, "program", &program("if (!dlopen(argv[1], 2)) return 1;"), &[]) else {
        return;
    };
    let mut running = Running::start(Command::new(&binary).arg(&library));
    running.go_on();
    let found = discover(running.pid(), &mut ModuleCache::default()).unwrap();
    assert!(found.modules.iter().any(|module| module.path.ends_with("lone.so")));
    assert_eq!(names(&found), ["libc.so.6"]);
}

#[test]
fn operators_of_a_static_cxx_program_are_left_out() {
    let directory = directory("operators");
    let source = directory.join("program.cc");
    fs::write(&source, "#include <cstdio>\nint *volatile keep; int main() { keep = new int; delete keep; puts(\"ready\"); fflush(stdout); getchar(); }")
        .unwrap();
    let binary: PathBuf = directory.join("program");
    let _ = fs::remove_file(&binary);
    let arguments = ["-O1", "-static", "-o", binary.to_str().unwrap(), source.to_str().unwrap()];
    if tool("c++", &arguments).is_none() {
        return;
    }
    let running = Running::start(&mut Command::new(&binary));
    let found = discover(running.pid(), &mut ModuleCache::default()).unwrap();
    assert_eq!(names(&found), ["program"]);
    assert!(nm(&binary, false, "_Znwm").is_some(), "libstdc++ is in it");
    let operators: Vec<_> =
        function_names(&found.domains[0]).into_iter().filter(|name| name.starts_with("_Z")).collect();
    assert_eq!(operators, Vec::<&str>::new());
    let left_out: BTreeSet<_> = found.domains[0].left_out.iter().map(|left| left.name.as_str()).collect();
    assert!(left_out.contains("_Znwm") && left_out.contains("_ZdlPv"), "{left_out:?}");
}
