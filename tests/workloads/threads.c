/* Eight threads, each a long deterministic mix of malloc, calloc, realloc, failed calls and frees. */
#include <pthread.h>
#include "truth.h"

#define THREADS 8
#define ROUNDS 5000
#define SLOTS 64

static pthread_barrier_t together;

OWN static void *work(void *argument) {
    size_t number = (size_t)argument, sizes[SLOTS] = {0};
    void *slots[SLOTS] = {0};
    uint64_t random = 88172645463325252ull + number;
    pthread_barrier_wait(&together);
    for (int round = 0; round < ROUNDS; round++) {
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        size_t slot = (random >> 33) % SLOTS, bytes = (random >> 40) % 3000 + 1;
        switch ((random >> 20) % 5) {
        case 0:
        case 1:
            if (slots[slot]) t_free(slots[slot], sizes[slot]);
            slots[slot] = t_malloc(bytes);
            sizes[slot] = bytes;
            break;
        case 2:
            if (slots[slot]) t_free(slots[slot], sizes[slot]);
            slots[slot] = t_calloc(number + 1, bytes);
            sizes[slot] = bytes * (number + 1);
            break;
        case 3:
            slots[slot] = t_realloc(slots[slot], sizes[slot], bytes * 2);
            sizes[slot] = bytes * 2;
            break;
        default:
            must(malloc(HUGE_BYTES - number) == NULL);
            note_failed("malloc", HUGE_BYTES - number);
        }
    }
    for (size_t slot = 0; slot < SLOTS; slot += 2)
        if (slots[slot]) t_free(slots[slot], sizes[slot]); /* the odd slots stay live */
    return NULL;
}

OWN int main(void) {
    pthread_t threads[THREADS];
    truth_lists_ops = 0;
    pthread_barrier_init(&together, NULL, THREADS);
    for (size_t number = 0; number < THREADS; number++)
        must(pthread_create(&threads[number], NULL, work, (void *)number) == 0);
    for (int number = 0; number < THREADS; number++) pthread_join(threads[number], NULL);
    truth_write("threads");
    return 0;
}
