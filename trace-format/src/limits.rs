//! How much a trace file may ask of its reader. Responsible for the figures; every place that allocates on behalf of a
//! file checks one of them first.

/// Largest payload once uncompressed.
pub const MAX_MESSAGE_BYTES: u32 = 64 << 20;

/// Most events in a chunk.
pub const MAX_CHUNK_EVENTS: usize = 1 << 18;

/// Rows lost with damaged chunks that a reader replaces by placeholders, over all tables.
pub(crate) const MAX_LOST_ROWS: u64 = 1 << 22;

/// Most rows of a table that can hold rows with strings (modules, processes, threads, domains, entries, probes, markers, texts).
pub(crate) const MAX_WIDE_ROWS: usize = 1 << 22;

/// The writer begins a new message when the rows waiting take this much.
pub(crate) const BATCH_BYTES: usize = 8 << 20;

/// What tables (uncompressed, as they stand in the file) and symbols (as they stand in memory) of a file may take
/// together: real ones compress tenfold, crafted ones ten-thousandfold.
pub(crate) fn table_budget_bytes(file_bytes: u64) -> u64 {
    file_bytes.saturating_mul(256).saturating_add(256 << 20).min(8 << 30)
}

/// `Op::Marker::id` of events that have no row: those of traces from before there were rows of markers.
pub const NO_MARKER: u32 = u32::MAX;
