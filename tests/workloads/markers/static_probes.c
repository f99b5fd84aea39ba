/* Phases marked by the program itself. */
#include <stdlib.h>
#include "../../../samples/heaptape.h"

static void *volatile kept;

__attribute__((noinline)) static void work(const char *name, int depth) {
    char here[16] = "local";
    HEAPTAPE_BEGIN(name);
    kept = malloc(100 + depth);
    free(kept);
    if (depth > 0) work("inner", depth - 1);
    HEAPTAPE_POINT(here);
    HEAPTAPE_END(name);
}

int main(int count, char **values) {
    const char *const names[] = {"parsing", "printing"};
    for (int round = 0; round < 2; round++) work(names[round], round);
    HEAPTAPE_POINT(count > 1 ? values[1] : "done");
    return 0;
}
