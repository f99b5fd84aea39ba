/* The arenas of the planted compiler, in two builds of one interface. With -DREAL_ARENAS an arena is a list of chunks that objects are
 * bumped out of and that closing gives back. Without, which is the build that is recorded, each object is a malloc of its own
 * and closing frees one after the other, as if somebody had written the compiler without arenas. What belongs where goes to
 * the log in both. */
#ifndef ARENA_H
#define ARENA_H
#include "log.h"

/* In front of each object. */
struct header {
    union {
        struct header *next; /* Of the same arena, older. */
        size_t size; /* Without an arena. */
    };
    unsigned long object;
};

struct chunk { struct chunk *next; };

struct arena {
    int is_open;
    unsigned long number;
    struct header *objects;
    struct chunk *chunks;
    char *free, *end;
};

static inline void must(int condition) {
    if (!condition) abort();
}

static void arena_open(struct arena *arena, const char *name) {
    must(!arena->is_open);
    *arena = (struct arena){.is_open = 1, .number = log_open(name)};
}

#ifdef REAL_ARENAS
#define CHUNK ((size_t)4096)

static struct header *take(struct arena *arena, size_t size) {
    struct header *header;
    size = (size + 15) & ~(size_t)15;
    if (!arena) return malloc(size);
    if ((size_t)(arena->end - arena->free) < size) {
        size_t room = size > CHUNK - 16 ? size : CHUNK - 16;
        struct chunk *chunk = malloc(room + 16);
        must(chunk != 0);
        chunk->next = arena->chunks;
        arena->chunks = chunk;
        arena->free = (char *)chunk + 16;
        arena->end = arena->free + room;
    }
    header = (struct header *)arena->free;
    arena->free += size;
    return header;
}
#endif

/* An object of an arena, or one that stays with malloc. All zero. */
static void *allocate(struct arena *arena, size_t size) {
    struct header *header;
    size += sizeof *header;
#ifdef REAL_ARENAS
    header = take(arena, size);
#else
    header = malloc(size);
#endif
    must(header && (!arena || arena->is_open));
    memset(header, 0, size);
    header->object = log_birth(arena ? arena->number : 0, size);
    if (arena) {
        header->next = arena->objects;
        arena->objects = header;
    } else
        header->size = size;
    return header + 1;
}

/* Gives back an object that has no arena. */
static void discard(void *memory) {
    struct header *header = (struct header *)memory - 1;
    log_death(header->object);
    free(header);
}

/* Resizes an object that has no arena; to the log it stays the same one. */
static void *resize(void *memory, size_t size) {
    struct header *header;
    if (!memory) return allocate(0, size);
    header = realloc((struct header *)memory - 1, size + sizeof *header);
    must(header != 0);
    header->size = size + sizeof *header;
    return header + 1;
}

static void arena_close(struct arena *arena) {
    struct header *header = arena->objects;
    must(arena->is_open);
    log_close(arena->number);
    while (header) {
        struct header *next = header->next;
        log_death(header->object);
#ifndef REAL_ARENAS
        free(header);
#endif
        header = next;
    }
#ifdef REAL_ARENAS
    while (arena->chunks) {
        struct chunk *next = arena->chunks->next;
        free(arena->chunks);
        arena->chunks = next;
    }
#endif
    arena->is_open = 0;
}
#endif
