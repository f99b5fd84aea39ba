/* Obstacks without arenas: see `obstack.h`. */
#include <config.h>
#include "obstack.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include "arena_log.h"

/* Room for the growing object, and for the list of objects. Only what is touched takes memory. */
#define BUFFER_BYTES ((size_t)16 << 20)
#define LIST_BYTES ((size_t)64 << 20)

static void exhausted(void) __attribute__((noreturn));
static void exhausted(void) {
    fputs("memory exhausted\n", stderr);
    exit(EXIT_FAILURE);
}

void (*obstack_alloc_failed_handler)(void) __attribute__((noreturn)) = exhausted;

void no_more_room(void) { obstack_alloc_failed_handler(); }

static void *reserve(size_t size) {
    void *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) no_more_room();
    return memory;
}

void begin_objects(struct obstack *obstack) {
    obstack->object_base = obstack->next_free = reserve(BUFFER_BYTES);
    obstack->chunk_limit = obstack->object_base + BUFFER_BYTES;
    obstack->objects = reserve(LIST_BYTES);
    obstack->object_count = 0;
    obstack->number = log_open("obstack");
}

/* The growing object becomes one of its own. */
void *finish_object(struct obstack *obstack) {
    size_t size = obstack_object_size(obstack);
    struct obstack_object *object = &obstack->objects[obstack->object_count++];
    if ((char *)(object + 1) > (char *)obstack->objects + LIST_BYTES) no_more_room();
    object->memory = malloc(size ? size : 1);
    if (!object->memory) no_more_room();
    memcpy(object->memory, obstack->object_base, size);
    object->number = log_birth(obstack->number, size ? size : 1);
    obstack->next_free = obstack->object_base;
    return object->memory;
}

/* Frees an object and all later ones; without an object, the obstack. */
void free_objects(struct obstack *obstack, void *first) {
    size_t kept = obstack->object_count;
    obstack->next_free = obstack->object_base;
    if (!first) {
        kept = 0;
        log_close(obstack->number);
    } else if (first != obstack->object_base) {
        do
            if (!kept) abort();
        while (obstack->objects[--kept].memory != first);
        log_cut_back(obstack->number, obstack->objects[kept].number);
    }
    while (obstack->object_count > kept) {
        struct obstack_object *object = &obstack->objects[--obstack->object_count];
        log_death(object->number);
        free(object->memory);
    }
    if (!first) {
        munmap(obstack->object_base, BUFFER_BYTES);
        munmap(obstack->objects, LIST_BYTES);
    }
}
