/* Marks phases of a program for heaptape: a nop and a note each, nothing else. They cost nothing until the program is recorded,
 * need no library, and the header may be copied freely.
 *
 *     HEAPTAPE_BEGIN("parsing");          a phase begins on this thread …
 *     HEAPTAPE_END("parsing");            … and ends
 *     HEAPTAPE_POINT("cache is full");    something happened
 *
 * The argument is any expression of type `const char *`; the first 96 bytes of its text are kept. Phases of a thread nest. They are
 * notes of static probes as `<sys/sdt.h>` makes them (provider heaptape; begin, end, point), so perf and bpftrace see them too.
 *
 * The same in Rust, without any crate:
 *
 *     macro_rules! heaptape {
 *         ($probe:literal, $text:expr) => {{
 *             let text: &core::ffi::CStr = $text;
 *             unsafe {
 *                 core::arch::asm!(
 *                     "990: nop",
 *                     ".pushsection .note.stapsdt,\"\",\"note\"",
 *                     ".balign 4",
 *                     ".4byte 992f-991f, 994f-993f, 3",
 *                     "991: .asciz \"stapsdt\"",
 *                     "992: .balign 4",
 *                     "993: .8byte 990b, 0, 0",
 *                     ".asciz \"heaptape\"",
 *                     concat!(".asciz \"", $probe, "\""),
 *                     ".asciz \"8@{0}\"",
 *                     "994: .balign 4",
 *                     ".popsection",
 *                     in(reg) text.as_ptr(),
 *                     options(att_syntax, readonly, nostack, preserves_flags)
 *                 );
 *             }
 *         }};
 *     }
 *     heaptape!("begin", c"parsing");
 */
#ifndef HEAPTAPE_H
#define HEAPTAPE_H

#if defined(__x86_64__) && defined(__ELF__)

#define HEAPTAPE_BEGIN(text) HEAPTAPE_PROBE_("begin", text)
#define HEAPTAPE_END(text) HEAPTAPE_PROBE_("end", text)
#define HEAPTAPE_POINT(text) HEAPTAPE_PROBE_("point", text)

#define HEAPTAPE_PROBE_(probe, text)                                                                                       \
    __asm__ __volatile__("990: nop\n"                                                                                      \
                         ".pushsection .note.stapsdt,\"?\",\"note\"\n"                                                     \
                         ".balign 4\n"                                                                                     \
                         ".4byte 992f-991f, 994f-993f, 3\n"                                                                \
                         "991: .asciz \"stapsdt\"\n"                                                                       \
                         "992: .balign 4\n"                                                                                \
                         "993: .8byte 990b, _.stapsdt.base, 0\n"                                                           \
                         ".asciz \"heaptape\"\n"                                                                           \
                         ".asciz \"" probe "\"\n"                                                                          \
                         ".asciz \"8@%0\"\n"                                                                               \
                         "994: .balign 4\n"                                                                                \
                         ".popsection\n"                                                                                   \
                         ".ifndef _.stapsdt.base\n"                                                                        \
                         ".pushsection .stapsdt.base,\"aG\",\"progbits\",.stapsdt.base,comdat\n"                           \
                         ".weak _.stapsdt.base\n"                                                                          \
                         ".hidden _.stapsdt.base\n"                                                                        \
                         "_.stapsdt.base: .space 1\n"                                                                      \
                         ".size _.stapsdt.base, 1\n"                                                                       \
                         ".popsection\n"                                                                                   \
                         ".endif\n"                                                                                        \
                         :                                                                                                 \
                         : "r"((const char *)(text))                                                                       \
                         : "memory")

#else
#define HEAPTAPE_BEGIN(text) ((void)(text))
#define HEAPTAPE_END(text) ((void)(text))
#define HEAPTAPE_POINT(text) ((void)(text))
#endif

#endif
