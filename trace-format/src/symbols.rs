//! Where symbols come from. Responsible for the contract between the recorder, which asks at the end of a recording, and
//! whoever can name code addresses; not for symbolisation itself.

use crate::table::{FrameSymbols, Tables};

/// Something that names code addresses.
pub trait Symbolise {
    /// Symbols of all frames of `tables`, by frame id. Rows of frames it cannot name are empty; trailing ones may be missing.
    fn symbolise(&mut self, tables: &Tables) -> Vec<FrameSymbols>;
}

/// Names nothing: traces written with it keep modules, build ids and addresses only.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSymbols;

impl Symbolise for NoSymbols {
    fn symbolise(&mut self, _tables: &Tables) -> Vec<FrameSymbols> {
        Vec::new()
    }
}
