//! `__do_global_dtors_aux`, the function of the C runtime that a library's destructors are called from when it is closed or its
//! program ends. gcc's start files bring it without unwind information. Responsible for telling it by its code.
//!
//! ```text
//!   [endbr64]  cmpb $0, completed   jne …   push %rbp   …   call __cxa_finalize   …   pop %rbp   ret
//!                                           └── CFA = rsp + 16, rbp saved at CFA - 16 ──┘
//! ```

/// No longer than this from its `push` to its `pop`.
const MOST_BYTES: usize = 96;

/// Where its frame stands, in code that no entry covers: from behind the `push` to behind the `pop`. A file that was laid out anew
/// after it was linked (by BOLT) holds more than one.
pub(super) fn frames(code: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    (0..code.len()).filter_map(|at| {
        // cmpb $0x0, disp(%rip)
        let rest = code[at..].strip_prefix(&[0x80, 0x3d])?.get(4..)?.strip_prefix(&[0])?;
        // jne
        let ([0x75, _, rest @ ..] | [0x0f, 0x85, _, _, _, _, rest @ ..]) = rest else { return None };
        let body = rest.strip_prefix(&[0x55])?;
        let start = code.len() - body.len();
        // pop %rbp; ret
        let pop = body.windows(2).take(MOST_BYTES).position(|two| two == [0x5d, 0xc3])?;
        Some((start, start + pop + 1))
    })
}

#[cfg(test)]
mod tests {
    use super::frames;

    /// As gcc 12 compiles it.
    const CODE: &[u8] = &[
        0xf3, 0x0f, 0x1e, 0xfa, 0x80, 0x3d, 1, 2, 3, 4, 0, 0x75, 0x2b, 0x55, 0x48, 0x83, 0x3d, 1, 2, 3, 4, 0, 0x48,
        0x89, 0xe5, 0x74, 0x0c, 0x48, 0x8b, 0x3d, 1, 2, 3, 4, 0xe8, 1, 2, 3, 4, 0xe8, 1, 2, 3, 4, 0xc6, 0x05, 1, 2, 3,
        4, 1, 0x5d, 0xc3, 0x90, 0x90,
    ];

    #[test]
    fn it_is_told_by_its_code() {
        let padded = [&[0x90; 7][..], CODE].concat();
        let frame = |code: &[u8]| frames(code).collect::<Vec<_>>();
        assert_eq!(frame(CODE), [(14, 52)]);
        assert_eq!(frame(&padded), [(21, 59)]);
        assert_eq!(frame(&[CODE, CODE].concat()), [(14, 52), (14 + CODE.len(), 52 + CODE.len())]);
        for end in 0..53 {
            assert_eq!(frame(&CODE[..end]), [], "cut at {end}");
        }
        assert_eq!(frame(&[0x80, 0x3d, 1, 2, 3, 4, 0, 0x55, 0x5d, 0xc3]), []);
    }
}
