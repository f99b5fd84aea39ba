/* Preloaded by `check`: writes where each block was born and where it died to the file HEAPTAPE_DEATHS, one line per
 * event. An oracle that shares nothing with the recorder: calls are intercepted by name, stacks come from backtrace().
 *
 *   base ADDRESS             where the executable is loaded
 *   + BLOCK SIZE | PC PC ..  a block appears (malloc, calloc, realloc, aligned forms)
 *   - BLOCK | PC PC ..       a block goes (free, realloc) */
#define _GNU_SOURCE
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static int out = -1;
static __thread int inside __attribute__((tls_model("initial-exec")));

static void note(char kind, void *block, size_t size) {
    char line[2048];
    void *pcs[64];
    int length, depth;
    if (out < 0 || inside || !block)
        return;
    inside = 1;
    length = kind == '+' ? sprintf(line, "+ %p %zu |", block, size) : sprintf(line, "- %p |", block);
    depth = backtrace(pcs, 64);
    for (int i = 0; i < depth; i++)
        length += sprintf(line + length, " %p", pcs[i]);
    line[length++] = '\n';
    if (write(out, line, (size_t)length) != length)
        abort();
    inside = 0;
}

static int first_object(struct dl_phdr_info *info, size_t size, void *unused) {
    (void)size, (void)unused;
    dprintf(out, "base %#lx\n", (unsigned long)info->dlpi_addr);
    return 1;
}

__attribute__((constructor)) static void start(void) {
    void *pcs[4];
    const char *path = getenv("HEAPTAPE_DEATHS");
    backtrace(pcs, 4); /* loads the unwinder */
    if (!path)
        return;
    out = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    if (out >= 0)
        dl_iterate_phdr(first_object, NULL);
}

/* A death is written before its address can be reused, a birth before anybody else knows the address. A realloc alone
 * can be overtaken, where another thread is given the old address at once: no case does that across threads. */
void *malloc(size_t size) {
    void *block = __libc_malloc(size);
    note('+', block, size);
    return block;
}

void *calloc(size_t count, size_t size) {
    void *block = __libc_calloc(count, size);
    note('+', block, count * size);
    return block;
}

void free(void *block) {
    note('-', block, 0);
    __libc_free(block);
}

void *realloc(void *old, size_t size) {
    void *block = __libc_realloc(old, size);
    if (block || (old && size == 0)) {
        note('-', old, 0);
        note('+', block, size);
    }
    return block;
}

int posix_memalign(void **place, size_t alignment, size_t size) {
    void *block = __libc_memalign(alignment, size);
    note('+', block, size);
    *place = block;
    return block ? 0 : 12;
}

void *aligned_alloc(size_t alignment, size_t size) {
    void *block = __libc_memalign(alignment, size);
    note('+', block, size);
    return block;
}
