/* Threads that end with full caches: libc frees every cached chunk a second time through its own free. The program's
 * own calls are known exactly; each exiting thread holds CACHED chunks. */
#include <pthread.h>
#include "truth.h"

#define THREADS 16
#define CLASSES 8
#define PER_CLASS 7

OWN static void *work(void *argument) {
    void *blocks[CLASSES][PER_CLASS];
    (void)argument;
    for (size_t class = 0; class < CLASSES; class++)
        for (int index = 0; index < PER_CLASS; index++) blocks[class][index] = t_malloc(100 + class * 100);
    for (size_t class = 0; class < CLASSES; class++)
        for (int index = 0; index < PER_CLASS; index++) t_free(blocks[class][index], 100 + class * 100);
    return NULL;
}

OWN int main(void) {
    for (int number = 0; number < THREADS; number++) {
        pthread_t thread;
        must(pthread_create(&thread, NULL, work, NULL) == 0);
        pthread_join(thread, NULL);
    }
    truth_fact("cached_chunk_count", THREADS * CLASSES * PER_CLASS);
    truth_fact("exited_thread_count", THREADS);
    truth_write("thread_exit");
    return 0;
}
