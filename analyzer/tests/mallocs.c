/* Does allocator calls as told by a file, on several threads that take turns, and writes down where each block lies.
 *
 * A call is five 64-bit words: what (0 malloc, 1 calloc, 2 aligned_alloc, 3 realloc, 4 free, 5 the thread ends), slot, bytes,
 * alignment, thread. Answers are 64-bit addresses, one per call. Nothing but those calls allocates after the first one. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

enum { CALLS = 200000, SLOTS = 200000, THREADS = 4 };
struct call { uint64_t what, slot, bytes, alignment, thread; };

static struct call calls[CALLS];
static uint64_t answers[CALLS];
static void *slots[SLOTS];
static size_t count, at;
static sem_t turns[THREADS];
static pthread_t threads[THREADS];

static uint64_t perform(const struct call *call) {
    void **slot = &slots[call->slot];
    switch (call->what) {
    case 0: *slot = malloc(call->bytes); break;
    case 1: *slot = calloc(1, call->bytes); break;
    case 2: *slot = aligned_alloc(call->alignment, call->bytes); break;
    case 3: *slot = realloc(*slot, call->bytes); break;
    case 4: free(*slot); *slot = NULL; break;
    }
    return (uint64_t)*slot;
}

/* Goes on while the calls are this thread's, then has the next one go on. */
static int go_on(uint64_t self) {
    for (; at < count && calls[at].thread == self; at++) {
        if (calls[at].what == 5) return 0;
        answers[at] = perform(&calls[at]);
    }
    return at < count;
}

static void *work(void *argument) {
    uint64_t self = (uint64_t)argument;
    for (;;) {
        sem_wait(&turns[self]);
        int goes_on = go_on(self);
        sem_post(&turns[0]);
        if (!goes_on) return NULL;
    }
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    int in = open(argv[1], O_RDONLY), out = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC, 0600);
    size_t length = 0;
    for (ssize_t more; (more = read(in, (char *)calls + length, sizeof calls - length)) > 0;) length += (size_t)more;
    count = length / sizeof calls[0];
    for (uint64_t thread = 0; thread < THREADS; thread++) {
        sem_init(&turns[thread], 0, 0);
        if (thread) pthread_create(&threads[thread], NULL, work, (void *)thread);
    }
    while (go_on(0)) {
        uint64_t next = calls[at].thread;
        sem_post(&turns[next]);
        sem_wait(&turns[0]);
        if (at < count && calls[at].what == 5 && calls[at].thread == next) {
            pthread_join(threads[next], NULL);
            at++;
        }
    }
    return write(out, answers, count * sizeof answers[0]) == (ssize_t)(count * sizeof answers[0]) ? 0 : 1;
}
