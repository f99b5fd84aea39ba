//! Results as text. Responsible for layout, width and colour; computes nothing: every figure shown is a field of a result
//! type.

mod arenas;
mod audit;
mod info;
mod leaks;
mod lifetimes;
mod patterns;
mod phases;
mod profile;
mod replay;
mod screen;
mod sites;
mod survivors;
mod table;
mod timeline;
mod timeline_svg;
mod width;

pub use arenas::arenas;
pub use audit::audit;
pub use info::{info, summary};
pub use leaks::leaks;
pub use lifetimes::lifetimes;
pub use patterns::patterns;
pub use phases::phases;
pub use profile::profile_check;
pub use replay::replay;
pub use screen::{Screen, Style};
pub use sites::sites;
pub use survivors::survivors;
pub use timeline::timeline;
pub use timeline_svg::timeline_svg;
pub use width::{clean, shorten};
