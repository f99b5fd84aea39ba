/* What a program knows of its own arenas, written while it runs: which object it puts into which arena, when arenas are opened and
 * closed, and inside of which activations all that happens. The reader (`tests/src/arenas/log.rs`) works out from it what a
 * program with arenas would have done; nothing here knows of heaptape or depends on it. Include it in one file of a program
 * that is compiled with `-finstrument-functions -fno-inline`, so that each call of each function is seen.
 *
 * The log goes to the file $TRUTH; without it nothing is written. One line per event, in the order in which they happened:
 *
 *   THREAD KEPT FUNCTIONS + OBJECT ARENA BYTES     an object is born; arena 0: none, it stays with malloc
 *   THREAD KEPT FUNCTIONS - OBJECT                 it is freed
 *   THREAD KEPT FUNCTIONS o ARENA NAME             an arena is opened
 *   THREAD KEPT FUNCTIONS c ARENA                  it is closed; its objects are freed next
 *   THREAD KEPT FUNCTIONS r ARENA OBJECT           it is cut back: this object and all later ones are freed next
 *
 * The stack of an event is told by how it differs from that of the thread's event before: KEPT outermost activations have been
 * open all the while, FUNCTIONS have been entered since (commas between, `.` for none), each FUNCTION/CALL: where it begins and where the
 * call of it returns to, as hexadecimal offsets in the file; the latter is missing where another file called it.
 * Numbers of objects and arenas rise. Nothing here allocates: storage is static, output is write(2). */
#ifndef ARENA_LOG_H
#define ARENA_LOG_H
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define UNSEEN __attribute__((no_instrument_function, noinline, unused))
#define LOG_DEPTH 4096

extern char __executable_start[], etext[];

/* The longest text of one frame. */
#define LOG_FRAME ((size_t)36)

struct log_stack {
    int number; /* From 1. */
    int depth;
    int kept; /* Activations that have been open since the thread's last event. */
    struct { char *function, *call; } frames[LOG_DEPTH];
};

static int log_file = -1;
static int log_thread_count;
static unsigned long log_object_count, log_arena_count;
static char log_text[1 << 18];
static size_t log_used;
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static __thread struct log_stack log_stack;

UNSEEN static void log_must(int condition) {
    if (!condition) abort();
}

UNSEEN static void log_flush(void) {
    size_t done = 0;
    while (done < log_used) {
        ssize_t written = write(log_file, log_text + done, log_used - done);
        log_must(written > 0);
        done += (size_t)written;
    }
    log_used = 0;
}

UNSEEN __attribute__((constructor)) static void log_begins(void) {
    const char *path = getenv("TRUTH");
    if (!path) return;
    log_file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    log_must(log_file >= 0);
}

UNSEEN __attribute__((destructor)) static void log_ends(void) {
    if (log_file >= 0) log_flush();
    log_file = -1;
}

UNSEEN void __cyg_profile_func_enter(void *function, void *caller) {
    log_must(log_stack.depth < LOG_DEPTH);
    log_stack.frames[log_stack.depth].function = function;
    log_stack.frames[log_stack.depth++].call = caller;
}

UNSEEN void __cyg_profile_func_exit(void *function, void *caller) {
    (void)caller;
    log_stack.depth--;
    log_must(log_stack.depth >= 0 && log_stack.frames[log_stack.depth].function == function);
    if (log_stack.depth < log_stack.kept) log_stack.kept = log_stack.depth;
}

/* The caller holds the lock. */
UNSEEN static void log_write(const char *format, ...) {
    va_list arguments;
    size_t longest = 256 + LOG_FRAME * (size_t)(log_stack.depth - log_stack.kept);
    int at;
    if (!log_stack.number) log_stack.number = ++log_thread_count;
    if (sizeof log_text - log_used < longest) log_flush();
    log_must(sizeof log_text - log_used >= longest);
    log_used += (size_t)sprintf(log_text + log_used, "%d %d ", log_stack.number, log_stack.kept);
    for (at = log_stack.kept; at < log_stack.depth; at++) {
        char *function = log_stack.frames[at].function, *call = log_stack.frames[at].call;
        log_used += (size_t)sprintf(log_text + log_used, at > log_stack.kept ? ",%lx" : "%lx",
                                    (unsigned long)(function - __executable_start));
        if (call >= __executable_start && call <= etext)
            log_used += (size_t)sprintf(log_text + log_used, "/%lx", (unsigned long)(call - __executable_start));
    }
    if (log_stack.kept == log_stack.depth) log_text[log_used++] = '.';
    log_text[log_used++] = ' ';
    va_start(arguments, format);
    log_used += (size_t)vsprintf(log_text + log_used, format, arguments);
    va_end(arguments);
    log_text[log_used++] = '\n';
    log_stack.kept = log_stack.depth;
}

UNSEEN static unsigned long log_open(const char *name) {
    unsigned long arena;
    if (log_file < 0) return 0;
    pthread_mutex_lock(&log_lock);
    arena = ++log_arena_count;
    log_write("o %lu %s", arena, name);
    pthread_mutex_unlock(&log_lock);
    return arena;
}

UNSEEN static unsigned long log_birth(unsigned long arena, size_t size) {
    unsigned long object;
    if (log_file < 0) return 0;
    pthread_mutex_lock(&log_lock);
    object = ++log_object_count;
    log_write("+ %lu %lu %zu", object, arena, size);
    pthread_mutex_unlock(&log_lock);
    return object;
}

UNSEEN static void log_death(unsigned long object) {
    if (log_file < 0) return;
    pthread_mutex_lock(&log_lock);
    log_write("- %lu", object);
    pthread_mutex_unlock(&log_lock);
}

UNSEEN static void log_close(unsigned long arena) {
    if (log_file < 0) return;
    pthread_mutex_lock(&log_lock);
    log_write("c %lu", arena);
    pthread_mutex_unlock(&log_lock);
}

UNSEEN static void log_cut_back(unsigned long arena, unsigned long object) {
    if (log_file < 0) return;
    pthread_mutex_lock(&log_lock);
    log_write("r %lu %lu", arena, object);
    pthread_mutex_unlock(&log_lock);
}
#endif
