/* Every entry point of the malloc family once or twice, in each of its outcomes. Single thread, exact order. Built
 * dynamic, static and static-pie. */
#include "truth.h"

OWN static void plain(void) {
    char *a = t_malloc(4097), *b = t_malloc(0), *c = t_calloc(3, 1111);
    t_free(a, 4097);
    t_free(b, 0);
    t_free(c, 3333);
    free(NULL);
    a = t_calloc(0, 17);
    t_free(a, 0);
}

OWN static void reallocs(void) {
    char *a = t_realloc(NULL, 0, 5003), *b;
    a = t_realloc(a, 5003, 5009);
    b = t_malloc(1 << 20); /* keeps the next growth from happening in place */
    a = t_realloc(a, 5009, 3 << 20);
    a = t_realloc(a, 3 << 20, 11);
    t_free(b, 1 << 20);
    must(realloc(a, HUGE_BYTES) == NULL && errno == ENOMEM);
    note_realloc_failed("realloc", 11, HUGE_BYTES);
    a = t_realloc(a, 11, 6007); /* the old block lived on */
    must(realloc(a, HUGE_BYTES) == NULL);
    note_realloc_failed("realloc", 6007, HUGE_BYTES);
    t_free(a, 6007);
    a = t_malloc(7001);
    must(realloc(a, 0) == NULL);
    note_realloc_freed(7001);
    a = t_realloc(NULL, 0, 0);
    t_free(a, 0);
    must(realloc(NULL, HUGE_BYTES) == NULL);
    note_failed("realloc", HUGE_BYTES);
}

OWN static void reallocarrays(void) {
    char *a = reallocarray(NULL, 3, 1009);
    must(a);
    note_alloc("reallocarray", 3027);
    a = reallocarray(a, 5, 1013);
    must(a);
    note_realloc("reallocarray", 3027, 5065);
    must(reallocarray(a, SIZE_MAX / 2, 4) == NULL && errno == ENOMEM);
    note_realloc_failed("reallocarray", 5065, 0);
    must(reallocarray(a, 1, HUGE_BYTES) == NULL);
    note_realloc_failed("reallocarray", 5065, HUGE_BYTES);
    must(reallocarray(NULL, SIZE_MAX / 2, 4) == NULL);
    note_failed("reallocarray", 0);
    t_free(a, 5065);
    a = t_malloc(8009);
    must(reallocarray(a, 0, 8) == NULL);
    note_realloc_freed(8009);
}

OWN static void aligned(void) {
    void *a = NULL, *b, *c, *d, *e, *f = (void *)1;
    must(posix_memalign(&a, 256, 9001) == 0 && ((uintptr_t)a & 255) == 0);
    note_alloc("posix_memalign", 9001);
    b = memalign(512, 9007);
    must(b);
    note_alloc("memalign", 9007);
    c = aligned_alloc(1024, 9011);
    must(c);
    note_alloc("aligned_alloc", 9011);
    d = valloc(9013);
    must(d);
    note_alloc("valloc", 9013);
    e = pvalloc(9029);
    must(e);
    note_alloc("pvalloc", 9029);
    must(posix_memalign(&f, 3, 9041) == EINVAL && f == (void *)1);
    note_failed("posix_memalign", 9041);
    must(posix_memalign(&f, 64, HUGE_BYTES) == ENOMEM && f == (void *)1);
    note_failed("posix_memalign", HUGE_BYTES);
    must(memalign(64, HUGE_BYTES) == NULL);
    note_failed("memalign", HUGE_BYTES);
    c = t_realloc(c, 9011, 9043);
    t_free(e, 9029);
    t_free(d, 9013);
    t_free(c, 9043);
    t_free(b, 9007);
    t_free(a, 9001);
}

OWN static void failures(void) {
    int index;
    void *a = t_malloc(10007);
    must(malloc(HUGE_BYTES) == NULL);
    note_failed("malloc", HUGE_BYTES);
    must(malloc(SIZE_MAX) == NULL);
    note_failed("malloc", SIZE_MAX);
    must(calloc(1, HUGE_BYTES) == NULL);
    note_failed("calloc", HUGE_BYTES);
    must(calloc(SIZE_MAX / 2, 4) == NULL);
    note_failed("calloc", 0);
    for (index = 0; index < 50; index++) {
        must(malloc(HUGE_BYTES - index) == NULL);
        note_failed("malloc", HUGE_BYTES - index);
    }
    must(valloc(HUGE_BYTES) == NULL);
    note_failed("valloc", HUGE_BYTES);
    t_free(a, 10007);
}

OWN int main(void) {
    plain();
    reallocs();
    reallocarrays();
    aligned();
    failures();
    (void)t_malloc(12011); /* live at the end */
    (void)t_calloc(7, 1000);
    truth_write("basic");
    return 0;
}
