//! Phases marked by the program itself: the macro of samples/heaptape.h.

macro_rules! heaptape {
    ($probe:literal, $text:expr) => {{
        let text: &core::ffi::CStr = $text;
        unsafe {
            core::arch::asm!(
                "990: nop",
                ".pushsection .note.stapsdt,\"\",\"note\"",
                ".balign 4",
                ".4byte 992f-991f, 994f-993f, 3",
                "991: .asciz \"stapsdt\"",
                "992: .balign 4",
                "993: .8byte 990b, 0, 0",
                ".asciz \"heaptape\"",
                concat!(".asciz \"", $probe, "\""),
                ".asciz \"8@{0}\"",
                "994: .balign 4",
                ".popsection",
                in(reg) text.as_ptr(),
                options(att_syntax, readonly, nostack, preserves_flags)
            );
        }
    }};
}

fn main() {
    heaptape!("begin", c"outer");
    for name in [c"one", c"two"] {
        heaptape!("begin", name);
        std::hint::black_box(vec![0_u8; 1000]);
        heaptape!("end", name);
    }
    heaptape!("end", c"outer");
    heaptape!("point", c"done");
}
