/* churn THREADS ROUNDS: allocates as fast as it can, checks what it holds, prints "churned" and exits 0. The target of
 * recorders that are killed, starved of ring space, or run out of disk. */
#include <pthread.h>
#include "truth.h"

static uint64_t rounds;

OWN static void *work(void *argument) {
    size_t number = (size_t)argument;
    unsigned char *held[32] = {0};
    size_t sizes[32] = {0};
    for (uint64_t round = 0; round < rounds; round++) {
        size_t slot = (round * 7 + number) % 32, bytes = 26000 + round % 500;
        if (held[slot]) {
            must(held[slot][0] == (unsigned char)(number + slot));
            free(held[slot]);
            note_free(sizes[slot]);
        }
        held[slot] = malloc(bytes);
        must(held[slot]);
        note_alloc("malloc", bytes);
        held[slot][0] = (unsigned char)(number + slot);
        sizes[slot] = bytes;
    }
    for (int slot = 0; slot < 32; slot++)
        if (held[slot]) {
            free(held[slot]);
            note_free(sizes[slot]);
        }
    return NULL;
}

OWN int main(int count, char **values) {
    pthread_t threads[64];
    int thread_count;
    must(count == 3);
    thread_count = atoi(values[1]);
    rounds = strtoull(values[2], NULL, 10);
    must(thread_count <= 64);
    truth_lists_ops = 0;
    for (size_t index = 1; index < (size_t)thread_count; index++)
        must(pthread_create(&threads[index], NULL, work, (void *)index) == 0);
    work(NULL);
    for (int index = 1; index < thread_count; index++) pthread_join(threads[index], NULL);
    truth_write("churn");
    must(write(1, "churned\n", 8) == 8);
    return 0;
}
