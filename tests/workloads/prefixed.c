/* An allocator with prefixed names (-DPREFIX=je_, mi_, tc_) in the executable, with chunks from libc's malloc: two
 * domains, one inside the other; within one domain only the outermost call is an event. */
#include "truth.h"

#define JOIN2(a, b) a##b
#define JOIN(a, b) JOIN2(a, b)
#define TEXT2(a) #a
#define TEXT(a) TEXT2(a)
#define TOY(name) JOIN(PREFIX, name)
#define SYMBOL(name) TEXT(PREFIX) #name

OWN static void *chunk(size_t bytes) {
    void *address = malloc(bytes);
    must(address);
    note_alloc("malloc", bytes);
    return address;
}
#define TOY_CHUNK(bytes) chunk(bytes)
#include "toy_allocator.h"

OWN int main(void) {
    void *kept[40], *a, *b, *c = NULL;
    for (size_t index = 0; index < 40; index++) {
        kept[index] = TOY(malloc)(5000 + index);
        must(kept[index]);
        note_alloc(SYMBOL(malloc), 5000 + index);
    }
    for (size_t index = 0; index < 20; index++) {
        TOY(free)(kept[index]);
        note_free(5000 + index);
    }
    a = TOY(calloc)(3, 777);
    note_alloc(SYMBOL(calloc), 2331);
    a = TOY(realloc)(a, 40000); /* moves: its own malloc and free inside */
    note_realloc(SYMBOL(realloc), 2331, 40000);
    a = TOY(realloc)(a, 39000);
    note_realloc(SYMBOL(realloc), 40000, 39000);
    b = TOY(realloc)(NULL, 901);
    note_alloc(SYMBOL(realloc), 901);
    must(TOY(realloc)(b, 0) == NULL);
    note_realloc_freed(901);
    must(TOY(malloc)(HUGE_BYTES) == NULL);
    note_failed(SYMBOL(malloc), HUGE_BYTES);
    must(TOY(realloc)(a, HUGE_BYTES) == NULL);
    note_realloc_failed(SYMBOL(realloc), 39000, HUGE_BYTES);
    must(TOY(posix_memalign)(&c, 256, 1234) == 0);
    note_alloc(SYMBOL(posix_memalign), 1234);
    must(TOY(posix_memalign)(&c, 3, 1235) == EINVAL);
    note_failed(SYMBOL(posix_memalign), 1235);
    TOY(free)(c);
    note_free(1234);
    b = TOY(aligned_alloc)(128, 1239);
    note_alloc(SYMBOL(aligned_alloc), 1239);
    TOY(free_aligned_sized)(b, 128, 1239);
    note_free(1239);
    b = TOY(malloc)(1249);
    note_alloc(SYMBOL(malloc), 1249);
    TOY(free_sized)(b, 1249);
    note_free(1249);
    t_free(t_malloc(6661), 6661); /* libc directly, in between */
    TOY(free)(a);
    note_free(39000);
    truth_write("prefixed");
    return 0;
}
