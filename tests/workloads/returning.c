/* A block that one thread frees, another gets, and the first frees anew, by way of libc and without a call of the allocator
 * between: two frees. Needs one arena and no caches of threads: GLIBC_TUNABLES. */
#include <pthread.h>
#include "truth.h"

#define ROUNDS 40

static pthread_barrier_t turn;
static FILE *volatile file;
static size_t file_bytes; /* what a FILE takes */

OWN static void *other(void *argument) {
    for (int round = 0; round < ROUNDS; round++) {
        pthread_barrier_wait(&turn);
        file = fopen("/dev/null", "r");
        pthread_barrier_wait(&turn);
    }
    return argument;
}

OWN static void deeper(int depth, void *block) {
    volatile char room[48];
    room[0] = (char)depth;
    if (depth > 0)
        deeper(depth - 1, block);
    else
        t_free(block, file_bytes);
    room[1] = room[0];
}

OWN int main(void) {
    pthread_t thread;
    int same = 0;
    must(pthread_barrier_init(&turn, NULL, 2) == 0);
    file = fopen("/dev/null", "r");
    file_bytes = malloc_usable_size(file);
    must(fclose(file) == 0);
    must(pthread_create(&thread, NULL, other, NULL) == 0);
    for (int round = 0; round < ROUNDS; round++) {
        void *block = t_malloc(file_bytes);
        deeper(ROUNDS, block);
        pthread_barrier_wait(&turn);
        pthread_barrier_wait(&turn);
        same += (void *)file == block;
        must(fclose(file) == 0);
    }
    must(pthread_join(thread, NULL) == 0);
    must(same > ROUNDS / 2); /* at first there are other holes */
    truth_write("returning");
    return 0;
}
