//! Finds the unwind rule in force at an address. Responsible for the search (known rules, then mapping, page, row); how
//! tables are laid out is said in `probe_abi::unwind`.

use aya_ebpf::btf_maps::Array;
use probe_abi::{
    KNOWN_RULES,
    unwind::{HEADER_WORDS, KIND_WIDE, MAX_MAPPINGS, NO_TABLE, PAGE_SHIFT, Rule, SPECIAL_NONE, Space, WalkEnd},
};

use crate::maps::{KNOWN, SPACES, TABLES};

/// 2^64 divided by the golden ratio: spreads addresses over the known rules.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
/// Set in the result of [`search`] where no rule was found; below it stands the [`WalkEnd`].
const NOT_FOUND: u64 = 1 << 32;

/// The rule at an address, or how a walk ends that meets it.
#[inline(always)]
pub(crate) fn rule_at(address: u64, space: u32) -> Result<Rule, WalkEnd> {
    // User addresses have 47 bits.
    let key = address ^ (space as u64) << 47;
    let Some(known) = KNOWN.get_ptr_mut((key.wrapping_mul(ODD) >> 48) as u32 & (KNOWN_RULES - 1)) else {
        return Err(WalkEnd::NoRoom);
    };
    // SAFETY: a map value; races are told by the check.
    let (check, rule) =
        unsafe { ((&raw const (*known).check).read_volatile(), (&raw const (*known).rule).read_volatile()) };
    if check == key ^ rule.wrapping_mul(ODD) {
        return Ok(Rule(rule as u32));
    }
    let found = search(address, space);
    if found & NOT_FOUND != 0 {
        return Err(if found as u32 == WalkEnd::NoRule as u32 { WalkEnd::NoRule } else { WalkEnd::UnknownCode });
    }
    // SAFETY: as above.
    unsafe {
        (&raw mut (*known).rule).write_volatile(found);
        (&raw mut (*known).check).write_volatile(key ^ found.wrapping_mul(ODD));
    }
    Ok(Rule(found as u32))
}

/// The rule at an address by search: the mapping, its table's page, the row. A function of its own for the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn search(address: u64, space: u32) -> u64 {
    let unknown = NOT_FOUND | WalkEnd::UnknownCode as u64;
    let Some(space) = SPACES.get_ptr(space) else { return unknown };
    let index = mapping_before(space, address);
    if index >= MAX_MAPPINGS as u32 {
        return unknown;
    }
    // SAFETY: the index is below the length.
    let mapping = unsafe { &*(&raw const (*space).mappings).cast::<probe_abi::unwind::Mapping>().add(index as usize) };
    if address >= mapping.end {
        return unknown;
    }
    if mapping.table == NO_TABLE {
        return NOT_FOUND | WalkEnd::NoRule as u64;
    }
    let Some(table) = TABLES.get(mapping.table) else { return unknown };
    match row_rule(table, address.wrapping_sub(mapping.bias)) {
        Some(rule) => rule as u64,
        None => NOT_FOUND | WalkEnd::NoRule as u64,
    }
}

/// Index of the last mapping that begins at or before an address; all ones for none.
#[inline(always)]
fn mapping_before(space: *const Space, address: u64) -> u32 {
    // SAFETY: a map value.
    let count = unsafe { (*space).count };
    let mappings = unsafe { &raw const (*space).mappings }.cast::<probe_abi::unwind::Mapping>();
    // `low` mappings begin at or before the address.
    let (mut low, mut high) = (0u32, count);
    for _ in 0..10 {
        if low >= high {
            break;
        }
        let middle = (low + high) >> 1;
        if middle >= MAX_MAPPINGS as u32 {
            return u32::MAX;
        }
        // SAFETY: the index is below the length.
        if unsafe { (*mappings.add(middle as usize)).start } <= address {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low.wrapping_sub(1)
}

/// The rule of a module's table at an address of the file.
#[inline(always)]
fn row_rule<const F: usize>(table: &Array<u64, 1, F>, address: u64) -> Option<u32> {
    let pages = *table.get(0)?;
    let (first_page, page_count) = (pages as u32, (pages >> 32) as u32);
    let wide_base = *table.get(1)? as u32;
    let page = ((address >> PAGE_SHIFT) as u32).wrapping_sub(first_page);
    if page >= page_count || address >> PAGE_SHIFT >> 32 != 0 {
        return None;
    }
    let index = *table.get(HEADER_WORDS + page)?;
    let rows = HEADER_WORDS + page_count;
    let offset = (address & 0xff) as u32;
    // `low` rows of the page begin at or before the address.
    let (first, mut low, mut high) = (index as u32, 0u32, (index >> 32) as u32);
    for _ in 0..9 {
        if low >= high {
            break;
        }
        let middle = (low + high) >> 1;
        if row(table, rows, first + middle)? & 0xff <= offset {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let at = (first + low).wrapping_sub(1);
    let found = Rule::of_row(if at == u32::MAX { return None } else { row(table, rows, at)? });
    if found == Rule::special(SPECIAL_NONE) {
        return None;
    }
    Some(if found.kind() == KIND_WIDE { Rule::wide(found.wide_index() + wide_base).0 } else { found.0 })
}

#[inline(always)]
fn row<const F: usize>(table: &Array<u64, 1, F>, rows: u32, index: u32) -> Option<u32> {
    let word = *table.get(rows + (index >> 1))?;
    Some((word >> ((index & 1) * 32)) as u32)
}
