//! Everything that talks to the kernel's BPF side: the loaded programs and their maps, links, and the ring. Responsible
//! for loading and for typed access; not for deciding where probes stand.

mod costs;
mod hooks;
mod map;
mod multi;
mod programs;
mod requirements;
mod ring;
mod tables;
mod walks;

pub use hooks::{Hook, Link, LinkKind, Wanted};
pub use programs::{Kernel, RowTable, Tuning};
pub use ring::{Ring, RingGauge};
pub use tables::TableTotals;
