/* The program that `spawn` starts: a handful of known calls. */
#include "truth.h"

OWN int main(void) {
    void *a = t_malloc(3203), *b = t_calloc(3, 1103);
    a = t_realloc(a, 3203, 33301);
    t_free(b, 3309);
    (void)a;
    (void)t_malloc(3407);
    truth_write("leaf");
    return 0;
}
