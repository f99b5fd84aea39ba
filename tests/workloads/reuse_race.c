/* Address reuse as fast as possible between threads: one thread frees, another gets the same address at once; one
 * thread's realloc moves away from an address that another thread gets. Run with
 * GLIBC_TUNABLES=glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1, so that all threads share one free list.
 * The fact cross_reuse_count says how often the race really happened. */
#include <pthread.h>
#include <sched.h>
#include "truth.h"

#define ROUNDS 30000
#define BYTES 3000

static uintptr_t last_freed[4];
static uint64_t cross_reuse_count;
static pthread_barrier_t together;

OWN static void look_for_reuse(int me, void *block) {
    for (int other = 0; other < 4; other++)
        if (other != me && __atomic_load_n(&last_freed[other], __ATOMIC_RELAXED) == (uintptr_t)block)
            __atomic_fetch_add(&cross_reuse_count, 1, __ATOMIC_RELAXED);
}

OWN static void *churn(void *argument) {
    int me = (int)(intptr_t)argument;
    pthread_barrier_wait(&together);
    for (int round = 0; round < ROUNDS; round++) {
        void *block = t_malloc(BYTES);
        look_for_reuse(me, block);
        if (round % 64 == 0) sched_yield();
        __atomic_store_n(&last_freed[me], (uintptr_t)block, __ATOMIC_RELAXED);
        t_free(block, BYTES);
    }
    return NULL;
}

OWN static void *move(void *argument) {
    int me = (int)(intptr_t)argument;
    pthread_barrier_wait(&together);
    for (int round = 0; round < ROUNDS / 2; round++) {
        void *block = t_malloc(BYTES), *moved;
        look_for_reuse(me, block);
        __atomic_store_n(&last_freed[me], (uintptr_t)block, __ATOMIC_RELAXED);
        moved = t_realloc(block, BYTES, 5 * BYTES);
        look_for_reuse(me, moved);
        t_free(moved, 5 * BYTES);
    }
    return NULL;
}

OWN int main(void) {
    pthread_t threads[4];
    truth_lists_ops = 0;
    pthread_barrier_init(&together, NULL, 4);
    for (intptr_t index = 0; index < 4; index++)
        must(pthread_create(&threads[index], NULL, index < 2 ? churn : move, (void *)index) == 0);
    for (int index = 0; index < 4; index++) pthread_join(threads[index], NULL);
    truth_fact("cross_reuse_count", cross_reuse_count);
    truth_write("reuse_race");
    return 0;
}
