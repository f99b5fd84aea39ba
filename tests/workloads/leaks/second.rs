//! The second set of leak cases in Rust: query results, raw lists, builders, sessions on threads, cycles that an error
//! leaves unbroken, caches. Each case's truth stands in second.toml.
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::hint::black_box;
use std::mem::ManuallyDrop;
use std::ptr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

// ---- Query results of old revisions ----

static RESULTS: Mutex<Vec<Box<[u32]>>> = Mutex::new(Vec::new());

#[inline(never)]
fn reserve_results() {
    *RESULTS.lock().unwrap() = Vec::with_capacity(black_box(40));
}

#[inline(never)]
fn compute_query(query: usize) -> Box<[u32]> {
    black_box(vec![7; 4 + query].into_boxed_slice())
}

#[inline(never)]
fn run_revision() {
    for query in 0..black_box(4) {
        let result = compute_query(query);
        RESULTS.lock().unwrap().push(result);
    }
}

/// Nine revisions ask the same four queries; nobody throws the results of the revision before away.
#[inline(never)]
fn results_of_old_revisions() {
    reserve_results();
    for _ in 0..black_box(9) {
        run_revision();
    }
}

// ---- A raw list that ends too early ----

struct Use {
    next: *mut Use,
    words: [u64; 3],
    tombstone: bool,
}

#[inline(never)]
fn new_use(next: *mut Use, tombstone: bool) -> *mut Use {
    black_box(Box::into_raw(Box::new(Use { next, words: [3; 3], tombstone })))
}

/// Takes a tombstone for the end of the list.
#[inline(never)]
fn free_uses(mut at: *mut Use) {
    while !at.is_null() {
        // SAFETY: the list owns its uses, each was a box.
        let this = unsafe { Box::from_raw(at) };
        black_box(this.words);
        at = if this.tombstone { ptr::null_mut() } else { this.next };
    }
    black_box(());
}

/// Eight lists of 20 uses; in the sixth, the fourteenth use is dead and six follow it.
#[inline(never)]
fn tombstone_ends_list() {
    for list in 0..black_box(8) {
        let mut first = ptr::null_mut();
        for i in 0..black_box(20) {
            first = new_use(first, list == 5 && i == 6);
        }
        free_uses(first);
    }
}

// ---- A builder that is finished ----

struct Builder {
    code: ManuallyDrop<Vec<u8>>,
    relocations: ManuallyDrop<Vec<u64>>,
}

#[inline(never)]
fn reserve_code() -> Vec<u8> {
    black_box(Vec::with_capacity(black_box(200)))
}

#[inline(never)]
fn reserve_relocations(number: usize) -> Vec<u64> {
    black_box(Vec::with_capacity(black_box(8 + number % 3)))
}

/// Takes the code and leaves the relocations where they are.
#[inline(never)]
fn finish(builder: Builder) -> Vec<u8> {
    black_box(&builder.relocations);
    black_box(ManuallyDrop::into_inner(builder.code))
}

#[inline(never)]
fn abandon(builder: Builder) {
    drop(ManuallyDrop::into_inner(builder.code));
    drop(ManuallyDrop::into_inner(builder.relocations));
    black_box(());
}

/// Four of 20 builders are abandoned.
#[inline(never)]
fn finished_builders_keep_relocations() {
    for i in 0..black_box(20) {
        let builder =
            Builder { code: ManuallyDrop::new(reserve_code()), relocations: ManuallyDrop::new(reserve_relocations(i)) };
        if i % 5 == 0 {
            abandon(builder);
        } else {
            drop(finish(builder));
        }
    }
}

// ---- Names for ever ----

#[inline(never)]
fn intern_for_ever(length: usize) -> &'static str {
    black_box("n".repeat(length).leak())
}

#[inline(never)]
fn run_session() {
    let mut names = Vec::new();
    for i in 0..black_box(5) {
        names.push(intern_for_ever(10 + i));
    }
    black_box(names);
}

/// Each of six sessions, one thread after the other, leaks its names as if it were the only one.
#[inline(never)]
fn sessions_leak_names() {
    for _ in 0..black_box(6) {
        std::thread::spawn(run_session).join().expect("the session does not panic");
    }
}

// ---- A registry ----

static LINTS: OnceLock<HashMap<u64, Box<[u64; 5]>>> = OnceLock::new();

#[inline(never)]
fn new_lint(number: u64) -> Box<[u64; 5]> {
    black_box(Box::new([number; 5]))
}

#[inline(never)]
fn build_registry() -> HashMap<u64, Box<[u64; 5]>> {
    let mut lints = HashMap::with_capacity(black_box(25));
    for number in 0..black_box(25) {
        lints.insert(number, new_lint(number));
    }
    black_box(lints)
}

#[inline(never)]
fn check_body(number: u64) -> Vec<u64> {
    let lints = LINTS.get_or_init(build_registry);
    (0..number % 7 + 1).filter_map(|lint| lints.get(&lint)).map(|lint| lint[0]).collect()
}

/// The lints are registered when the first of 40 bodies is checked.
#[inline(never)]
fn lints_registered_once() {
    for number in 0..black_box(40) {
        drop(black_box(check_body(number)));
    }
}

// ---- Errors that owners survive ----

#[inline(never)]
fn parse_header(number: usize) -> Result<Vec<u8>, Box<dyn Error>> {
    let header = vec![1; 30 + number];
    if number % 6 == 4 { Err(format!("header {number} is damaged").into()) } else { Ok(black_box(header)) }
}

#[inline(never)]
fn read_crate(number: usize, shared: &Arc<Vec<u64>>) -> Result<usize, Box<dyn Error>> {
    let owner = (Box::new([number; 9]), Arc::clone(shared));
    let header = parse_header(number)?;
    let digits: usize = if number % 6 == 1 { "x1".parse()? } else { 1 };
    Ok(owner.0[0] + header.len() + digits)
}

/// Two threads read 36 crates each; a third of them are damaged in one way or another.
#[inline(never)]
fn errors_drop_everything() {
    let shared = Arc::new(vec![5; 50]);
    for _ in 0..black_box(2) {
        let shared = Arc::clone(&shared);
        let read = move || (0..black_box(36)).filter(|&number| read_crate(number, &shared).is_err()).count();
        assert_eq!(std::thread::spawn(read).join().expect("errors are no panics"), 12);
    }
}

// ---- A bounded cache ----

static EXPANSIONS: Mutex<VecDeque<Box<[u32]>>> = Mutex::new(VecDeque::new());

#[inline(never)]
fn reserve_expansions() {
    *EXPANSIONS.lock().unwrap() = VecDeque::with_capacity(black_box(12));
}

#[inline(never)]
fn evict_oldest() {
    drop(EXPANSIONS.lock().unwrap().pop_front());
    black_box(());
}

#[inline(never)]
fn expand(number: usize) -> Box<[u32]> {
    black_box(vec![1; 5 + number % 6].into_boxed_slice())
}

#[inline(never)]
fn expand_cached(number: usize) {
    if EXPANSIONS.lock().unwrap().len() == 12 {
        evict_oldest();
    }
    let expansion = expand(number);
    EXPANSIONS.lock().unwrap().push_back(expansion);
}

/// 90 expansions, of which the last 12 stay.
#[inline(never)]
fn expansions_bounded() {
    reserve_expansions();
    for number in 0..black_box(90) {
        expand_cached(number);
    }
}

// ---- Diagnostics that must not be dropped ----

struct Diagnostic {
    message: String,
    labels: Vec<u32>,
}

#[inline(never)]
fn write_message(number: usize) -> String {
    black_box("m".repeat(20 + number % 5))
}

#[inline(never)]
fn reserve_labels() -> Vec<u32> {
    black_box(Vec::with_capacity(black_box(4)))
}

#[inline(never)]
fn emit(diagnostic: Diagnostic) {
    black_box((&diagnostic.message, &diagnostic.labels));
    drop(diagnostic);
    black_box(());
}

/// Dropping one that was not emitted would panic.
#[inline(never)]
fn cancel(diagnostic: Diagnostic) {
    black_box(&diagnostic);
    std::mem::forget(diagnostic);
}

/// Numbers 33 and 73 of 100 are cancelled.
#[inline(never)]
fn cancelled_diagnostics_forgotten() {
    for i in 0..black_box(100) {
        let diagnostic = Diagnostic { message: write_message(i), labels: reserve_labels() };
        if i % 40 == 33 {
            cancel(diagnostic);
        } else {
            emit(diagnostic);
        }
    }
}

// ---- Waiting for changes ----

struct Crate {
    name: String,
    items: Vec<u64>,
}

#[inline(never)]
fn read_name(number: usize) -> String {
    black_box("c".repeat(6 + number))
}

#[inline(never)]
fn read_items() -> Vec<u64> {
    black_box(Vec::with_capacity(black_box(10)))
}

#[inline(never)]
fn load_crates() -> Vec<Crate> {
    let mut crates = Vec::with_capacity(black_box(8));
    for number in 0..black_box(8) {
        crates.push(Crate { name: read_name(number), items: read_items() });
    }
    black_box(crates)
}

#[inline(never)]
fn wait_for_changes() {
    let argument = std::env::args().nth(2).unwrap_or_default();
    if argument == "exit" {
        drop(argument);
        std::process::exit(0);
    }
    std::thread::sleep(Duration::from_secs(argument.parse().unwrap_or(0)));
}

/// Eight crates are loaded while the compiler watches the sources.
#[inline(never)]
fn crates_loaded_while_watching() {
    let crates = load_crates();
    black_box((&crates[0].name, &crates[0].items));
    wait_for_changes();
    drop(black_box(crates));
}

// ---- A cycle that success breaks ----

struct Block {
    successors: RefCell<Vec<Rc<Block>>>,
    index: usize,
}

#[inline(never)]
fn new_block(index: usize) -> Rc<Block> {
    black_box(Rc::new(Block { successors: RefCell::new(Vec::new()), index }))
}

#[inline(never)]
fn add_edge(from: &Block, to: &Rc<Block>) {
    from.successors.borrow_mut().push(Rc::clone(to));
}

#[inline(never)]
fn lower_body(number: usize) -> Result<usize, usize> {
    if black_box(number) % 4 == 1 { Err(number) } else { Ok(number) }
}

#[inline(never)]
fn seal(latch: &Block) {
    latch.successors.borrow_mut().clear();
}

#[inline(never)]
fn drop_blocks(header: Rc<Block>, latch: Rc<Block>) {
    black_box(header.index + latch.index);
    drop(header);
    drop(latch);
    black_box(());
}

#[inline(never)]
fn lower_loop(number: usize) -> Result<(), usize> {
    let header = new_block(0);
    let latch = new_block(1);
    add_edge(&header, &latch);
    add_edge(&latch, &header);
    lower_body(number)?;
    seal(&latch);
    drop_blocks(header, latch);
    Ok(())
}

/// Six of 24 loops have a body that cannot be lowered; their back edge is never taken out.
#[inline(never)]
fn unsealed_loops_own_themselves() {
    let failed = (0..black_box(24)).filter(|&number| lower_loop(number).is_err()).count();
    assert_eq!(failed, 6);
}

fn main() {
    let cases: &[(&str, fn())] = &[
        ("results_of_old_revisions", results_of_old_revisions),
        ("tombstone_ends_list", tombstone_ends_list),
        ("finished_builders_keep_relocations", finished_builders_keep_relocations),
        ("sessions_leak_names", sessions_leak_names),
        ("lints_registered_once", lints_registered_once),
        ("errors_drop_everything", errors_drop_everything),
        ("expansions_bounded", expansions_bounded),
        ("cancelled_diagnostics_forgotten", cancelled_diagnostics_forgotten),
        ("crates_loaded_while_watching", crates_loaded_while_watching),
        ("unsealed_loops_own_themselves", unsealed_loops_own_themselves),
    ];
    let Some(wanted) = std::env::args().nth(1) else {
        cases.iter().for_each(|(name, _)| println!("{name}"));
        std::process::exit(2);
    };
    let found = cases.iter().find(|(name, _)| *name == wanted);
    // A case may end the process.
    drop(wanted);
    match found {
        Some((_, run)) => run(),
        None => std::process::exit(2),
    }
}
