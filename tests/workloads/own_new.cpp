// A program that defines malloc, free (own_new_malloc.c) and operator new and delete, the latter with a fast path of
// their own that does not pass through malloc (as jemalloc does in C++ programs); operator new throws std::bad_alloc
// through its frames, and so does malloc when asked to. Everything thrown is caught here: a recorder must neither abort
// the program nor count a block for it.
#include <new>
#include "truth.h"

static volatile int throw_wanted;

extern "C" OWN void own_new_hook() {
    if (throw_wanted) {
        throw_wanted = 0;
        throw std::bad_alloc();
    }
}

// Through a pointer: <stdlib.h> promises that malloc never throws, and the compiler believes it.
static void *(*volatile throwing_malloc)(size_t) = malloc;

static void *cached; // one block of CACHED_BYTES that operator delete kept back
static const size_t CACHED_BYTES = 2003;
static void *cached_kind;

__attribute__((noinline)) void *operator new(size_t bytes) {
    if (bytes == CACHED_BYTES && cached) {
        void *block = cached;
        cached = nullptr;
        cached_kind = block;
        return block;
    }
    void *block = malloc(bytes);
    if (!block) throw std::bad_alloc();
    if (bytes == CACHED_BYTES) cached_kind = block;
    return block;
}

__attribute__((noinline)) void operator delete(void *block) noexcept {
    if (block && block == cached_kind && !cached) {
        cached = block;
        return;
    }
    free(block);
}

__attribute__((noinline)) void operator delete(void *block, size_t) noexcept { operator delete(block); }

OWN static void pair(size_t bytes) {
    void *block = operator new(bytes);
    note_alloc("_Znwm", bytes);
    operator delete(block);
    note_free(bytes);
}

OWN static int refused(size_t bytes) {
    try {
        operator delete(operator new(bytes));
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}

OWN static int thrown_through_malloc(size_t bytes) {
    throw_wanted = 1;
    try {
        free(throwing_malloc(bytes));
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}

OWN static int thrown_through_new(size_t bytes) {
    throw_wanted = 1;
    try {
        operator delete(operator new(bytes));
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}

OWN static void deeper(int depth) {
    volatile char room[80];
    room[0] = (char)depth;
    if (depth > 0)
        deeper(depth - 1);
    else
        must(thrown_through_malloc(1103));
    room[1] = room[0];
}

// own_new new|malloc: through what exceptions pass.
int main(int count, char **values) {
    must(count == 2);
    bool through_malloc = !strcmp(values[1], "malloc");
    for (int round = 0; round < 100; round++) {
        pair(2003);
        t_free(t_malloc(2011), 2011);
        must(refused(HUGE_BYTES - (size_t)round));
        if (through_malloc) {
            deeper(round % 30);
            must(thrown_through_new(1109));
        }
        pair(2017);
        pair(2003);
        t_free(t_calloc(2, 2027), 4054);
    }
    truth_write("own_new");
    return 0;
}
