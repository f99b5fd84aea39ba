//! A row of call frame information as a rule. Responsible for which rows a table can express.

use gimli::{
    CfaRule, EhFrame, EndianSlice, LittleEndian, Register, RegisterRule, UnwindExpression, UnwindTableRow, X86_64,
};
use probe_abi::unwind::{
    BASE_CFA, BASE_RBP, BASE_RSP, BASE_SAME, KIND_RBP, KIND_RSP, MAX_CFA_WORDS, MAX_RBP_SLOT, Rule, SPECIAL_PLT,
    SPECIAL_ROOT, SPECIAL_SIGNAL, SPECIAL_UNSUPPORTED, UCONTEXT_RIP, WideRule,
};

type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// A rule, or one that does not fit a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expressed {
    Rule(Rule),
    Wide(WideRule),
}

const UNSUPPORTED: Expressed = Expressed::Rule(Rule::special(SPECIAL_UNSUPPORTED));

// DWARF operations that are understood, and the numbers of registers in them.
const DEREF: u8 = 0x06;
const PLUS_UCONST: u8 = 0x23;
const BREG_RBP: u8 = 0x70 + 6;
const BREG_RSP: u8 = 0x70 + 7;
/// `rsp + 8 + (((rip & 15) >= 11) << 3)`, as linkers write it for `.plt`.
///
/// Where entries begin with `endbr64` they say 9 in the place of 11, and 5 where jumps had the prefix `bnd`: the entry's push is over
/// earlier. `SPECIAL_PLT` is no rule for those. Between the push and 11 it would take the number that was pushed for a return
/// address, and the first entry's number is 0, which ends a stack as if it were complete.
const PLT: [u8; 11] = [BREG_RSP, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22];

/// What a row of the section says.
pub(super) fn express(row: &UnwindTableRow<usize>, is_signal: bool, section: &EhFrame<Bytes<'_>>) -> Expressed {
    match row.register(X86_64::RA) {
        Some(RegisterRule::Undefined) => return Expressed::Rule(Rule::special(SPECIAL_ROOT)),
        Some(RegisterRule::Offset(-8)) if !is_signal => {}
        Some(RegisterRule::Expression(expression)) if is_signal => {
            let in_context = sum(bytes(&expression, section)) == Some((BASE_RSP, UCONTEXT_RIP as i64));
            return if in_context { Expressed::Rule(Rule::special(SPECIAL_SIGNAL)) } else { UNSUPPORTED };
        }
        _ => return UNSUPPORTED,
    }
    let Some(saved) = saved_rbp(row, section) else { return UNSUPPORTED };
    match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => match base(*register) {
            Some(base) => plain(base, *offset, saved),
            None => UNSUPPORTED,
        },
        CfaRule::Expression(expression) => from_expression(bytes(expression, section), saved),
    }
}

/// Where rbp is saved: a base and an offset.
type Saved = (u8, i64);

fn saved_rbp(row: &UnwindTableRow<usize>, section: &EhFrame<Bytes<'_>>) -> Option<Saved> {
    match row.register(X86_64::RBP) {
        // Unmentioned, it is preserved; undefined, nobody further out may rely on it.
        None | Some(RegisterRule::SameValue | RegisterRule::Undefined) => Some((BASE_SAME, 0)),
        Some(RegisterRule::Offset(offset)) => Some((BASE_CFA, offset)),
        Some(RegisterRule::Expression(expression)) => sum(bytes(&expression, section)),
        Some(_) => None,
    }
}

fn base(register: Register) -> Option<u8> {
    match register {
        X86_64::RSP => Some(BASE_RSP),
        X86_64::RBP => Some(BASE_RBP),
        _ => None,
    }
}

/// CFA = base + offset.
fn plain(base: u8, offset: i64, saved: Saved) -> Expressed {
    let kind = if base == BASE_RSP { KIND_RSP } else { KIND_RBP };
    let slot = match saved {
        (BASE_SAME, _) => Some(0),
        (BASE_CFA, offset) if offset < 0 && offset % 8 == 0 => {
            u32::try_from(-offset / 8).ok().filter(|slot| *slot <= MAX_RBP_SLOT)
        }
        _ => None,
    };
    let words = u32::try_from(offset / 8).ok().filter(|words| offset % 8 == 0 && *words <= MAX_CFA_WORDS);
    match (words, slot) {
        (Some(words), Some(slot)) => Expressed::Rule(Rule::plain(kind, words, slot)),
        _ => wide(base, offset, None, saved),
    }
}

fn wide(base: u8, offset: i64, add: Option<i64>, saved: Saved) -> Expressed {
    let (Ok(cfa_offset), Ok(cfa_add), Ok(rbp_offset)) =
        (i32::try_from(offset), i32::try_from(add.unwrap_or(0)), i32::try_from(saved.1))
    else {
        return UNSUPPORTED;
    };
    Expressed::Wide(WideRule {
        cfa_base: base,
        cfa_deref: u8::from(add.is_some()),
        rbp_base: saved.0,
        reserved: 0,
        cfa_offset,
        cfa_add,
        rbp_offset,
    })
}

/// A CFA that is an expression: the procedure linkage table's, a sum, or memory at a sum (realigned stacks).
fn from_expression(operations: &[u8], saved: Saved) -> Expressed {
    if operations == PLT {
        let unchanged = saved == (BASE_SAME, 0);
        return if unchanged { Expressed::Rule(Rule::special(SPECIAL_PLT)) } else { UNSUPPORTED };
    }
    let Some((base, offset, rest)) = leading_sum(operations) else { return UNSUPPORTED };
    match rest.split_first() {
        None => wide(base, offset, None, saved),
        Some((&DEREF, [])) => wide(base, offset, Some(0), saved),
        Some((&DEREF, [PLUS_UCONST, rest @ ..])) => match unsigned(rest) {
            Some((add, [])) => wide(base, offset, Some(add), saved),
            _ => UNSUPPORTED,
        },
        _ => UNSUPPORTED,
    }
}

/// An expression that is a register plus a constant.
fn sum(operations: &[u8]) -> Option<Saved> {
    match leading_sum(operations)? {
        (base, offset, []) => Some((base, offset)),
        _ => None,
    }
}

fn leading_sum(operations: &[u8]) -> Option<(u8, i64, &[u8])> {
    let (operation, rest) = operations.split_first()?;
    let base = match *operation {
        BREG_RBP => BASE_RBP,
        BREG_RSP => BASE_RSP,
        _ => return None,
    };
    let (offset, rest) = signed(rest)?;
    Some((base, offset, rest))
}

fn bytes<'a>(expression: &UnwindExpression<usize>, section: &EhFrame<Bytes<'a>>) -> &'a [u8] {
    expression.get(section).map_or(&[], |expression| expression.0.slice())
}

/// A signed LEB128 number.
fn signed(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let mut reader = EndianSlice::new(bytes, LittleEndian);
    let value = gimli::Reader::read_sleb128(&mut reader).ok()?;
    Some((value, reader.slice()))
}

/// An unsigned LEB128 number that fits a signed one.
fn unsigned(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let mut reader = EndianSlice::new(bytes, LittleEndian);
    let value = gimli::Reader::read_uleb128(&mut reader).ok()?;
    Some((i64::try_from(value).ok()?, reader.slice()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_plain_linkage_table_has_a_rule() {
        let since = |literal: u8| {
            let mut operations = PLT;
            operations[6] = 0x30 + literal;
            from_expression(&operations, (BASE_SAME, 0))
        };
        assert_eq!(since(11), Expressed::Rule(Rule::special(SPECIAL_PLT)));
        for other in [5, 9, 10, 12] {
            assert_eq!(since(other), UNSUPPORTED, "{other}");
        }
        assert_eq!(from_expression(&PLT, (BASE_CFA, -16)), UNSUPPORTED, "its entries save nothing");
    }
}
