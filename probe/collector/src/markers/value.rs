//! What is read with a marker. Responsible for the notation of registers and of pointers to follow; the reading is done in
//! the kernel.

use probe_abi::MAX_DEREFERENCES;

/// What is read with a marker.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum MarkerValue {
    /// Nothing.
    #[default]
    None,
    /// A number.
    Number {
        /// The register of the argument, in the width to read: `edi`, `rsi`.
        at: String,
    },
    /// A text that an argument points to; its first 96 bytes.
    Text {
        /// The register of the pointer.
        at: String,
        /// The register of its length in bytes; without, it ends with a NUL.
        length: Option<String>,
    },
    /// A text that ends with a NUL, found by following pointers.
    TextAt {
        /// Such as `*(rdi+16)`, or `*(*(rsi)+8)`: where the pointer to the text lies.
        expression: String,
    },
}

impl MarkerValue {
    /// From the notation of profiles: `edi`; `text rdx`, `text rdx rcx`, `text *(rdi+16)`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let value = match text.trim().strip_prefix("text ").map(str::trim) {
            None => Self::Number { at: text.trim().to_owned() },
            Some(expression) if expression.starts_with('*') => Self::TextAt { expression: expression.to_owned() },
            Some(registers) => {
                let (at, length) = registers.split_once(char::is_whitespace).unzip();
                Self::Text {
                    at: at.unwrap_or(registers).to_owned(),
                    length: length.map(|length: &str| length.trim().to_owned()),
                }
            }
        };
        Source::of(&value)?;
        Ok(value)
    }
}

/// Where the kernel side finds a value when the function is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Source {
    /// Position of the argument to begin with.
    pub(super) argument: u8,
    /// Size of a number.
    pub(super) size_bytes: u8,
    /// From there on: `value = *(value + offset)`.
    pub(super) offsets: [i32; MAX_DEREFERENCES],
    /// How many of them.
    pub(super) offset_count: u8,
    /// Position of the length of a text.
    pub(super) length: Option<u8>,
    /// Whether it is a text.
    pub(super) is_text: bool,
}

/// Argument registers by position: 64, 32, 16 and 8 bits.
const REGISTERS: [[&str; 4]; 6] = [
    ["rdi", "edi", "di", "dil"],
    ["rsi", "esi", "si", "sil"],
    ["rdx", "edx", "dx", "dl"],
    ["rcx", "ecx", "cx", "cl"],
    ["r8", "r8d", "r8w", "r8b"],
    ["r9", "r9d", "r9w", "r9b"],
];

/// Position and size in bytes of an argument register.
fn register(name: &str) -> Result<(u8, u8), String> {
    for (position, names) in REGISTERS.iter().enumerate() {
        if let Some(width) = names.iter().position(|known| *known == name) {
            return Ok((position as u8, 8 >> width));
        }
    }
    Err(format!("`{name}` is no register that arguments are passed in (rdi, rsi, rdx, rcx, r8, r9, or a part of one)"))
}

fn pointer(name: &str) -> Result<u8, String> {
    match register(name)? {
        (position, 8) => Ok(position),
        _ => Err(format!("`{name}` is too narrow for a pointer or a length")),
    }
}

impl Source {
    /// Of a value; `None` where nothing is read.
    pub(super) fn of(value: &MarkerValue) -> Result<Option<Self>, String> {
        let plain = |argument| Self {
            argument,
            size_bytes: 8,
            offsets: [0; MAX_DEREFERENCES],
            offset_count: 0,
            length: None,
            is_text: true,
        };
        Ok(Some(match value {
            MarkerValue::None => return Ok(None),
            MarkerValue::Number { at } => {
                let (argument, size_bytes) = register(at)?;
                Self { size_bytes, is_text: false, ..plain(argument) }
            }
            MarkerValue::Text { at, length } => {
                let length = length.as_deref().map(pointer).transpose()?;
                Self { length, ..plain(pointer(at)?) }
            }
            MarkerValue::TextAt { expression } => {
                let mut path = Vec::new();
                let argument = follow(expression, &mut path)
                    .map_err(|reason| format!("`{expression}` is nothing like `*(rdi+16)`: {reason}"))?;
                if path.len() > MAX_DEREFERENCES {
                    return Err(format!("`{expression}` follows more than {MAX_DEREFERENCES} pointers"));
                }
                let mut source = plain(argument);
                source.offsets[..path.len()].copy_from_slice(&path);
                source.offset_count = path.len() as u8;
                source
            }
        }))
    }

    /// Positions of the arguments it takes, ascending.
    pub(super) fn arguments(&self) -> Vec<u8> {
        let mut positions: Vec<u8> = [Some(self.argument), self.length].into_iter().flatten().collect();
        positions.sort_unstable();
        positions.dedup();
        positions
    }
}

/// The register that an expression begins with; puts the offsets that lead on from there into `path`, in order.
fn follow(expression: &str, path: &mut Vec<i32>) -> Result<u8, String> {
    let expression = expression.trim();
    let Some(rest) = expression.strip_prefix('*') else { return pointer(expression) };
    let inner = rest.trim_start().strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
    let inner = inner.ok_or("brackets must follow the `*`")?.trim();
    // The offset follows the last bracket, if there is one.
    let base_end = inner.rfind(')').map_or(0, |at| at + 1);
    let sign = inner[base_end..].find(['+', '-']).map(|at| at + base_end);
    let (base, offset) = match sign {
        Some(at) => (&inner[..at], number(&inner[at..])?),
        None => (inner, 0),
    };
    let argument = follow(base, path)?;
    path.push(offset);
    Ok(argument)
}

/// A number with a sign, decimal or hexadecimal.
fn number(text: &str) -> Result<i32, String> {
    let wrong = || format!("`{text}` is no offset");
    let (sign, digits) = text.split_at_checked(1).ok_or_else(wrong)?;
    let digits = digits.trim();
    let magnitude = match digits.strip_prefix("0x") {
        Some(hex) => i32::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    let magnitude = magnitude.ok().filter(|magnitude| *magnitude >= 0).ok_or_else(wrong)?;
    Ok(if sign == "-" { -magnitude } else { magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::of(&MarkerValue::parse(text).unwrap()).unwrap().unwrap()
    }

    #[test]
    fn notation_says_where_a_value_is() {
        let number = source("edi");
        assert_eq!((number.argument, number.size_bytes, number.is_text), (0, 4, false));
        assert_eq!((source("r9b").argument, source("r9b").size_bytes), (5, 1));
        let text = source("text rdx rcx");
        assert_eq!((text.argument, text.length, text.is_text, text.offset_count), (2, Some(3), true, 0));
        assert_eq!(text.arguments(), [2, 3]);
        let behind = source("text *(rdi+16)");
        assert_eq!((behind.argument, behind.offset_count, behind.offsets[0]), (0, 1, 16));
        let further = source("text *( *(*(rsi - 0x8)) + 24 )");
        assert_eq!((further.argument, further.offset_count, further.offsets), (1, 3, [-8, 0, 24, 0]));
        assert_eq!(source("text rsi").offset_count, 0);
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_words() {
        for (text, expected) in [
            ("rbx", "no register that arguments"),
            ("text edi", "too narrow"),
            ("text rdi ecx", "too narrow"),
            ("text *rdi", "brackets"),
            ("text *(rdi+x)", "no offset"),
            ("text *(rdi", "brackets"),
            ("text *(*(*(*(*(rdi)))))", "more than 4"),
            ("", "no register"),
        ] {
            let error = MarkerValue::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
