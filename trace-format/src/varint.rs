//! Variable-length integers. Responsible for LEB128 and zigzag; not for what the numbers mean.

use crate::damage::Damage;

/// Most bytes of a varint.
pub(crate) const MAX_VARINT_BYTES: usize = 10;

/// Appends `value`, least group first.
#[inline]
pub(crate) fn push_varint(out: &mut Vec<u8>, value: u64) {
    if value < 1 << 7 { out.push(value as u8) } else { push_long(out, value) }
}

/// Appends a value of several groups. Those of two and three, most of the rest, have lengths that are known: copying them is
/// no call.
#[inline(never)]
fn push_long(out: &mut Vec<u8>, mut value: u64) {
    if value < 1 << 14 {
        return out.extend_from_slice(&[value as u8 | 0x80, (value >> 7) as u8]);
    }
    if value < 1 << 21 {
        return out.extend_from_slice(&[value as u8 | 0x80, (value >> 7) as u8 | 0x80, (value >> 14) as u8]);
    }
    let mut bytes = [0; MAX_VARINT_BYTES];
    let mut length = 0;
    while value >= 0x80 {
        bytes[length] = value as u8 | 0x80;
        value >>= 7;
        length += 1;
    }
    bytes[length] = value as u8;
    out.extend_from_slice(&bytes[..=length]);
}

/// Maps small numbers of either sign to small ones.
#[inline]
pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Undoes `zigzag`.
#[inline]
pub(crate) fn unzigzag(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}

/// Reads varints one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Varints<'a> {
    rest: &'a [u8],
    /// Named in errors.
    what: &'static str,
}

impl<'a> Varints<'a> {
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next one.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<u64, Damage> {
        match self.rest {
            [first, rest @ ..] if *first < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*first))
            }
            _ => self.next_long(),
        }
    }

    /// The next one, which must fit 32 bits.
    #[inline]
    pub(crate) fn next_u32(&mut self) -> Result<u32, Damage> {
        let value = self.next()?;
        u32::try_from(value).map_err(|_| Damage::new(format!("{} holds {value}, above 32 bits", self.what)))
    }

    fn next_long(&mut self) -> Result<u64, Damage> {
        let mut value = 0u64;
        for (index, &byte) in self.rest.iter().take(MAX_VARINT_BYTES).enumerate() {
            let group = u64::from(byte & 0x7f);
            if index == MAX_VARINT_BYTES - 1 && group > 1 {
                break;
            }
            value |= group << (7 * index);
            if byte < 0x80 {
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        let rule = if self.rest.len() < MAX_VARINT_BYTES { "ends too early" } else { "holds a number above 64 bits" };
        Err(Damage::new(format!("{} {rule}", self.what)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_number_survives(numbers in prop::collection::vec(any::<u64>().prop_flat_map(|n| (0..64u32).prop_map(move |s| n >> s)), 0..50)) {
            let mut bytes = Vec::new();
            for &number in &numbers {
                push_varint(&mut bytes, number);
            }
            let mut varints = Varints::new(&bytes, "test");
            for &number in &numbers {
                prop_assert_eq!(varints.next().unwrap(), number);
            }
            prop_assert!(varints.is_empty());
            prop_assert!(varints.next().is_err());
        }

        #[test]
        fn zigzag_is_its_own_undoing(number in any::<i64>()) {
            prop_assert_eq!(unzigzag(zigzag(number)), number);
        }
    }

    #[test]
    fn small_numbers_of_either_sign_stay_small() {
        assert_eq!([0, -1, 1, -2, 2].map(zigzag), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn numbers_above_64_bits_are_refused() {
        assert!(Varints::new(&[0xff; 11], "test").next().is_err());
        let mut largest = [0xff; 10];
        largest[9] = 1;
        assert_eq!(Varints::new(&largest, "test").next().unwrap(), u64::MAX);
        largest[9] = 2;
        assert!(Varints::new(&largest, "test").next().is_err());
    }
}
