//! Leak cases of compilers in Rust: cycles, raw pointers that nobody takes back, what is forgotten on purpose and what
//! by mistake. Each case's truth stands in truth.toml.
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, c_char};
use std::hint::black_box;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, OnceLock, mpsc};

// ---- Shared ownership ----

struct Scope {
    captured: RefCell<Option<Rc<Scope>>>,
    symbols: [u64; 6],
}

#[inline(never)]
fn open_scope() -> Rc<Scope> {
    black_box(Rc::new(Scope { captured: RefCell::new(None), symbols: [7; 6] }))
}

#[inline(never)]
fn close_scope(scope: Rc<Scope>) {
    black_box(scope.symbols);
    drop(scope);
    black_box(());
}

/// Every thirtieth of 150 scopes is captured by a closure that it owns.
#[inline(never)]
fn rc_cycle() {
    for i in 0..black_box(150) {
        let scope = open_scope();
        if i % 30 == 29 {
            *scope.captured.borrow_mut() = Some(Rc::clone(&scope));
        }
        close_scope(scope);
    }
}

struct Task {
    executor: Mutex<Option<Arc<Executor>>>,
}

struct Executor {
    queue: Mutex<Vec<Arc<Task>>>,
}

#[inline(never)]
fn new_executor() -> Arc<Executor> {
    black_box(Arc::new(Executor { queue: Mutex::new(Vec::with_capacity(4)) }))
}

#[inline(never)]
fn spawn(executor: &Arc<Executor>) {
    let task = Arc::new(Task { executor: Mutex::new(Some(Arc::clone(executor))) });
    executor.queue.lock().unwrap().push(black_box(task));
}

#[inline(never)]
fn detach_tasks(executor: &Executor) {
    for task in executor.queue.lock().unwrap().iter() {
        task.executor.lock().unwrap().take();
    }
}

#[inline(never)]
fn shut_down(executor: Arc<Executor>) {
    drop(executor);
    black_box(());
}

/// 80 executors with three tasks each; numbers 33 and 73 are shut down while their tasks still hold them.
#[inline(never)]
fn executor_held_by_its_tasks() {
    for i in 0..black_box(80) {
        let executor = new_executor();
        for _ in 0..black_box(3) {
            spawn(&executor);
        }
        if i % 40 != 33 {
            detach_tasks(&executor);
        }
        shut_down(executor);
    }
}

// ---- Leaked on purpose ----

#[inline(never)]
fn leak_options() -> &'static [u64; 30] {
    Box::leak(black_box(Box::new([1; 30])))
}

#[inline(never)]
fn leak_target_name() -> &'static str {
    let name = String::from(black_box("x86_64-unknown-linux-gnu"));
    black_box(name.leak())
}

#[inline(never)]
fn box_leak() {
    black_box(leak_options());
    black_box(leak_target_name());
}

#[inline(never)]
fn new_context() -> Vec<Vec<u32>> {
    black_box(Vec::with_capacity(20))
}

#[inline(never)]
fn add_body(context: &mut Vec<Vec<u32>>, length: usize) {
    context.push(black_box(vec![3; length]));
}

/// The context with 20 bodies of 10 to 29 elements is forgotten as a whole, to end sooner.
#[inline(never)]
fn forget_context() {
    let mut context = new_context();
    for i in 0..black_box(20) {
        add_body(&mut context, 10 + i);
    }
    black_box(&context);
    for _ in 0..black_box(30) {
        scratch();
    }
    std::mem::forget(context);
}

#[inline(never)]
fn scratch() {
    black_box(vec![0_u8; black_box(777)]);
    black_box(());
}

#[inline(never)]
fn collect_spans() -> Vec<u32> {
    black_box(vec![9; black_box(64)])
}

#[inline(never)]
fn compile_and_forget() {
    scratch();
    let spans = collect_spans();
    scratch();
    std::mem::forget(spans);
}

/// Twelve compilations, each forgets its spans.
#[inline(never)]
fn forget_in_loop() {
    for _ in 0..black_box(12) {
        compile_and_forget();
    }
}

#[inline(never)]
fn leak_slice(length: usize) -> &'static [u16] {
    let slice = vec![5; black_box(length)].into_boxed_slice();
    black_box(Box::leak(slice))
}

#[inline(never)]
fn load_crate() {
    scratch();
    leak_slice(100);
    leak_slice(100);
}

/// Seven crates, two slices each.
#[inline(never)]
fn leaked_slices_per_crate() {
    for _ in 0..black_box(7) {
        load_crate();
    }
}

// ---- Owners that do not drop a part ----

struct Body {
    blocks: Vec<u64>,
    locals: ManuallyDrop<Vec<u16>>,
}

#[inline(never)]
fn build_blocks(count: usize) -> Vec<u64> {
    black_box(vec![1; count])
}

#[inline(never)]
fn build_locals(count: usize) -> Vec<u16> {
    black_box(vec![2; count])
}

#[inline(never)]
fn drop_bodies(bodies: Vec<Body>) {
    drop(bodies);
    black_box(());
}

/// 18 bodies with 5 to 22 locals: 243 locals of two bytes.
#[inline(never)]
fn manually_drop_field() {
    let mut bodies = Vec::with_capacity(18);
    for i in 0..black_box(18) {
        bodies.push(Body { blocks: build_blocks(3 + i), locals: ManuallyDrop::new(build_locals(5 + i)) });
    }
    black_box((&bodies[0].blocks, &bodies[0].locals));
    drop_bodies(bodies);
}

// ---- Raw pointers ----

#[inline(never)]
fn name_for_c() -> *mut c_char {
    let name = CString::new(black_box("heaptape_symbol_name")).expect("there is no zero in it");
    black_box(name.into_raw())
}

#[inline(never)]
fn retake_name(name: *mut c_char) {
    // SAFETY: made by `name_for_c` and given up by the caller.
    drop(unsafe { CString::from_raw(name) });
    black_box(());
}

/// Numbers 20 and 65 of 90 are never taken back.
#[inline(never)]
fn c_string_never_retaken() {
    for i in 0..black_box(90) {
        let name = name_for_c();
        if i % 45 != 20 {
            retake_name(name);
        }
    }
}

struct Unit {
    words: [u64; 14],
}

#[inline(never)]
fn unit_into_raw() -> *mut Unit {
    black_box(Box::into_raw(Box::new(Unit { words: [4; 14] })))
}

#[inline(never)]
fn unit_from_raw(unit: *mut Unit) {
    // SAFETY: made by `unit_into_raw` and given up by the caller.
    let unit = unsafe { Box::from_raw(unit) };
    black_box(unit.words);
    drop(unit);
    black_box(());
}

#[inline(never)]
fn check_unit(number: usize) -> Result<(), usize> {
    if black_box(number) % 4 == 3 { Err(number) } else { Ok(()) }
}

#[inline(never)]
fn lower_unit(number: usize) -> Result<(), usize> {
    let unit = unit_into_raw();
    check_unit(number)?;
    unit_from_raw(unit);
    Ok(())
}

/// Five of 20 units are left early.
#[inline(never)]
fn question_mark_loses_raw() {
    let errors = (0..black_box(20)).filter(|&i| lower_unit(i).is_err()).count();
    assert_eq!(errors, 5);
}

#[inline(never)]
fn assert_unit(number: usize) {
    if black_box(number) % 4 == 1 {
        std::panic::panic_any(number);
    }
}

#[inline(never)]
fn lower_unit_or_panic(number: usize) {
    let unit = unit_into_raw();
    assert_unit(number);
    unit_from_raw(unit);
}

#[inline(never)]
fn silence_panics() {
    std::panic::set_hook(Box::new(|_| ()));
}

/// Six of 24 units panic.
#[inline(never)]
fn panic_loses_raw() {
    silence_panics();
    let panics = (0..black_box(24)).filter(|&i| catch_unwind(|| lower_unit_or_panic(i)).is_err()).count();
    assert_eq!(panics, 6);
}

#[inline(never)]
fn lower_owned_or_panic(number: usize) {
    let unit = Box::new(Unit { words: [4; 14] });
    let text = String::from(black_box("a string that is dropped by unwinding"));
    assert_unit(number);
    black_box((unit.words, &text));
}

/// The same with owners: unwinding drops what there is.
#[inline(never)]
fn panic_drops_owners() {
    silence_panics();
    let panics =
        (0..black_box(24)).filter(|&i| catch_unwind(AssertUnwindSafe(|| lower_owned_or_panic(i))).is_err()).count();
    assert_eq!(panics, 6);
}

#[inline(never)]
fn collect_operands() -> Vec<u32> {
    let mut operands = Vec::new();
    for i in 0..black_box(20) {
        operands.push(black_box(i));
    }
    black_box(operands)
}

#[inline(never)]
fn drop_operands(operands: Vec<u32>) {
    drop(operands);
    black_box(());
}

/// Numbers 30, 60 and 90 of 100 are given away as raw parts that nobody takes.
#[inline(never)]
fn grown_vector_given_away() {
    for i in 0..black_box(100) {
        let operands = collect_operands();
        if i % 30 == 0 && i > 0 {
            black_box(ManuallyDrop::new(operands).as_mut_ptr());
        } else {
            drop_operands(operands);
        }
    }
}

#[inline(never)]
fn job_into_raw() -> *mut [u64; 25] {
    black_box(Box::into_raw(Box::new([6; 25])))
}

#[inline(never)]
fn run_job() {
    scratch();
    job_into_raw();
    scratch();
}

/// One worker runs ten jobs and gives each up as a raw pointer.
#[inline(never)]
fn worker_gives_up_each_job() {
    std::thread::spawn(|| {
        for _ in 0..black_box(10) {
            run_job();
        }
    })
    .join()
    .expect("the worker does not panic");
}

// ---- Statics ----

static TABLE: OnceLock<Vec<u32>> = OnceLock::new();

#[inline(never)]
fn build_table() -> Vec<u32> {
    black_box(vec![8; 300])
}

#[inline(never)]
fn once_lock_table() {
    for i in 0..black_box(40) {
        scratch();
        black_box(TABLE.get_or_init(build_table)[i]);
    }
}

static NAMES: OnceLock<Mutex<Vec<String>>> = OnceLock::new();

#[inline(never)]
fn new_interner() -> Mutex<Vec<String>> {
    black_box(Mutex::new(Vec::with_capacity(36)))
}

#[inline(never)]
fn intern(length: usize) {
    let mut names = NAMES.get_or_init(new_interner).lock().unwrap();
    if !names.iter().any(|name| name.len() == length) {
        names.push(black_box("n").repeat(length));
    }
}

/// 36 names of 5 to 40 bytes, each seen four times, in a static that is never dropped.
#[inline(never)]
fn interner_kept() {
    for i in 0..black_box(144) {
        scratch();
        intern(5 + i % 36);
    }
}

thread_local! {
    static PER_THREAD: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

#[inline(never)]
fn fill_thread_local() {
    PER_THREAD.with_borrow_mut(|values| values.extend(0..black_box(50)));
}

/// Dropped as the threads end, the main thread's too.
#[inline(never)]
fn thread_locals_dropped() {
    fill_thread_local();
    for _ in 0..black_box(5) {
        std::thread::spawn(fill_thread_local).join().expect("the thread does not panic");
    }
}

// ---- Nothing to find ----

/// The channel drops the messages that nobody received.
#[inline(never)]
fn channel_drops_messages() {
    let (sender, receiver) = mpsc::channel::<Box<Unit>>();
    let worker = std::thread::spawn(move || {
        for message in receiver.iter().take(70) {
            black_box(message.words);
        }
        receiver
    });
    for _ in 0..black_box(100) {
        sender.send(Box::new(Unit { words: [1; 14] })).expect("the receiver waits for more than was sent");
    }
    drop(worker.join().expect("the worker does not panic"));
}

struct Tree {
    parent: RefCell<Weak<Tree>>,
    children: RefCell<Vec<Rc<Tree>>>,
    name: String,
}

#[inline(never)]
fn grow(depth: usize) -> Rc<Tree> {
    let tree = Rc::new(Tree {
        parent: RefCell::new(Weak::new()),
        children: RefCell::new(Vec::new()),
        name: "tree".repeat(depth + 1),
    });
    for _ in 0..if depth > 0 { 3 } else { 0 } {
        let child = grow(depth - 1);
        *child.parent.borrow_mut() = Rc::downgrade(&tree);
        tree.children.borrow_mut().push(child);
    }
    tree
}

/// Three phases: a tree, an index over it, code for it. Each is dropped by the next or at the end.
#[inline(never)]
fn phases_drop_everything() {
    for _ in 0..black_box(4) {
        let tree = grow(3);
        let mut index: HashMap<String, usize> = HashMap::new();
        let mut code: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        for (i, child) in tree.children.borrow().iter().enumerate() {
            *index.entry(child.name.clone()).or_default() += 1;
            code.insert(i, child.parent.borrow().upgrade().map_or_else(Vec::new, |parent| parent.name.clone().into()));
        }
        drop(tree);
        black_box((&index, &code));
    }
}

fn main() {
    let cases: &[(&str, fn())] = &[
        ("rc_cycle", rc_cycle),
        ("executor_held_by_its_tasks", executor_held_by_its_tasks),
        ("box_leak", box_leak),
        ("forget_context", forget_context),
        ("forget_in_loop", forget_in_loop),
        ("leaked_slices_per_crate", leaked_slices_per_crate),
        ("manually_drop_field", manually_drop_field),
        ("c_string_never_retaken", c_string_never_retaken),
        ("question_mark_loses_raw", question_mark_loses_raw),
        ("panic_loses_raw", panic_loses_raw),
        ("panic_drops_owners", panic_drops_owners),
        ("grown_vector_given_away", grown_vector_given_away),
        ("worker_gives_up_each_job", worker_gives_up_each_job),
        ("once_lock_table", once_lock_table),
        ("interner_kept", interner_kept),
        ("thread_locals_dropped", thread_locals_dropped),
        ("channel_drops_messages", channel_drops_messages),
        ("phases_drop_everything", phases_drop_everything),
    ];
    let Some(wanted) = std::env::args().nth(1) else {
        cases.iter().for_each(|(name, _)| println!("{name}"));
        std::process::exit(2);
    };
    match cases.iter().find(|(name, _)| *name == wanted) {
        Some((_, run)) => run(),
        None => std::process::exit(2),
    }
}
