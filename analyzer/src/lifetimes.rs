//! How long blocks live, and where. Responsible for following each block from its birth to its death, by phase, by site and by
//! activation.

mod alive;
mod chart;
mod class;
mod collector;
mod death;
mod histogram;
mod lives;
mod peak;
mod phases;
mod study;
mod timeline;

pub use alive::Alive;
pub use chart::{Band, Chart, chart};
pub use class::Class;
pub use collector::{CellLife, CellRow, Collected, Collector, ESCAPES, Instance, LISTED_INSTANCES, RowLife, Sums, Tag};
pub use histogram::{Coarse, Histogram};
pub(crate) use lives::path;
pub use lives::{Cell, Escape, Lifetimes, SiteLife, has_phases, lifetimes};
pub use peak::Peak;
pub use phases::{Ages, ClassFigures, Held, InstanceFigures, Phase, Phases, phases};
pub(crate) use study::phases_of;
pub use study::{ProcessPhases, Study, Wish, alive_after, study};
pub use timeline::{Bin, MAX_BINS, Timeline};
