//! Tables that grow, in Rust. What each function copies follows from how it is written; `tests/tests/patterns.rs` has the sums.

use std::hint::black_box;

/// One more element: a boxed slice is rebuilt, the old one dropped.
#[inline(never)]
fn append_boxed(table: &mut Box<[u64]>, value: u64) {
    let mut longer = Vec::with_capacity(table.len() + 1);
    longer.extend_from_slice(table);
    longer.push(value);
    *table = longer.into_boxed_slice();
}

/// The same, of elements that are boxes themselves.
#[inline(never)]
fn append_moved(table: Box<[Box<u32>]>, value: u32) -> Box<[Box<u32>]> {
    let mut longer = Vec::with_capacity(table.len() + 1);
    longer.extend(table.iter().cloned());
    longer.push(Box::new(value));
    longer.into_boxed_slice()
}

/// Exactly one more each time: the library reallocates.
#[inline(never)]
fn reserve_exact_one(table: &mut Vec<[u64; 3]>) {
    table.reserve_exact(1);
    table.push([1, 2, 3]);
}

/// Amortised: nothing is to be said.
#[inline(never)]
fn push_plain(table: &mut Vec<[u64; 3]>) {
    table.push([1, 2, 3]);
}

fn main() {
    let mut boxed: Box<[u64]> = Box::new([]);
    let mut moved: Box<[Box<u32>]> = Box::new([]);
    let (mut exact, mut plain) = (Vec::new(), Vec::new());
    for value in 0..180 {
        append_boxed(&mut boxed, value);
    }
    for value in 0..70 {
        moved = append_moved(moved, value);
    }
    for _ in 0..90 {
        reserve_exact_one(&mut exact);
    }
    for _ in 0..20_000 {
        push_plain(&mut plain);
    }
    black_box((boxed, moved, exact, plain));
}
