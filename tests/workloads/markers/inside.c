/* Marked functions inside of an allocator's calls: one called, one jumped to. The allocator is the program's own. */
#include <stddef.h>
#include <string.h>

#define MARKED __attribute__((noinline, noclone, used))

static char pool[1 << 16];
static size_t used;
static volatile long sink;

MARKED void grows(long size) { sink += size; }
MARKED void *serves(size_t size) {
    used += (size + 15) & ~(size_t)15;
    sink++;
    return pool + used - ((size + 15) & ~(size_t)15);
}

__attribute__((noinline)) void *malloc(size_t size) {
    grows((long)size);
    return serves(size);
}
__attribute__((noinline)) void free(void *block) { sink += block != NULL; }
__attribute__((noinline)) void *calloc(size_t count, size_t size) {
    void *block = serves(count * size);
    return memset(block, 0, count * size);
}
__attribute__((noinline)) void *realloc(void *block, size_t size) {
    void *fresh = serves(size);
    return block ? memcpy(fresh, block, size) : fresh;
}

int main(void) {
    void *volatile block = malloc(100);
    free(block);
    block = malloc(200);
    block = realloc(block, 300);
    free(block);
    return 0;
}
