/* A library that is opened and closed at run time: allocates in its constructor, in its functions, and frees in its
 * destructor, all through the program's malloc. */
#include <stdlib.h>

static void *from_constructor;
static void *kept;

__attribute__((constructor)) static void begin(void) { from_constructor = malloc(14009); }

__attribute__((destructor)) static void end(void) {
    free(from_constructor);
    free(kept);
}

void *plugin_make(size_t bytes) { return malloc(bytes); }

void plugin_keep(size_t bytes) { kept = realloc(kept, bytes); }

void plugin_drop(void *block) { free(block); }
