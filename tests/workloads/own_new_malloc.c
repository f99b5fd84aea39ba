/* The C half of `own_new`: malloc and its family under their real names, compiled with -fexceptions, because what
 * runs inside (`own_new_hook`) may throw through it. */
#include <stdlib.h>
#include <sys/mman.h>

extern void own_new_hook(void);

static void *chunk(unsigned long bytes) {
    void *address = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED) abort();
    return address;
}
#define TOY(name) name
#define TOY_CHUNK(bytes) chunk(bytes)
#define TOY_ENTER() own_new_hook()
#include "toy_allocator.h"
