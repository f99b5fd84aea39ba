/* Blocks born in one thread and freed, or moved by realloc, in another. */
#include <pthread.h>
#include <sched.h>
#include "truth.h"

#define PAIRS 3
#define BLOCKS 20000
#define RING 256

struct channel {
    void *block[RING];
    size_t bytes[RING];
    uint64_t head, tail;
};
static struct channel channels[PAIRS];

OWN static void *produce(void *argument) {
    struct channel *to = argument;
    for (uint64_t index = 0; index < BLOCKS; index++) {
        size_t bytes = 16 + index % 2500;
        while (index - __atomic_load_n(&to->tail, __ATOMIC_ACQUIRE) >= RING) sched_yield();
        to->block[index % RING] = t_malloc(bytes);
        to->bytes[index % RING] = bytes;
        __atomic_store_n(&to->head, index + 1, __ATOMIC_RELEASE);
    }
    return NULL;
}

OWN static void *consume(void *argument) {
    struct channel *from = argument;
    for (uint64_t index = 0; index < BLOCKS; index++) {
        while (__atomic_load_n(&from->head, __ATOMIC_ACQUIRE) <= index) sched_yield();
        void *block = from->block[index % RING];
        size_t bytes = from->bytes[index % RING];
        __atomic_store_n(&from->tail, index + 1, __ATOMIC_RELEASE);
        if (index % 3 == 0) {
            block = t_realloc(block, bytes, bytes * 3);
            bytes *= 3;
        }
        t_free(block, bytes);
    }
    return NULL;
}

OWN int main(void) {
    pthread_t threads[2 * PAIRS];
    truth_lists_ops = 0;
    for (int pair = 0; pair < PAIRS; pair++) {
        must(pthread_create(&threads[2 * pair], NULL, produce, &channels[pair]) == 0);
        must(pthread_create(&threads[2 * pair + 1], NULL, consume, &channels[pair]) == 0);
    }
    for (int index = 0; index < 2 * PAIRS; index++) pthread_join(threads[index], NULL);
    truth_write("crossfree");
    return 0;
}
