/* An allocator to be preloaded: malloc and its family under their own names, over mmap. */
#include <malloc.h>
#include <stdlib.h>
#include <sys/mman.h>

static void *chunk(unsigned long bytes) {
    void *address = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED) abort();
    return address;
}
#define TOY(name) name
#define TOY_CHUNK(bytes) chunk(bytes)
#include "toy_allocator.h"
