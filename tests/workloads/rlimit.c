/* Allocations that fail because the address space is limited (RLIMIT_AS), and what lives on after them. */
#include <sys/resource.h>
#include "truth.h"

#define BIG ((size_t)4 << 30)

OWN int main(void) {
    struct rlimit limit;
    void *block;
    int round;
    getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = (size_t)1 << 30;
    must(setrlimit(RLIMIT_AS, &limit) == 0);
    block = t_malloc(2003);
    for (round = 0; round < 20; round++) {
        must(malloc(BIG + (size_t)round) == NULL);
        note_failed("malloc", BIG + (size_t)round);
        must(realloc(block, BIG) == NULL);
        note_realloc_failed("realloc", 2003 + (size_t)round, BIG);
        must(calloc(2, BIG) == NULL);
        note_failed("calloc", 2 * BIG);
        block = t_realloc(block, 2003 + (size_t)round, 2004 + (size_t)round);
    }
    t_free(block, 2023);
    truth_write("rlimit");
    return 0;
}
