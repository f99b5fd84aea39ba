// Every form of operator new and delete, and the C functions beside them, over whatever allocator is there: each round
// takes other sizes, from the smallest that are told from those of libraries to such as an allocator maps by themselves.
// A request that is refused by an exception is nobody's block and no event.
#include <new>
#include "truth.h"

#define NOTED(symbol, bytes, call)                                                                                     \
    ({                                                                                                                 \
        void *noted = (call);                                                                                          \
        must(noted);                                                                                                   \
        memset(noted, 0x5a, (bytes));                                                                                  \
        note_alloc(symbol, bytes);                                                                                     \
        noted;                                                                                                         \
    })
#define GONE(bytes, call)                                                                                              \
    do {                                                                                                               \
        call;                                                                                                          \
        note_free(bytes);                                                                                              \
    } while (0)

OWN static bool refused(size_t bytes) {
    try {
        operator delete(operator new(bytes));
        return false;
    } catch (const std::bad_alloc &) {
        return true;
    }
}

OWN static void plain(size_t n) {
    void *single = NOTED("_Znwm", n, operator new(n)), *array = NOTED("_Znam", n + 1, operator new[](n + 1));
    void *sized = NOTED("_Znwm", n + 2, operator new(n + 2)), *sizes = NOTED("_Znam", n + 3, operator new[](n + 3));
    GONE(n, operator delete(single));
    GONE(n + 1, operator delete[](array));
    GONE(n + 2, operator delete(sized, n + 2));
    GONE(n + 3, operator delete[](sizes, n + 3));
}

OWN static void aligned(size_t n) {
    const std::align_val_t line{64}, page{4096};
    void *single = NOTED("_ZnwmSt11align_val_t", n, operator new(n, line));
    void *array = NOTED("_ZnamSt11align_val_t", n + 1, operator new[](n + 1, page));
    void *sized = NOTED("_ZnwmSt11align_val_t", n + 2, operator new(n + 2, page));
    void *sizes = NOTED("_ZnamSt11align_val_t", n + 3, operator new[](n + 3, line));
    must((uintptr_t)single % 64 == 0 && (uintptr_t)array % 4096 == 0);
    GONE(n, operator delete(single, line));
    GONE(n + 1, operator delete[](array, page));
    GONE(n + 2, operator delete(sized, n + 2, page));
    GONE(n + 3, operator delete[](sizes, n + 3, line));
}

OWN static void without_exceptions(size_t n, size_t absurd) {
    const std::align_val_t line{64};
    void *single = NOTED("_ZnwmRKSt9nothrow_t", n, operator new(n, std::nothrow));
    void *array = NOTED("_ZnamRKSt9nothrow_t", n + 1, operator new[](n + 1, std::nothrow));
    void *aligned = NOTED("_ZnwmSt11align_val_tRKSt9nothrow_t", n + 2, operator new(n + 2, line, std::nothrow));
    void *both = NOTED("_ZnamSt11align_val_tRKSt9nothrow_t", n + 3, operator new[](n + 3, line, std::nothrow));
    must(!operator new(absurd, std::nothrow));
    note_failed("_ZnwmRKSt9nothrow_t", absurd);
    GONE(n, operator delete(single, std::nothrow));
    GONE(n + 1, operator delete[](array, std::nothrow));
    GONE(n + 2, operator delete(aligned, line, std::nothrow));
    GONE(n + 3, operator delete[](both, line, std::nothrow));
}

OWN static void of_c(size_t n, size_t absurd) {
    void *block = t_malloc(n), *zeroed = t_calloc(3, n);
    block = t_realloc(block, n, 3 * n);
    block = t_realloc(block, 3 * n, n + 5);
    must(!malloc(absurd));
    note_failed("malloc", absurd);
    // What one language's function allocated, another one's frees: no allocator minds.
    GONE(3 * n, operator delete(zeroed));
    t_free(NOTED("_Znwm", n + 6, operator new(n + 6)), n + 6);
    t_free(block, n + 5);
}

// cpp_calls: see above.
int main() {
    void *kept[16] = {}; // freed long after their birth, so that the allocator's caches run full and empty
    size_t kept_bytes[16] = {};
    for (size_t round = 0; round < 200; round++) {
        // Of five sizes three are in reach of every fast path, one is large, one is mapped.
        size_t n = (size_t[]){1601, 2203, 3301, 20011, 600011}[round % 5] + round;
        size_t absurd = HUGE_BYTES - round, place = round * 7 % 16;
        plain(n);
        aligned(n + 10);
        without_exceptions(n + 20, absurd);
        of_c(n + 30, absurd);
        must(refused(absurd));
        operator delete(nullptr);
        operator delete[](nullptr, n);
        if (kept[place]) GONE(kept_bytes[place], operator delete(kept[place], kept_bytes[place]));
        kept_bytes[place] = n + 40;
        kept[place] = NOTED("_Znwm", n + 40, operator new(n + 40));
    }
    truth_write("cpp_calls");
    return 0;
}
