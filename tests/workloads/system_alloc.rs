//! A Rust program over the system allocator: boxes, growing vectors, zeroed and over-aligned blocks, a panic that is
//! caught, threads. Its own blocks are told by their sizes (40,009 bytes and above); the standard library's are smaller.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc};
use std::fmt::Write as _;

#[derive(Default)]
struct Truth {
    alloc_count: u64,
    free_count: u64,
    realloc_count: u64,
    alloc_bytes: u64,
    live_count: u64,
    live_bytes: u64,
}

fn one_thread(first: usize) -> Truth {
    let mut truth = Truth::default();
    for round in 0..100 {
        let bytes = 40_009 + first + round;
        let layout = Layout::from_size_align(bytes, 1).unwrap();
        // SAFETY: the layout has a size, and each block is released with the layout it has at that time.
        unsafe {
            let block = alloc(layout);
            let zeroed = alloc_zeroed(layout);
            let moved = realloc(block, layout, bytes + 60_000);
            let aligned = Layout::from_size_align(bytes, 4096).unwrap();
            let wide = alloc(aligned);
            assert!(!moved.is_null() && !zeroed.is_null() && !wide.is_null());
            dealloc(wide, aligned);
            dealloc(zeroed, layout);
            let wanted = (bytes as u64 * 3, bytes as u64 + 60_000);
            truth.alloc_count += 3;
            truth.alloc_bytes += wanted.0 + wanted.1;
            truth.realloc_count += 1;
            truth.free_count += 2;
            if round % 10 == 0 {
                truth.live_count += 1;
                truth.live_bytes += wanted.1;
            } else {
                dealloc(moved, Layout::from_size_align(bytes + 60_000, 1).unwrap());
                truth.free_count += 1;
            }
        }
        let caught = std::panic::catch_unwind(|| {
            let _boxed = vec![1_u8; 50_021];
            std::panic::resume_unwind(std::boxed::Box::new(0_u8));
        });
        assert!(caught.is_err());
        truth.alloc_count += 1;
        truth.alloc_bytes += 50_021;
        truth.free_count += 1;
    }
    truth
}

fn main() {
    let threads: Vec<_> = (0..4).map(|index| std::thread::spawn(move || one_thread(index * 1000))).collect();
    let mut all = Truth::default();
    for thread in threads {
        let one = thread.join().unwrap();
        all.alloc_count += one.alloc_count;
        all.free_count += one.free_count;
        all.realloc_count += one.realloc_count;
        all.alloc_bytes += one.alloc_bytes;
        all.live_count += one.live_count;
        all.live_bytes += one.live_bytes;
    }
    let Ok(path) = std::env::var("TRUTH") else { return };
    let mut line = String::new();
    write!(
        line,
        "{{\"kind\":\"process\",\"pid\":{},\"image\":\"system_alloc\",\"slack\":0,\"own_start\":0,\"own_stop\":0,\
         \"alloc_count\":{},\"free_count\":{},\"realloc_count\":{},\"failed_count\":0,\"alloc_bytes\":{},\
         \"inherited_free_count\":0,\"live_count\":{},\"live_bytes\":{}}}\n",
        std::process::id(),
        all.alloc_count,
        all.free_count,
        all.realloc_count,
        all.alloc_bytes,
        all.live_count,
        all.live_bytes
    )
    .unwrap();
    std::fs::write(path, line).unwrap();
}
