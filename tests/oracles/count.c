/* An independent counter of libc's allocator, preloaded (LD_PRELOAD): every call that a program or library makes
 * through the public symbols, by the counting rules of heaptape's `info`:
 *   malloc, calloc, the memalign family and realloc(NULL, n) that return a block are one alloc;
 *   a successful realloc of a block is one realloc, neither alloc nor free;
 *   realloc(p, 0) that returns NULL is one free; free(NULL) is nothing; a refused request is one failure;
 *   alloc_bytes sums requested bytes of allocs and new sizes of reallocs;
 *   of nested calls (reallocarray calls realloc) only the outermost counts.
 * The numbers live in a shared mapping of the file $COUNT_OUT.<pid>.<n>, one per process image, so that they are exact
 * to the last call however the process ends (exec, _exit, SIGKILL). A vfork child counts for its parent, whose memory
 * it is; a fork gets a file of its own. With $COUNT_OWN set, calls made from the main program or from a library whose path
 * begins with it are counted a second time, as `own`. The layout is read by tests/src/oracle/preload.rs.
 * Not counted: what libc does with itself past the public symbols (thread caches given back at thread exit). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void __libc_free(void *);

struct counts {
    _Atomic uint64_t alloc_count, free_count, realloc_count, failed_count, alloc_bytes;
};

struct image {
    char magic[8];
    uint32_t pid, parent_pid;
    uint64_t before_constructor_count; /* calls made before this library's constructor: by ld.so and by libc */
    struct counts all, own;
    char executable[256];
};

static struct image *_Atomic image;
static _Atomic int mapping_lock;
static int constructed;
static char own_prefix[512];
static __thread int depth __attribute__((tls_model("initial-exec")));

static void die(const char *why) {
    syscall(SYS_write, 2, why, strlen(why));
    syscall(SYS_write, 2, "\n", 1);
    syscall(SYS_exit_group, 97);
}

/* Reads one variable from the kernel's copy of the environment: the first calls come before libc has its own. */
static int variable(const char *name, char *value, size_t room) {
    static char text[65536];
    size_t length = 0, name_length = strlen(name);
    long file = syscall(SYS_openat, AT_FDCWD, "/proc/self/environ", O_RDONLY | O_CLOEXEC), got;
    if (file < 0) return 0;
    while (length < sizeof text - 1 && (got = syscall(SYS_read, file, text + length, sizeof text - 1 - length)) > 0)
        length += (size_t)got;
    syscall(SYS_close, file);
    text[length] = 0;
    for (char *entry = text; entry < text + length; entry += strlen(entry) + 1)
        if (!strncmp(entry, name, name_length) && entry[name_length] == '=') {
            if (strlen(entry + name_length + 1) >= room) die("count: a variable is too long");
            strcpy(value, entry + name_length + 1);
            return 1;
        }
    return 0;
}

static char *append_number(char *end, unsigned long number) {
    char digits[24];
    int count = 0;
    do digits[count++] = (char)('0' + number % 10);
    while ((number /= 10));
    while (count) *end++ = digits[--count];
    *end = 0;
    return end;
}

static struct image *map_image(void) {
    static char path[1024];
    struct image *made;
    char *end;
    long file = -1, pid = syscall(SYS_getpid), length;
    if (!variable("COUNT_OUT", path, sizeof path - 64)) die("count: COUNT_OUT is not set");
    variable("COUNT_OWN", own_prefix, sizeof own_prefix);
    end = path + strlen(path);
    *end++ = '.';
    end = append_number(end, (unsigned long)pid);
    *end++ = '.';
    for (unsigned long number = 0; file < 0 && number < 10000; number++) {
        append_number(end, number);
        file = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    }
    if (file < 0 || syscall(SYS_ftruncate, file, sizeof *made) != 0) die("count: cannot create its file");
    made = mmap(NULL, sizeof *made, PROT_READ | PROT_WRITE, MAP_SHARED, (int)file, 0);
    if (made == MAP_FAILED) die("count: cannot map its file");
    syscall(SYS_close, file);
    memcpy(made->magic, "htcount1", 8);
    made->pid = (uint32_t)pid;
    made->parent_pid = (uint32_t)syscall(SYS_getppid);
    length = syscall(SYS_readlink, "/proc/self/exe", made->executable, sizeof made->executable - 1);
    if (length < 0) die("count: cannot read /proc/self/exe");
    return made;
}

static struct image *current_image(void) {
    struct image *now = atomic_load(&image);
    if (now) return now;
    while (atomic_exchange(&mapping_lock, 1)) syscall(SYS_sched_yield);
    now = atomic_load(&image);
    if (!now) {
        now = map_image();
        atomic_store(&image, now);
    }
    atomic_store(&mapping_lock, 0);
    return now;
}

/* Whether the call came from the workload itself. */
static int is_own(const void *caller) {
    struct dl_find_object found;
    const char *name;
    if (!own_prefix[0]) return 0;
    if (_dl_find_object((void *)((uintptr_t)caller - 1), &found) != 0) return 0;
    name = found.dlfo_link_map->l_name;
    return !name[0] || !strncmp(name, own_prefix, strlen(own_prefix));
}

static void count_in(struct counts *counts, int allocs, int frees, int reallocs, int failures, uint64_t bytes) {
    if (allocs) atomic_fetch_add_explicit(&counts->alloc_count, 1, memory_order_relaxed);
    if (frees) atomic_fetch_add_explicit(&counts->free_count, 1, memory_order_relaxed);
    if (reallocs) atomic_fetch_add_explicit(&counts->realloc_count, 1, memory_order_relaxed);
    if (failures) atomic_fetch_add_explicit(&counts->failed_count, 1, memory_order_relaxed);
    if (bytes) atomic_fetch_add_explicit(&counts->alloc_bytes, bytes, memory_order_relaxed);
}

static void count(const void *caller, int allocs, int frees, int reallocs, int failures, uint64_t bytes) {
    struct image *to = current_image();
    if (!constructed) to->before_constructor_count++;
    count_in(&to->all, allocs, frees, reallocs, failures, bytes);
    if (is_own(caller)) count_in(&to->own, allocs, frees, reallocs, failures, bytes);
}

static void count_alloc(const void *caller, const void *block, size_t bytes) {
    int saved = errno;
    if (block)
        count(caller, 1, 0, 0, 0, bytes);
    else
        count(caller, 0, 0, 0, 1, 0);
    errno = saved;
}

static void count_realloc(const void *caller, const void *old, const void *block, size_t bytes) {
    int saved = errno;
    if (!old)
        count_alloc(caller, block, bytes);
    else if (block)
        count(caller, 0, 0, 1, 0, bytes);
    else if (bytes == 0)
        count(caller, 0, 1, 0, 0, 0);
    else
        count(caller, 0, 0, 0, 1, 0);
    errno = saved;
}

/* The next definition of a function that libc does not export under a second name. Finding it allocates nothing. */
#define NEXT(name)                                                                                                     \
    static __typeof__(name) *_Atomic next;                                                                             \
    if (!next) {                                                                                                       \
        next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name);                                                            \
        if (!next) die("count: no next " #name);                                                                       \
    }
#define CALLER __builtin_return_address(0)

void *malloc(size_t bytes) {
    void *block;
    depth++;
    block = __libc_malloc(bytes);
    if (--depth == 0) count_alloc(CALLER, block, bytes);
    return block;
}

void *calloc(size_t number, size_t bytes) {
    void *block;
    depth++;
    block = __libc_calloc(number, bytes);
    if (--depth == 0) count_alloc(CALLER, block, number * bytes);
    return block;
}

void *realloc(void *old, size_t bytes) {
    void *block;
    depth++;
    block = __libc_realloc(old, bytes);
    if (--depth == 0) count_realloc(CALLER, old, block, bytes);
    return block;
}

void free(void *block) {
    if (block && depth == 0) {
        int saved = errno;
        count(CALLER, 0, 1, 0, 0, 0);
        errno = saved;
    }
    depth++;
    __libc_free(block);
    depth--;
}

extern void *reallocarray(void *, size_t, size_t);
void *reallocarray(void *old, size_t number, size_t bytes) {
    NEXT(reallocarray);
    void *block;
    size_t all;
    depth++;
    block = next(old, number, bytes);
    if (--depth == 0) count_realloc(CALLER, old, block, __builtin_mul_overflow(number, bytes, &all) ? SIZE_MAX : all);
    return block;
}

extern int posix_memalign(void **, size_t, size_t);
int posix_memalign(void **out, size_t alignment, size_t bytes) {
    NEXT(posix_memalign);
    int status;
    depth++;
    status = next(out, alignment, bytes);
    if (--depth == 0) count_alloc(CALLER, status == 0 ? *out : NULL, bytes);
    return status;
}

extern void *memalign(size_t, size_t);
void *memalign(size_t alignment, size_t bytes) {
    NEXT(memalign);
    void *block;
    depth++;
    block = next(alignment, bytes);
    if (--depth == 0) count_alloc(CALLER, block, bytes);
    return block;
}

extern void *aligned_alloc(size_t, size_t);
void *aligned_alloc(size_t alignment, size_t bytes) {
    NEXT(aligned_alloc);
    void *block;
    depth++;
    block = next(alignment, bytes);
    if (--depth == 0) count_alloc(CALLER, block, bytes);
    return block;
}

extern void *valloc(size_t);
void *valloc(size_t bytes) {
    NEXT(valloc);
    void *block;
    depth++;
    block = next(bytes);
    if (--depth == 0) count_alloc(CALLER, block, bytes);
    return block;
}

extern void *pvalloc(size_t);
void *pvalloc(size_t bytes) {
    NEXT(pvalloc);
    void *block;
    depth++;
    block = next(bytes);
    if (--depth == 0) count_alloc(CALLER, block, bytes);
    return block;
}

static void in_child(void) {
    struct image *inherited = atomic_load(&image);
    atomic_store(&image, map_image());
    if (inherited) munmap(inherited, sizeof *inherited);
}

__attribute__((constructor)) static void begin(void) {
    current_image();
    constructed = 1;
    if (pthread_atfork(NULL, NULL, in_child) != 0) die("count: cannot follow forks");
}
