/* A small but real allocator under any names: define TOY(name) first. Its calloc calls its malloc, its realloc calls
 * its malloc and free, its posix_memalign calls its memalign: one call of the program is one event, the outermost.
 * Chunks come from TOY_CHUNK(bytes). TOY_ENTER(), if defined, runs inside every malloc while the call is pending. */
#ifndef TOY_CHUNK_BYTES
#define TOY_CHUNK_BYTES ((size_t)1 << 16)
#endif
#ifndef TOY_ENTER
#define TOY_ENTER()
#endif
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define TOY_FUNCTION __attribute__((noinline, visibility("default")))
#ifdef __cplusplus
extern "C" {
#endif

struct toy_block {
    size_t bytes; /* room for the caller */
    struct toy_block *next;
};

static struct toy_block *toy_free_list[64];
static char *toy_chunk;
static size_t toy_room;
static int toy_lock;

static int toy_class(size_t bytes) { return 64 - __builtin_clzl(bytes | 15); }

static void toy_acquire(void) {
    while (__atomic_exchange_n(&toy_lock, 1, __ATOMIC_ACQUIRE)) __builtin_ia32_pause();
}

static void toy_release(void) { __atomic_store_n(&toy_lock, 0, __ATOMIC_RELEASE); }

TOY_FUNCTION void *TOY(malloc)(size_t bytes) {
    struct toy_block *block;
    int class_index;
    TOY_ENTER();
    if (bytes > (size_t)PTRDIFF_MAX / 4) {
        errno = ENOMEM;
        return NULL;
    }
    class_index = toy_class(bytes);
    toy_acquire();
    block = toy_free_list[class_index];
    if (block) {
        toy_free_list[class_index] = block->next;
    } else {
        size_t room = ((size_t)1 << class_index), whole = room + sizeof *block;
        if (whole > toy_room) {
            toy_room = whole > TOY_CHUNK_BYTES ? whole : TOY_CHUNK_BYTES;
            toy_chunk = (char *)TOY_CHUNK(toy_room);
        }
        block = (struct toy_block *)toy_chunk;
        toy_chunk += whole;
        toy_room -= whole;
        block->bytes = room;
    }
    toy_release();
    return block + 1;
}

static void toy_put(struct toy_block *block) {
    int class_index = toy_class(block->bytes - 1);
    toy_acquire();
    block->next = toy_free_list[class_index];
    toy_free_list[class_index] = block;
    toy_release();
}

TOY_FUNCTION void TOY(free)(void *address) {
    struct toy_block *block = (struct toy_block *)address - 1;
    if (!address) return;
    if (block->bytes == 0) return; /* aligned: given back never, but dead for the caller */
    toy_put(block);
}

TOY_FUNCTION void *TOY(calloc)(size_t count, size_t bytes) {
    size_t all;
    void *address;
    if (__builtin_mul_overflow(count, bytes, &all)) {
        errno = ENOMEM;
        return NULL;
    }
    address = TOY(malloc)(all);
    if (address) memset(address, 0, all);
    return address;
}

TOY_FUNCTION void *TOY(realloc)(void *old, size_t bytes) {
    struct toy_block *block = (struct toy_block *)old - 1;
    void *address;
    if (!old) return TOY(malloc)(bytes);
    if (bytes == 0) {
        TOY(free)(old);
        return NULL;
    }
    if (block->bytes >= bytes) return old;
    address = TOY(malloc)(bytes);
    if (!address) return NULL;
    memcpy(address, old, block->bytes);
    TOY(free)(old);
    return address;
}

TOY_FUNCTION void *TOY(memalign)(size_t alignment, size_t bytes) {
    char *raw = (char *)TOY(malloc)(bytes + 2 * alignment);
    uintptr_t place;
    if (!raw) return NULL;
    place = ((uintptr_t)raw + sizeof(struct toy_block) + alignment - 1) / alignment * alignment;
    ((struct toy_block *)place - 1)->bytes = 0;
    return (void *)place;
}

TOY_FUNCTION void *TOY(aligned_alloc)(size_t alignment, size_t bytes) { return TOY(memalign)(alignment, bytes); }

TOY_FUNCTION int TOY(posix_memalign)(void **out, size_t alignment, size_t bytes) {
    void *address;
    if (alignment % sizeof(void *) || (alignment & (alignment - 1)) || alignment == 0) return EINVAL;
    address = TOY(memalign)(alignment, bytes);
    if (!address) return ENOMEM;
    *out = address;
    return 0;
}

/* The frees of C23. Neither calls the plain one: nothing but its own call tells of the death. */
TOY_FUNCTION void TOY(free_sized)(void *address, size_t bytes) {
    struct toy_block *block = (struct toy_block *)address - 1;
    if (!address) return;
    if (block->bytes < bytes) __builtin_trap();
    toy_put(block);
}

TOY_FUNCTION void TOY(free_aligned_sized)(void *address, size_t alignment, size_t bytes) {
    if (!address) return;
    if ((uintptr_t)address % alignment || bytes == 0 || ((struct toy_block *)address - 1)->bytes) __builtin_trap();
}
#ifdef __cplusplus
}
#endif
