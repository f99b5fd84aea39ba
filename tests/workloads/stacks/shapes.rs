//! Closures, generics, threads and panics: stacks known from how they are written, blocks named by their sizes.
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};

#[inline(never)]
fn take(bytes: usize) {
    black_box(Vec::<u8>::with_capacity(black_box(bytes)));
}

#[inline(never)]
fn plain() {
    take(300_001);
    black_box(());
}

#[inline(never)]
fn generic<T: Fn()>(call: T) {
    call();
    black_box(());
}

struct Guard;

impl Drop for Guard {
    #[inline(never)]
    fn drop(&mut self) {
        take(300_003);
        black_box(());
    }
}

#[inline(never)]
fn panics() {
    let _guard = Guard;
    if black_box(true) {
        panic!("on purpose");
    }
}

#[inline(never)]
fn in_thread() {
    take(300_004);
    black_box(());
}

fn main() {
    plain();
    generic(|| {
        take(300_002);
        black_box(());
    });
    std::panic::set_hook(Box::new(|_| {}));
    let _ = catch_unwind(AssertUnwindSafe(panics));
    std::thread::spawn(in_thread).join().unwrap();
}
