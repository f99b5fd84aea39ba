/* Many short-lived threads, up to eight at a time, each with a few known calls; some end by pthread_exit deep down. */
#include <pthread.h>
#include "truth.h"

#define WAVES 20
#define AT_ONCE 8

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct tally all;

/* Thread slots of truth.h are few: these threads add up what they did in one place. */
OWN static void add(uint64_t allocs, uint64_t frees, uint64_t bytes) {
    pthread_mutex_lock(&lock);
    all.alloc_count += allocs;
    all.free_count += frees;
    all.alloc_bytes += bytes;
    pthread_mutex_unlock(&lock);
}

OWN static void *brief(void *argument) {
    size_t bytes = 27001 + (size_t)argument;
    void *block = malloc(bytes);
    must(block);
    free(block);
    block = calloc(2, bytes);
    must(block);
    free(block);
    add(2, 2, 3 * bytes);
    if ((size_t)argument % 2) pthread_exit(NULL);
    return NULL;
}

OWN int main(void) {
    for (size_t wave = 0; wave < WAVES; wave++) {
        pthread_t threads[AT_ONCE];
        for (size_t index = 0; index < AT_ONCE; index++)
            must(pthread_create(&threads[index], NULL, brief, (void *)(wave * AT_ONCE + index)) == 0);
        for (size_t index = 0; index < AT_ONCE; index++) pthread_join(threads[index], NULL);
    }
    truth_lists_ops = 0;
    truth_thread()->tally = all;
    truth_write("thread_storm");
    return 0;
}
