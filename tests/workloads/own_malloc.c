/* A program that defines malloc itself, with the frees of C23, and leaves it by longjmp on demand. Calls left that way are no
 * events and must leave nothing pending: calls made afterwards, from shallower and from deeper stacks, must all be seen
 * as outermost. */
#include <setjmp.h>
#include "truth.h"

static volatile int jump_wanted;
static jmp_buf out;

OWN static void maybe_jump(void) {
    if (jump_wanted) {
        jump_wanted = 0;
        longjmp(out, 1);
    }
}

OWN static void *chunk(size_t bytes) {
    void *address = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(address != MAP_FAILED);
    return address;
}
#define TOY(name) name
#define TOY_CHUNK(bytes) chunk(bytes)
#define TOY_ENTER() maybe_jump()
#include "toy_allocator.h"

/* Calls `what` at the end of `depth` more frames. */
OWN static void deeper(int depth, void (*what)(void)) {
    volatile char room[64 + 16 * 3];
    room[0] = (char)depth;
    if (depth > 0)
        deeper(depth - 1, what);
    else
        what();
    room[1] = room[0];
}

OWN static void one_pair(void) { t_free(t_malloc(1013), 1013); }

OWN static void one_calloc(void) { t_free(t_calloc(2, 1019), 2038); }

OWN static void one_of_known_size(void) {
    free_sized(t_malloc(1061), 1061);
    note_free(1061);
    free_sized(NULL, 7);
}

OWN static void one_aligned_of_known_size(void) {
    void *block = aligned_alloc(64, 1063);
    must(block);
    note_alloc("aligned_alloc", 1063);
    free_aligned_sized(block, 64, 1063);
    note_free(1063);
    free_aligned_sized(NULL, 64, 7);
}

OWN static void jump_from_malloc(void) {
    jump_wanted = 1;
    (void)!malloc(1031);
    truth_die("malloc returned");
}

OWN static void jump_from_calloc(void) { /* two frames of the allocator are left at once */
    jump_wanted = 1;
    (void)!calloc(3, 1033);
    truth_die("calloc returned");
}

OWN static void jump_from_first_realloc(void) {
    jump_wanted = 1;
    (void)!realloc(NULL, 1039);
    truth_die("realloc returned");
}

OWN static void jump_from_realloc(void) {
    void *volatile block = t_malloc(1049);
    jump_wanted = 1;
    (void)!realloc(block, 100000);
    truth_die("realloc returned");
}

OWN static void leave(int depth, void (*how)(void)) {
    if (setjmp(out) == 0) deeper(depth, how);
}

OWN int main(int count, char **values) {
    static void (*const ways[])(void) = {jump_from_malloc, jump_from_calloc, jump_from_first_realloc};
    int with_realloc = count > 1 && !strcmp(values[1], "realloc");
    for (int round = 0; round < 200; round++) {
        one_pair();
        leave(round * 7 % 40, ways[round % 3]);
        if (round % 4 == 0) leave(round * 5 % 60, ways[(round + 1) % 3]);
        if (round % 2)
            one_calloc();
        else
            deeper(round * 11 % 50, one_pair);
        one_of_known_size();
        deeper(round * 13 % 20, one_aligned_of_known_size);
        deeper(round * 3 % 30, round % 5 ? one_pair : one_calloc);
    }
    if (with_realloc) {
        for (int round = 0; round < 20; round++) {
            leave(round, jump_from_realloc);
            one_pair();
        }
    }
    t_free(t_malloc(1051), 1051);
    truth_write("own_malloc");
    return 0;
}
