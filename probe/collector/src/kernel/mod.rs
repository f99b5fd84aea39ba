//! Everything that talks to the kernel's BPF side: the loaded programs and their maps, links, and the ring. Responsible
//! for loading and for typed access; not for deciding where probes stand.

mod map;
mod multi;
mod programs;
mod ring;
mod tables;
mod walks;

pub use programs::{Hook, Kernel, Link, LinkKind, RowTable, Tuning, Wanted};
pub use ring::{Ring, RingGauge};
pub use tables::TableTotals;
