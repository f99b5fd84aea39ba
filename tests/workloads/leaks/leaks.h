/* Shared by the leak cases in C and C++: functions that stay functions, allocation wrappers as compilers have them, and
 * the choice of one case by name. What each case leaves behind stands in truth.toml. */
#ifndef LEAKS_H
#define LEAKS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OWN __attribute__((noinline)) static
#define MAYBE_OWN __attribute__((noinline, unused)) static

/* No allocator of a 64-bit process grants this. */
#define HUGE_BYTES ((size_t)PTRDIFF_MAX - 4096)

/* The compiler must take the block for used from here on. */
static inline void used(void *block) {
    __asm__ volatile("" : : "r"(block) : "memory");
}

/* Hides a number from the optimiser. */
static inline size_t opaque(size_t number) {
    __asm__ volatile("" : "+r"(number));
    return number;
}

MAYBE_OWN void *xmalloc(size_t bytes) {
    void *block = malloc(bytes);
    if (!block)
        abort();
    memset(block, 0x5a, bytes);
    return block;
}

MAYBE_OWN void *xcalloc(size_t count, size_t bytes) {
    void *block = calloc(count, bytes);
    if (!block)
        abort();
    used(block);
    return block;
}

MAYBE_OWN void *xrealloc(void *old, size_t bytes) {
    void *block = realloc(old, bytes);
    if (!block)
        abort();
    used(block);
    return block;
}

MAYBE_OWN char *xstrdup(const char *text) {
    char *copy = (char *)xmalloc(strlen(text) + 1);
    strcpy(copy, text);
    return copy;
}

struct leak_case {
    const char *name;
    void (*run)(void);
};

/* Overwrites what returned functions left on the stack, so that leak checkers find no stale pointers there. */
MAYBE_OWN void scrub_stack(void) {
    volatile char dead[16384];
    for (size_t i = 0; i < sizeof dead; i++)
        dead[i] = 0;
}

MAYBE_OWN int run_named(const struct leak_case *cases, size_t count, const char *name) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(cases[i].name, name) == 0) {
            cases[i].run();
            scrub_stack();
            return 0;
        }
    return 2;
}

/* For cases with a pause: how long, and whether to end there. */
static const char *second_argument;

#define LEAK_MAIN(...)                                                                                                 \
    static const struct leak_case leak_cases[] = {__VA_ARGS__};                                                        \
    int main(int argc, char **argv) {                                                                                  \
        if (argc < 2) {                                                                                                \
            for (size_t i = 0; i < sizeof leak_cases / sizeof *leak_cases; i++)                                        \
                puts(leak_cases[i].name);                                                                              \
            return 2;                                                                                                  \
        }                                                                                                              \
        second_argument = argc > 2 ? argv[2] : "";                                                                     \
        return run_named(leak_cases, sizeof leak_cases / sizeof *leak_cases, argv[1]);                                 \
    }

#endif
