/* Obstacks without arenas, in place of bison's own `lib/obstack.h`: each finished object is a malloc of its own, and what is
 * freed is freed one object after the other. A growing object is built in a buffer of the obstack's that malloc knows nothing
 * of. The interface is GNU's, as far as bison uses it; what each object belongs to goes to a log (`obstack.c`). */
#ifndef _OBSTACK_H
#define _OBSTACK_H 1
#include <stddef.h>
#include <string.h>

struct obstack_object { void *memory; unsigned long number; };

struct obstack {
    char *object_base; /* Begin of the growing object: that of the buffer. */
    char *next_free;   /* Its end. */
    char *chunk_limit; /* End of the buffer. */
    struct obstack_object *objects; /* Finished ones, oldest first. */
    size_t object_count;
    unsigned long number;
};

extern void begin_objects(struct obstack *);
extern void *finish_object(struct obstack *);
extern void free_objects(struct obstack *, void *);
extern void no_more_room(void) __attribute__((noreturn));
extern void (*obstack_alloc_failed_handler)(void) __attribute__((noreturn));

#define obstack_init(h) begin_objects(h)
#define obstack_begin(h, size) begin_objects(h)
#define obstack_specify_allocation(h, size, alignment, chunk_alloc, chunk_free) begin_objects(h)

#define obstack_base(h) ((void *)(h)->object_base)
#define obstack_next_free(h) ((void *)(h)->next_free)
#define obstack_object_size(h) ((size_t)((h)->next_free - (h)->object_base))
#define obstack_room(h) ((size_t)((h)->chunk_limit - (h)->next_free))
#define obstack_empty_p(h) ((h)->object_count == 0 && (h)->next_free == (h)->object_base)

#define obstack_make_room(h, length) ((void)(obstack_room(h) < (size_t)(length) ? no_more_room() : (void)0))
#define obstack_blank_fast(h, length) ((void)((h)->next_free += (length)))
#define obstack_1grow_fast(h, byte) ((void)(*(h)->next_free++ = (byte)))

#define obstack_blank(h, length)                 \
  __extension__({                                \
    struct obstack *o_ = (h);                    \
    size_t length_ = (length);                   \
    obstack_make_room(o_, length_);              \
    obstack_blank_fast(o_, length_);             \
  })
#define obstack_grow(h, where, length)           \
  __extension__({                                \
    struct obstack *o_ = (h);                    \
    size_t length_ = (length);                   \
    obstack_make_room(o_, length_);              \
    memcpy(o_->next_free, where, length_);       \
    obstack_blank_fast(o_, length_);             \
  })
#define obstack_1grow(h, byte)                   \
  __extension__({                                \
    struct obstack *o_ = (h);                    \
    obstack_make_room(o_, 1);                    \
    obstack_1grow_fast(o_, byte);                \
  })
#define obstack_grow0(h, where, length)          \
  __extension__({                                \
    struct obstack *o0_ = (h);                   \
    obstack_grow(o0_, where, length);            \
    obstack_1grow(o0_, 0);                       \
  })
#define obstack_ptr_grow(h, pointer)             \
  __extension__({                                \
    const void *pointer_ = (pointer);            \
    obstack_grow(h, &pointer_, sizeof pointer_); \
  })
#define obstack_finish(h) finish_object(h)
#define obstack_alloc(h, length)                 \
  __extension__({                                \
    struct obstack *h_ = (h);                    \
    obstack_blank(h_, length);                   \
    obstack_finish(h_);                          \
  })
#define obstack_copy(h, where, length)           \
  __extension__({                                \
    struct obstack *h_ = (h);                    \
    obstack_grow(h_, where, length);             \
    obstack_finish(h_);                          \
  })
#define obstack_copy0(h, where, length)          \
  __extension__({                                \
    struct obstack *h_ = (h);                    \
    obstack_grow0(h_, where, length);            \
    obstack_finish(h_);                          \
  })
#define obstack_free(h, object) free_objects(h, (void *)(object))
#endif
