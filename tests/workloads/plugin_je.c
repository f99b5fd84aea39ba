/* A library opened at run time that brings its own allocator under je_ names, over mmap. */
#include <sys/mman.h>

static void *chunk(unsigned long bytes) { return mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }
#define TOY(name) je_##name
#define TOY_CHUNK(bytes) chunk(bytes)
#include "toy_allocator.h"
