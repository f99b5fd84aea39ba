/* dlmopen PLUGIN: a library in a namespace of its own, with a second copy of libc and so a second heap. */
#include <dlfcn.h>
#include "truth.h"

OWN int main(int count, char **values) {
    must(count == 2);
    for (int round = 0; round < 3; round++) {
        void *library = dlmopen(LM_ID_NEWLM, values[1], RTLD_NOW | RTLD_LOCAL), *block;
        must(library);
        note_alloc("malloc", 14009); /* its constructor, from the second libc */
        void *(*make)(size_t) = (void *(*)(size_t))dlsym(library, "plugin_make");
        void (*drop)(void *) = (void (*)(void *))dlsym(library, "plugin_drop");
        must(make && drop);
        for (size_t index = 0; index < 50; index++) {
            block = make(34001 + index);
            note_alloc("malloc", 34001 + index);
            t_free(t_malloc(34101), 34101);
            drop(block);
            note_free(34001 + index);
        }
        must(dlclose(library) == 0);
        note_free(14009);
    }
    truth_write("dlmopen");
    return 0;
}
