//! A ranked list that may be cut. Responsible for saying what the whole list amounts to.

use serde::Serialize;

/// Rows of a pattern, the heaviest first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Listing<T> {
    /// Sites there are; `rows` may hold fewer.
    pub site_count: u64,
    /// What the pattern counts, over all sites, listed or not.
    pub count: u64,
    /// What it weighs in bytes, likewise.
    pub bytes: u64,
    /// The heaviest.
    pub rows: Vec<T>,
}

impl<T> Default for Listing<T> {
    fn default() -> Self {
        Self { site_count: 0, count: 0, bytes: 0, rows: Vec::new() }
    }
}
