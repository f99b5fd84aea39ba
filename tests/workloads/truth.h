/* Planted truth: every workload notes, beside each call of an allocator, what that call must look like in a trace, and
 * writes the notes as JSON lines to the file $TRUTH. Nothing here allocates: storage is static or mapped, output is
 * write(2). One line per process image:
 *   {"kind":"process","pid":..,"image":"..","alloc_count":..,...}
 * and one line per thread that noted anything:
 *   {"kind":"thread","pid":..,"tid":..,"complete":true,"alloc_count":..,...,"ops":["malloc 4097","free 4097"]}
 * `ops` is the exact order of that thread's own calls; "complete" is false when there were too many to list.
 * Not responsible for calls that libc makes on its own behalf: the reader keeps only calls made from workload code. */
#ifndef TRUTH_H
#define TRUTH_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef __cplusplus
#define TRUTH_ZERO {}
extern "C" {
#else
#define TRUTH_ZERO {0}
#endif

/* In a static program libc shares the module with the workload: its own code is then told by this section. */
#define OWN __attribute__((section("own_text"), noinline, unused))
#define TRUTH_THREADS 192
#define TRUTH_OPS_BYTES (256 * 1024)
#define HUGE_BYTES ((size_t)PTRDIFF_MAX - 4096 * 3)

extern char __executable_start[];
extern char __start_own_text[] __attribute__((weak));
extern char __stop_own_text[] __attribute__((weak));

struct tally {
    uint64_t alloc_count, free_count, realloc_count, failed_count, alloc_bytes, inherited_free_count;
    int64_t live_count, live_bytes;
};

struct noted_thread {
    int tid;
    int complete;
    struct tally tally;
    char *ops;
    size_t ops_used;
};

static struct noted_thread truth_threads[TRUTH_THREADS];
static int truth_thread_count;
static int truth_lists_ops = 1;
static __thread struct noted_thread *truth_me;

OWN static void truth_die(const char *why) {
    (void)!write(2, why, strlen(why));
    (void)!write(2, "\n", 1);
    _exit(99);
}

/* The workload itself checks that the allocator did what it plans to be recorded: a broken plan is exit status 99. */
#define must(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) truth_die("workload plan broken: " #condition);                                              \
    } while (0)

OWN static struct noted_thread *truth_thread(void) {
    if (!truth_me) {
        int index = __atomic_fetch_add(&truth_thread_count, 1, __ATOMIC_RELAXED);
        must(index < TRUTH_THREADS);
        truth_me = &truth_threads[index];
        truth_me->tid = (int)syscall(SYS_gettid);
        truth_me->complete = truth_lists_ops;
        if (truth_lists_ops) {
            truth_me->ops = (char *)mmap(0, TRUTH_OPS_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            must(truth_me->ops != MAP_FAILED);
        }
    }
    return truth_me;
}

OWN static void truth_op(const char *what, int sizes, size_t first, size_t second) {
    struct noted_thread *me = truth_thread();
    char text[160];
    int length;
    if (!me->complete) return;
    if (sizes == 2)
        length = snprintf(text, sizeof text, "%s\"%s %zu %zu\"", me->ops_used ? "," : "", what, first, second);
    else if (sizes == 1)
        length = snprintf(text, sizeof text, "%s\"%s %zu\"", me->ops_used ? "," : "", what, first);
    else
        length = snprintf(text, sizeof text, "%s\"%s *\"", me->ops_used ? "," : "", what);
    if (me->ops_used + (size_t)length >= TRUTH_OPS_BYTES) {
        me->complete = 0;
        return;
    }
    memcpy(me->ops + me->ops_used, text, (size_t)length);
    me->ops_used += (size_t)length;
}

OWN static void note_alloc(const char *symbol, size_t bytes) {
    struct tally *t = &truth_thread()->tally;
    t->alloc_count++;
    t->alloc_bytes += bytes;
    t->live_count++;
    t->live_bytes += (int64_t)bytes;
    truth_op(symbol, 1, bytes, 0);
}

/* A request that must have returned no block. `bytes` 0 means: the size has no value (count * size overflowed). */
OWN static void note_failed(const char *symbol, size_t bytes) {
    char text[64];
    truth_thread()->tally.failed_count++;
    snprintf(text, sizeof text, "fail %s", symbol);
    truth_op(text, bytes != 0, bytes, 0);
}

OWN static void note_free(size_t bytes) {
    struct tally *t = &truth_thread()->tally;
    t->free_count++;
    t->live_count--;
    t->live_bytes -= (int64_t)bytes;
    truth_op("free", 1, bytes, 0);
}

/* A free of a block that was born in the forking parent. */
OWN static void note_free_inherited(size_t bytes) {
    struct tally *t = &truth_thread()->tally;
    t->free_count++;
    t->inherited_free_count++;
    truth_op("free", 1, bytes, 0);
}

OWN static void note_realloc(const char *symbol, size_t old_bytes, size_t bytes) {
    struct tally *t = &truth_thread()->tally;
    t->realloc_count++;
    t->alloc_bytes += bytes;
    t->live_bytes += (int64_t)bytes - (int64_t)old_bytes;
    truth_op(symbol, 2, old_bytes, bytes);
}

/* The old block was born in the forking parent. */
OWN static void note_realloc_inherited(const char *symbol, size_t old_bytes, size_t bytes) {
    struct tally *t = &truth_thread()->tally;
    t->realloc_count++;
    t->alloc_bytes += bytes;
    t->live_count++;
    t->live_bytes += (int64_t)bytes;
    truth_op(symbol, 2, old_bytes, bytes);
}

OWN static void note_realloc_failed(const char *symbol, size_t old_bytes, size_t bytes) {
    char text[64];
    truth_thread()->tally.failed_count++;
    snprintf(text, sizeof text, "fail %s", symbol);
    if (bytes)
        truth_op(text, 2, old_bytes, bytes);
    else
        truth_op(text, 0, 0, 0);
}

OWN static void note_realloc_freed(size_t old_bytes) {
    struct tally *t = &truth_thread()->tally;
    t->free_count++;
    t->live_count--;
    t->live_bytes -= (int64_t)old_bytes;
    truth_op("realloc-free", 1, old_bytes, 0);
}

/* The four everyday calls together with their notes. */
OWN static void *t_malloc(size_t bytes) {
    void *block = malloc(bytes);
    must(block);
    note_alloc("malloc", bytes);
    return block;
}

OWN static void *t_calloc(size_t count, size_t bytes) {
    void *block = calloc(count, bytes);
    must(block);
    note_alloc("calloc", count * bytes);
    return block;
}

OWN static void *t_realloc(void *old, size_t old_bytes, size_t bytes) {
    void *block = realloc(old, bytes);
    must(block);
    if (old)
        note_realloc("realloc", old_bytes, bytes);
    else
        note_alloc("realloc", bytes);
    return block;
}

OWN static void t_free(void *block, size_t bytes) {
    free(block);
    note_free(bytes);
}

/* Call in a forked child first of all: what follows belongs to the child; what it inherited is not its own. */
OWN static void truth_after_fork(void) {
    memset(truth_threads, 0, sizeof truth_threads);
    truth_thread_count = 0;
    truth_me = 0;
}

/* One line, one write: processes that end at once must not mix their lines. */
OWN static void truth_append(int file, const char *text, size_t length) {
    must(write(file, text, length) == (ssize_t)length);
}

OWN static int truth_counts(char *text, size_t room, const struct tally *t) {
    return snprintf(text, room,
                    "\"alloc_count\":%lu,\"free_count\":%lu,\"realloc_count\":%lu,\"failed_count\":%lu,\"alloc_bytes\":%lu,"
                    "\"inherited_free_count\":%lu,\"live_count\":%ld,\"live_bytes\":%ld",
                    t->alloc_count, t->free_count, t->realloc_count, t->failed_count, t->alloc_bytes,
                    t->inherited_free_count, t->live_count, t->live_bytes);
}

/* Where code of the workload stands, as an ELF address: of use in static programs only. */
OWN static uint64_t truth_elf_address(const char *place) {
    int fixed = __executable_start[16] == 2; /* ET_EXEC: loaded where it was linked */
    return !place ? 0 : fixed ? (uint64_t)place : (uint64_t)(place - __executable_start);
}

/* `slack` is how many calls may be under way beside the noted ones when the process ends (exit in a signal handler). */
OWN static void truth_write_with_slack(const char *image, int slack) {
    const char *path = getenv("TRUTH");
    struct tally all = TRUTH_ZERO;
    char text[1024], counts[512], *line;
    int file, index, length, count = truth_thread_count;
    if (!path) return;
    line = (char *)mmap(0, TRUTH_OPS_BYTES + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(line != MAP_FAILED);
    file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    must(file >= 0);
    for (index = 0; index < count; index++) {
        struct noted_thread *thread = &truth_threads[index];
        const struct tally *t = &thread->tally;
        all.alloc_count += t->alloc_count;
        all.free_count += t->free_count;
        all.realloc_count += t->realloc_count;
        all.failed_count += t->failed_count;
        all.alloc_bytes += t->alloc_bytes;
        all.inherited_free_count += t->inherited_free_count;
        all.live_count += t->live_count;
        all.live_bytes += t->live_bytes;
        truth_counts(counts, sizeof counts, t);
        length = snprintf(line, 4000, "{\"kind\":\"thread\",\"pid\":%d,\"tid\":%d,\"complete\":%s,%s,\"ops\":[",
                          (int)getpid(), thread->tid, thread->complete ? "true" : "false", counts);
        if (thread->complete) {
            memcpy(line + length, thread->ops, thread->ops_used);
            length += (int)thread->ops_used;
        }
        memcpy(line + length, "]}\n", 3);
        truth_append(file, line, (size_t)length + 3);
    }
    truth_counts(counts, sizeof counts, &all);
    length = snprintf(text, sizeof text,
                      "{\"kind\":\"process\",\"pid\":%d,\"image\":\"%s\",\"slack\":%d,\"own_start\":%lu,\"own_stop\":%lu,%s}\n",
                      (int)getpid(), image, slack, truth_elf_address(__start_own_text),
                      truth_elf_address(__stop_own_text), counts);
    truth_append(file, text, (size_t)length);
    close(file);
    munmap(line, TRUTH_OPS_BYTES + 4096);
}

OWN static void truth_write(const char *image) { truth_write_with_slack(image, 0); }

/* A fact beside the counts, checked by the test that knows its name. */
OWN static void truth_fact(const char *name, uint64_t value) {
    const char *path = getenv("TRUTH");
    char text[256];
    int file, length;
    if (!path) return;
    file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    must(file >= 0);
    length = snprintf(text, sizeof text, "{\"kind\":\"fact\",\"pid\":%d,\"name\":\"%s\",\"value\":%lu}\n", (int)getpid(), name, value);
    truth_append(file, text, (size_t)length);
    close(file);
}

#ifdef __cplusplus
}
#endif
#endif
