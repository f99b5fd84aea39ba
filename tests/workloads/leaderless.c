/* The main thread ends first (a zombie leader), three others work on for a while and end the process. With an argument they work until
 * standard input ends. */
#include <pthread.h>
#include "truth.h"

#define WORKERS 3
static int left = WORKERS;
static int waits;

OWN static void *work(void *argument) {
    size_t bytes = 33001 + (size_t)argument;
    for (int round = 0; round < 2000; round++) t_free(t_malloc(bytes), bytes);
    if (waits) {
        char byte;
        while (read(0, &byte, 1) == 1) {
            for (int round = 0; round < 100; round++) t_free(t_malloc(bytes), bytes);
            (void)!write(1, "done\n", 5);
        }
    }
    if (__atomic_sub_fetch(&left, 1, __ATOMIC_SEQ_CST) == 0) {
        truth_write("leaderless");
        _exit(0);
    }
    for (;;) pause();
    return NULL;
}

OWN int main(int count, char **values) {
    pthread_t thread;
    (void)values;
    waits = count > 1;
    truth_lists_ops = 0;
    (void)truth_thread();
    for (size_t index = 0; index < WORKERS; index++) must(pthread_create(&thread, NULL, work, (void *)index) == 0);
    if (waits) (void)!write(1, "ready\n", 6);
    pthread_exit(NULL);
}
