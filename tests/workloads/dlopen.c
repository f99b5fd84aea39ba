/* dlopen PLUGIN PLUGIN_JE: opens, uses and closes a library several times, then one that brings an allocator. */
#include <dlfcn.h>
#include "truth.h"

OWN static void *symbol(void *library, const char *name) {
    void *address = dlsym(library, name);
    must(address);
    return address;
}

OWN static void use_plugin(const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL), *block;
    must(library);
    note_alloc("malloc", 14009);
    void *(*make)(size_t) = (void *(*)(size_t))symbol(library, "plugin_make");
    void (*keep)(size_t) = (void (*)(size_t))symbol(library, "plugin_keep");
    void (*drop)(void *) = (void (*)(void *))symbol(library, "plugin_drop");
    block = make(14011);
    note_alloc("malloc", 14011);
    keep(14029);
    note_alloc("realloc", 14029);
    keep(14033);
    note_realloc("realloc", 14029, 14033);
    drop(block);
    note_free(14011);
    block = make(14051);
    note_alloc("malloc", 14051);
    t_free(t_malloc(14057), 14057);
    must(dlclose(library) == 0);
    note_free(14009);
    note_free(14033);
    t_free(block, 14051);
}

OWN static void use_allocator(const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL), *block, *other;
    must(library);
    void *(*je_malloc)(size_t) = (void *(*)(size_t))symbol(library, "je_malloc");
    void *(*je_calloc)(size_t, size_t) = (void *(*)(size_t, size_t))symbol(library, "je_calloc");
    void *(*je_realloc)(void *, size_t) = (void *(*)(void *, size_t))symbol(library, "je_realloc");
    void (*je_free)(void *) = (void (*)(void *))symbol(library, "je_free");
    for (size_t index = 0; index < 30; index++) {
        block = je_malloc(15013 + index);
        note_alloc("je_malloc", 15013 + index);
        other = je_calloc(2, 7517);
        note_alloc("je_calloc", 15034);
        block = je_realloc(block, 31013);
        note_realloc("je_realloc", 15013 + index, 31013);
        t_free(t_malloc(15031), 15031);
        je_free(block);
        note_free(31013);
        if (index % 2) {
            je_free(other);
            note_free(15034);
        }
    }
    must(je_malloc(HUGE_BYTES) == NULL);
    note_failed("je_malloc", HUGE_BYTES);
    must(dlclose(library) == 0);
    /* Nobody comes back to where it was. */
    char *page = (char *)((uintptr_t)je_malloc & ~(uintptr_t)4095);
    must(mmap(page, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == page);
}

OWN int main(int count, char **values) {
    must(count == 3);
    for (int round = 0; round < 5; round++) use_plugin(values[1]);
    use_allocator(values[2]);
    use_plugin(values[1]);
    use_allocator(values[2]);
    truth_write("dlopen");
    return 0;
}
