//! Gives the kernel side what it needs to walk the stacks of a process: unwind tables of its modules and the list of its
//! executable mappings. Responsible for building each module's table once, in parallel, and for letting go of lists
//! that nobody uses; what a table holds is `unwind`'s business.

use std::{
    collections::HashMap,
    fs::File,
    os::unix::fs::FileExt as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use probe_abi::unwind::{Mapping, NO_TABLE};

use crate::{
    CollectError,
    kernel::Kernel,
    notice::{CodeRange, ModuleFile},
    unwind::{TableCache, UnwindError, UnwindTable},
};

/// Threads that build tables. The target waits for them.
const BUILDERS: usize = 8;

/// A table, or why a file has none.
type Made = Result<Arc<UnwindTable>, UnwindError>;

/// The code of one process, as the kernel has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Code {
    /// Its number; 0 for none.
    pub(crate) space: u32,
    mappings: Vec<Mapping>,
}

pub(crate) struct Spaces {
    cache: TableCache,
    /// Number of a module's table, by the address of its description, which stays alive.
    tables: HashMap<usize, u32>,
    modules: Vec<Arc<ModuleFile>>,
    /// Processes that use a list.
    users: HashMap<u32, usize>,
    build_ns: u64,
    warnings: Vec<String>,
}

impl Spaces {
    pub(crate) fn new() -> Self {
        Self {
            cache: TableCache::new(),
            tables: HashMap::new(),
            modules: Vec::new(),
            users: HashMap::new(),
            build_ns: 0,
            warnings: Vec::new(),
        }
    }

    /// Brings what the kernel knows of a process's code up to date. Returns whether it changed.
    pub(crate) fn update(&mut self, kernel: &mut Kernel, pid: u32, ranges: &[CodeRange], code: &mut Code) -> bool {
        self.load_tables(kernel, pid, ranges);
        let mappings: Vec<Mapping> = ranges
            .iter()
            .map(|range| Mapping {
                start: range.start,
                end: range.end,
                bias: range.bias,
                table: self.tables.get(&key(&range.module)).copied().unwrap_or(NO_TABLE),
                reserved: 0,
            })
            .collect();
        if code.space != 0 && mappings == code.mappings {
            return false;
        }
        let space = match kernel.load_space(&mappings) {
            Ok(space) => space,
            Err(error) => {
                self.warnings.push(format!("process {pid}: its stacks cannot be walked: {error}"));
                return false;
            }
        };
        let old = std::mem::replace(code, Code { space, mappings });
        self.users.insert(space, 1);
        self.release(kernel, &old);
        true
    }

    /// Another process has the same code: a forked child.
    pub(crate) fn share(&mut self, code: &Code) -> Code {
        *self.users.entry(code.space).or_default() += 1;
        code.clone()
    }

    /// A process does not use its list any more.
    pub(crate) fn release(&mut self, kernel: &mut Kernel, code: &Code) {
        if let Some(count) = self.users.get_mut(&code.space) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(&code.space);
                kernel.drop_space(code.space);
            }
        }
    }

    /// Time spent on tables so far, ns; targets waited for most of it.
    pub(crate) fn build_ns(&self) -> u64 {
        self.build_ns
    }

    /// What went wrong since the last time.
    pub(crate) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    fn load_tables(&mut self, kernel: &mut Kernel, pid: u32, ranges: &[CodeRange]) {
        let mut wanted: Vec<&CodeRange> = Vec::new();
        for range in ranges {
            let known = self.tables.contains_key(&key(&range.module));
            if !known && !wanted.iter().any(|other| Arc::ptr_eq(&other.module, &range.module)) {
                wanted.push(range);
            }
        }
        if wanted.is_empty() {
            return;
        }
        let began = Instant::now();
        // The largest first, so that the last one to finish is small.
        wanted.sort_by_key(|range| std::cmp::Reverse(range.module.size_bytes));
        let built = self.build(pid, &wanted);
        for (range, table) in wanted.into_iter().zip(built) {
            let loaded = table.map_err(|error| error.to_string()).and_then(|table| {
                let _ = range.module.functions.set(table.functions.clone());
                kernel.load_table(&table).map_err(|error: CollectError| error.to_string())
            });
            let number = loaded.unwrap_or_else(|error| {
                self.warnings.push(format!("{}: stacks end at its code: {error}", range.module.path));
                NO_TABLE
            });
            self.tables.insert(key(&range.module), number);
            self.modules.push(Arc::clone(&range.module));
        }
        self.build_ns += began.elapsed().as_nanos() as u64;
    }

    /// The tables of modules, in the order given.
    fn build(&self, pid: u32, wanted: &[&CodeRange]) -> Vec<Made> {
        let results: Vec<Mutex<Option<Made>>> = wanted.iter().map(|_| Mutex::new(None)).collect();
        let next = AtomicUsize::new(0);
        let builders = thread::available_parallelism().map_or(1, usize::from).min(BUILDERS).min(wanted.len());
        thread::scope(|scope| {
            for _ in 0..builders {
                scope.spawn(|| {
                    while let Some((range, result)) = {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        wanted.get(index).zip(results.get(index))
                    } {
                        *result.lock().expect("nobody panics with it") = Some(self.build_one(pid, range));
                    }
                });
            }
        });
        results
            .into_iter()
            .map(|result| result.into_inner().expect("nobody panics with it").expect("every one was built"))
            .collect()
    }

    fn build_one(&self, pid: u32, range: &CodeRange) -> Made {
        match &range.module.file {
            Some(file) => self.cache.get(file, &range.module.build_id).map(|(table, _)| table),
            None => {
                // The vdso lies in memory alone.
                let mut image = vec![0; (range.end - range.start) as usize];
                let memory = File::open(format!("/proc/{pid}/mem"));
                let _ = memory.and_then(|memory| memory.read_exact_at(&mut image, range.start));
                UnwindTable::build(&image).map(Arc::new)
            }
        }
    }
}

fn key(module: &Arc<ModuleFile>) -> usize {
    Arc::as_ptr(module) as usize
}
