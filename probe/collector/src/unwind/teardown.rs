//! `__do_global_dtors_aux`, the function of the C runtime that a library's destructors are called from when it is closed or its
//! program ends. gcc's start files bring it without unwind information. Responsible for telling it by its code.
//!
//! ```text
//!   [endbr64]  cmpb $0, completed   jne …   push %rbp   …   movb $1, completed   pop %rbp   ret
//!                                           └── CFA = rsp + 16, rbp saved at CFA - 16 ──┘
//! ```

/// Where its frame stands, in code that no entry covers: from behind the `push` to behind the `pop`. A file that was laid out anew
/// after it was linked (by BOLT) holds more than one.
pub(super) fn frames(code: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    (0..code.len()).filter_map(|at| {
        // cmpb $0x0, completed(%rip)
        let rest = code[at..].strip_prefix(&[0x80, 0x3d])?;
        let completed = at as i64 + 7 + displacement(rest)?;
        let rest = rest.get(4..)?.strip_prefix(&[0])?;
        // jne
        let ([0x75, _, rest @ ..] | [0x0f, 0x85, _, _, _, _, rest @ ..]) = rest else { return None };
        let mut rest = rest.strip_prefix(&[0x55])?;
        let start = code.len() - rest.len();
        loop {
            let place = code.len() - rest.len();
            match rest {
                // movb $0x1, completed(%rip); pop %rbp; ret
                [0xc6, 0x05, behind @ ..] => {
                    let same = place as i64 + 7 + displacement(behind)? == completed;
                    return (same && behind.get(4..7)? == [1, 0x5d, 0xc3]).then_some((start, place + 8));
                }
                _ => rest = rest.get(step(rest)?..)?,
            }
        }
    })
}

/// Length of an instruction that leaves `rsp` where it is, of those that the function is made of.
fn step(code: &[u8]) -> Option<usize> {
    Some(match code {
        // mov %rsp, %rbp · je
        [0x48, 0x89, 0xe5, ..] => 3,
        [0x74, ..] => 2,
        // cmpq $0x0, x(%rip) · mov or lea x(%rip), %rdi
        [0x48, 0x83, 0x3d, ..] => 8,
        [0x48, 0x8b | 0x8d, 0x3d, ..] => 7,
        // call x · call *x(%rip), and as the linker shortens it
        [0xe8, ..] => 5,
        [0xff, 0x15, ..] | [0x67, 0xe8, ..] => 6,
        _ => return None,
    })
}

fn displacement(code: &[u8]) -> Option<i64> {
    Some(i32::from_le_bytes(code.get(..4)?.try_into().ok()?).into())
}

#[cfg(test)]
mod tests {
    use super::frames;

    /// As gcc 12 compiles it.
    const CODE: &[u8] = &[
        0xf3, 0x0f, 0x1e, 0xfa, 0x80, 0x3d, 100, 0, 0, 0, 0, 0x75, 0x2b, 0x55, 0x48, 0x83, 0x3d, 1, 2, 3, 4, 0, 0x48,
        0x89, 0xe5, 0x74, 0x0c, 0x48, 0x8b, 0x3d, 1, 2, 3, 4, 0xe8, 1, 2, 3, 4, 0xe8, 1, 2, 3, 4, 0xc6, 0x05, 60, 0, 0,
        0, 1, 0x5d, 0xc3, 0x90, 0x90,
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

    /// Nothing is taken for it that moves the stack otherwise, or that notes its end elsewhere.
    #[test]
    fn nothing_else_is_taken_for_it() {
        let with = |at: usize, bytes: &[u8]| {
            let mut code = CODE.to_vec();
            code.splice(at..at, bytes.iter().copied());
            frames(&code).next()
        };
        assert_eq!(with(14, &[0x53]), None, "push %rbx");
        assert_eq!(with(14, &[0x48, 0x83, 0xec, 0x08]), None, "sub $8, %rsp");
        assert_eq!(with(45, &[0x90]), None, "nop");
        let mut code = CODE.to_vec();
        code[46] += 1;
        assert_eq!(frames(&code).next(), None, "another variable");
    }
}
