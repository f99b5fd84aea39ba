# Functions with call frame information written by hand. Each calls `taking`, which calls take(bytes).
    .text
    .macro FUNCTION name
    .globl \name
    .type \name, @function
\name:
    .cfi_startproc
    .endm
    .macro END name
    .cfi_endproc
    .size \name, . - \name
    .endm

FUNCTION through_hand_written
    pushq %rbp
    .cfi_adjust_cfa_offset 8
    .cfi_offset %rbp, -16
    pushq %rbx
    .cfi_adjust_cfa_offset 8
    subq $8, %rsp
    .cfi_adjust_cfa_offset 8
    call by_rbp
    call by_expression
    call rbp_by_expression
    call by_rbx
    call without
    call is_root
    addq $8, %rsp
    .cfi_adjust_cfa_offset -8
    popq %rbx
    .cfi_adjust_cfa_offset -8
    popq %rbp
    .cfi_adjust_cfa_offset -8
    ret
END through_hand_written

FUNCTION calls_it
    subq $8, %rsp
    .cfi_adjust_cfa_offset 8
    call *%rdi
    addq $8, %rsp
    .cfi_adjust_cfa_offset -8
    ret
END calls_it

FUNCTION jumps
    jmp jumped_to
END jumps

# The CFA from rbp, at an odd distance.
FUNCTION by_rbp
    pushq %rbp
    .cfi_adjust_cfa_offset 8
    .cfi_offset %rbp, -16
    leaq -40(%rsp), %rbp
    .cfi_def_cfa %rbp, 56
    subq $80, %rsp
    movl $100021, %edi
    call take
    leaq 40(%rbp), %rsp
    .cfi_def_cfa %rsp, 16
    popq %rbp
    .cfi_adjust_cfa_offset -8
    ret
END by_rbp

# The CFA is in memory at rbp - 8, as in functions that realign their stack.
FUNCTION by_expression
    leaq 8(%rsp), %r10
    .cfi_def_cfa %r10, 0
    andq $-64, %rsp
    pushq -8(%r10)
    pushq %rbp
    .cfi_escape 0x10,0x6,0x2,0x76,0        # rbp: breg6 0
    movq %rsp, %rbp
    pushq %r10
    .cfi_escape 0xf,0x3,0x76,0x78,0x6      # CFA: breg6 -8; deref
    subq $24, %rsp
    movl $100022, %edi
    call take
    addq $24, %rsp
    popq %r10
    .cfi_def_cfa %r10, 0
    popq %rbp
    leaq -8(%r10), %rsp
    .cfi_def_cfa %rsp, 8
    ret
END by_expression

# rbp is saved where an expression says, below rsp + 16.
FUNCTION rbp_by_expression
    subq $24, %rsp
    .cfi_adjust_cfa_offset 24
    movq %rbp, 16(%rsp)
    .cfi_escape 0x10,0x6,0x2,0x77,16       # rbp: breg7 16
    xorl %ebp, %ebp
    movl $100023, %edi
    call take
    movq 16(%rsp), %rbp
    .cfi_restore %rbp
    addq $24, %rsp
    .cfi_adjust_cfa_offset -24
    ret
END rbp_by_expression

# The CFA from a register that no table knows.
FUNCTION by_rbx
    pushq %rbx
    .cfi_adjust_cfa_offset 8
    movq %rsp, %rbx
    .cfi_def_cfa %rbx, 16
    subq $64, %rsp
    movl $100024, %edi
    call take
    movq %rbx, %rsp
    .cfi_def_cfa %rsp, 16
    popq %rbx
    .cfi_adjust_cfa_offset -8
    ret
END by_rbx

# A return address that is undefined: the root.
FUNCTION is_root
    .cfi_undefined %rip
    subq $8, %rsp
    .cfi_adjust_cfa_offset 8
    movl $100026, %edi
    call take
    addq $8, %rsp
    .cfi_adjust_cfa_offset -8
    ret
END is_root

# No information at all.
    .globl without
    .type without, @function
    .p2align 6
    .skip 64, 0x90
without:
    subq $8, %rsp
    movl $100025, %edi
    call take
    addq $8, %rsp
    ret
    .skip 64, 0x90
    .size without, . - without
    .section .note.GNU-stack,"",@progbits
