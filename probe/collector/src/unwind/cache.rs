//! Unwind tables on disk, by build id. Responsible for never giving back anything but what was built: a file that is damaged,
//! of another version or somebody else's is as if it were not there.
//!
//! ```text
//!   magic 8 · layout version u32 · 0 u32 · words u64 · wide rules u64 · functions u64 · unsupported rows u64 · xxh3 u64
//!   words, wide rules (16 bytes each), functions                                          all little endian
//! ```

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use memmap2::Mmap;
use probe_abi::unwind::WideRule;
use xxhash_rust::xxh3::xxh3_64;

use super::{UnwindError, UnwindTable};

const MAGIC: [u8; 8] = *b"HTUNWIND";
/// Rises with every change of layout, rules or of what is put into a table.
const LAYOUT: u32 = 3;
const HEADER_BYTES: usize = 56;
const WIDE_BYTES: usize = 16;
/// Smaller files are built faster than they are found.
const SMALL_FILE_BYTES: usize = 512 << 10;

/// Where a table came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Made from the file.
    Built,
    /// Read from the cache.
    Cached,
}

/// Tables on disk.
#[derive(Debug, Clone)]
pub struct TableCache {
    folder: Option<PathBuf>,
}

impl Default for TableCache {
    fn default() -> Self {
        Self::new()
    }
}

impl TableCache {
    /// In the usual place: `$HEAPTAPE_CACHE`; for root `/var/cache/heaptape`; else `$XDG_CACHE_HOME/heaptape` or
    /// `~/.cache/heaptape`.
    pub fn new() -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = variable("HEAPTAPE_CACHE").or_else(|| {
            if user() == 0 {
                return Some(PathBuf::from("/var/cache/heaptape"));
            }
            let base = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")))?;
            Some(base.join("heaptape"))
        });
        Self { folder }
    }

    /// In a folder, which need not exist.
    pub fn at(folder: PathBuf) -> Self {
        Self { folder: Some(folder) }
    }

    /// The table of a file.
    ///
    /// # Errors
    /// When the file cannot be read or is none that has a table. A cache that cannot be written is no error.
    pub fn get(&self, file: &File, build_id: &[u8]) -> Result<(Arc<UnwindTable>, Source), UnwindError> {
        let bytes = map(file)?;
        let path = self.path(&bytes, build_id);
        if let Some(table) = path.as_ref().and_then(read) {
            return Ok((Arc::new(table), Source::Cached));
        }
        let table = UnwindTable::build(&bytes)?;
        if let Some(path) = &path {
            // Whoever cannot write builds again the next time.
            let _ = write(path, &table);
        }
        Ok((Arc::new(table), Source::Built))
    }

    fn path(&self, bytes: &[u8], build_id: &[u8]) -> Option<PathBuf> {
        if bytes.len() < SMALL_FILE_BYTES {
            return None;
        }
        let folder = self.folder.as_ref()?;
        // Shorter ids than the usual 20 or 16 bytes may be made up by hand and mean little.
        let name = if build_id.len() >= 16 {
            build_id.iter().map(|byte| format!("{byte:02x}")).collect()
        } else {
            format!("{:032x}-{}", super::fingerprint(bytes)?, bytes.len())
        };
        Some(folder.join(format!("{name}.unwind")))
    }
}

#[expect(unsafe_code, reason = "a large file is mapped, not read")]
fn map(file: &File) -> Result<Mmap, UnwindError> {
    // SAFETY: a file that is cut short while it is read would end us by a signal; executables in use cannot be written.
    Ok(unsafe { Mmap::map(file)? })
}

#[expect(unsafe_code, reason = "geteuid is a system call")]
fn user() -> u32 {
    // SAFETY: no preconditions.
    unsafe { libc::geteuid() }
}

fn read(path: &PathBuf) -> Option<UnwindTable> {
    let mut file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path).ok()?;
    let facts = file.metadata().ok()?;
    // Only what we wrote ourselves, and nobody else could change.
    if !facts.is_file() || facts.uid() != user() || facts.mode() & 0o022 != 0 {
        return None;
    }
    let mut bytes = Vec::with_capacity(facts.len() as usize + 1);
    file.read_to_end(&mut bytes).ok()?;
    decode(&bytes)
}

fn decode(bytes: &[u8]) -> Option<UnwindTable> {
    let (header, payload) = bytes.split_at_checked(HEADER_BYTES)?;
    let field = |index: usize| header.get(8 * index..8 * index + 8)?.try_into().ok().map(u64::from_le_bytes);
    let count = |index: usize| usize::try_from(field(index)?).ok();
    if header[..8] != MAGIC || field(1)? != u64::from(LAYOUT) || field(6)? != xxh3_64(payload) {
        return None;
    }
    let (words, wide, functions) = (count(2)?, count(3)?, count(4)?);
    let wide_start = words.checked_mul(8)?;
    let functions_start = wide_start.checked_add(wide.checked_mul(WIDE_BYTES)?)?;
    if functions_start.checked_add(functions.checked_mul(8)?)? != payload.len() {
        return None;
    }
    Some(UnwindTable {
        words: numbers(&payload[..wide_start]),
        wide: payload[wide_start..functions_start].chunks_exact(WIDE_BYTES).map(wide_rule).collect(),
        functions: numbers(&payload[functions_start..]),
        unsupported_row_count: field(5)?,
    })
}

fn numbers(bytes: &[u8]) -> Vec<u64> {
    let (chunks, _) = bytes.as_chunks::<8>();
    chunks.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect()
}

fn wide_rule(bytes: &[u8]) -> WideRule {
    let number = |at: usize| i32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    WideRule {
        cfa_base: bytes[0],
        cfa_deref: bytes[1],
        rbp_base: bytes[2],
        reserved: 0,
        cfa_offset: number(4),
        cfa_add: number(8),
        rbp_offset: number(12),
    }
}

fn encode(table: &UnwindTable) -> Vec<u8> {
    let mut payload = Vec::with_capacity(8 * (table.words.len() + table.functions.len()));
    payload.extend(table.words.iter().flat_map(|word| word.to_le_bytes()));
    for rule in &table.wide {
        payload.extend([rule.cfa_base, rule.cfa_deref, rule.rbp_base, 0]);
        payload.extend([rule.cfa_offset, rule.cfa_add, rule.rbp_offset].iter().flat_map(|number| number.to_le_bytes()));
    }
    payload.extend(table.functions.iter().flat_map(|start| start.to_le_bytes()));
    let counts = [
        u64::from(LAYOUT),
        table.words.len() as u64,
        table.wide.len() as u64,
        table.functions.len() as u64,
        table.unsupported_row_count,
        xxh3_64(&payload),
    ];
    let mut bytes = MAGIC.to_vec();
    bytes.extend(counts.iter().flat_map(|count| count.to_le_bytes()));
    bytes.extend(payload);
    bytes
}

/// Writes under another name first: whoever reads sees a whole file or none.
fn write(path: &PathBuf, table: &UnwindTable) -> std::io::Result<()> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let folder = path.parent().unwrap_or(path);
    fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let fresh = path.with_extension(format!("{}-{number}.new", std::process::id()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&fresh)
        .and_then(|mut file| file.write_all(&encode(table)))
        .and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    written
}
