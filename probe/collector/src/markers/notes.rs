//! Markers that a program was built with: static probes of the provider `heaptape` (see `samples/heaptape.h`). Responsible for
//! what their notes mean; where notes are is `elf`'s business.

use std::fs::File;

use probe_abi::ArgumentAt;

use super::MarkerKind;
use crate::{
    elf::ElfImage,
    placement::{KernelRules, Placement, PlacementError, place_at},
};

/// The provider whose probes are markers.
const PROVIDER: &str = "heaptape";

/// A static probe that is a marker.
#[derive(Debug)]
pub(super) struct StaticMarker {
    pub(super) provider: String,
    pub(super) kind: MarkerKind,
    pub(super) vaddr: u64,
    pub(super) place: Result<Placement, PlacementError>,
    pub(super) operand: Result<Operand, String>,
}

/// Where the text of a static probe is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Operand {
    /// Where the pointer is, or the base of its address.
    pub(super) base: ArgumentAt,
    /// The pointer lies in memory, this far from the base.
    pub(super) offset: Option<i32>,
}

/// All markers of a file, as its notes tell.
pub(super) fn static_markers(image: &ElfImage, file: &File, rules: KernelRules) -> Vec<StaticMarker> {
    let code = image.code(file);
    let probes = image.static_probes(file).unwrap_or_default();
    let ours = probes.into_iter().filter(|probe| probe.provider == PROVIDER).filter_map(|probe| {
        let kind = match probe.name.as_str() {
            "begin" => MarkerKind::Begin,
            "end" => MarkerKind::End,
            "point" => MarkerKind::Point,
            _ => return None,
        };
        Some(StaticMarker {
            provider: probe.provider,
            kind,
            vaddr: probe.vaddr,
            place: place_at(&code, probe.vaddr, rules),
            operand: operand(&probe.arguments),
        })
    });
    ours.collect()
}

/// The first operand, in the notation of the assembler: `8@%rdi`, `8@-16(%rbp)`.
fn operand(arguments: &str) -> Result<Operand, String> {
    let refused =
        || format!("its operand `{arguments}` is neither a register nor memory at one: use samples/heaptape.h");
    let first = arguments.split_whitespace().next().ok_or_else(refused)?;
    let place = match first.split_once('@') {
        Some(("8" | "-8", place)) => place,
        Some(_) => return Err(format!("its operand `{arguments}` is no pointer: it has not 8 bytes")),
        None => first,
    };
    // Assemblers of the other dialect leave the sign out.
    if let Some(base) = register(place.strip_prefix('%').unwrap_or(place)) {
        return Ok(Operand { base, offset: None });
    }
    let (offset, base) = place.strip_suffix(')').and_then(|place| place.split_once("(%")).ok_or_else(refused)?;
    let offset: i32 = if offset.is_empty() { 0 } else { offset.parse().map_err(|_| refused())? };
    if base == "rsp" {
        // The programs read words on the stack, and follow pointers from registers.
        let slot = u8::try_from(offset / 8).ok().filter(|slot| *slot < 0x80 && offset % 8 == 0);
        return slot.map(|slot| Operand { base: 0x80 | slot, offset: None }).ok_or_else(refused);
    }
    Ok(Operand { base: register(base).ok_or_else(refused)?, offset: Some(offset) })
}

fn register(name: &str) -> Option<ArgumentAt> {
    probe_abi::REGISTERS.iter().position(|known| *known == name).map(|index| index as u8 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_are_registers_or_memory_at_them() {
        let at = |base, offset| Ok(Operand { base, offset });
        assert_eq!(operand("8@%rdi"), at(1, None));
        assert_eq!(operand("%rax"), at(7, None));
        assert_eq!(operand("8@rax"), at(7, None));
        assert_eq!(operand("8@%r15 4@%eax"), at(15, None));
        assert_eq!(operand("8@-24(%rbp)"), at(9, Some(-24)));
        assert_eq!(operand("-8@(%rbx)"), at(8, Some(0)));
        assert_eq!(operand("8@16(%rsp)"), at(0x82, None));
        for wrong in ["", "4@%edi", "8@$5", "8@name(%rip)", "8@-8(%rsp)", "8@(%rdi,%rsi,8)", "8@%xmm0"] {
            assert!(operand(wrong).is_err(), "{wrong}");
        }
    }
}
