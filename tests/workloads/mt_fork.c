/* Forks out of a program whose other threads allocate all the time. Each child frees a block that another thread had
 * allocated a moment before the fork, and works on its own; the parent frees the same block as well. */
#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>
#include "truth.h"

#define WORKERS 3
#define FORKS 40

static volatile int stop;
static void *_Atomic offered[WORKERS];

OWN static void *work(void *argument) {
    size_t number = (size_t)argument;
    while (!stop) {
        void *expected = NULL, *fresh = t_malloc(28001 + number), *noise;
        if (!__atomic_compare_exchange_n((void **)&offered[number], &expected, fresh, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            t_free(fresh, 28001 + number);
        noise = t_realloc(NULL, 0, 29001);
        noise = t_realloc(noise, 29001, 29003 + number);
        t_free(noise, 29003 + number);
    }
    return NULL;
}

OWN int main(void) {
    pthread_t threads[WORKERS];
    truth_lists_ops = 0;
    for (size_t index = 0; index < WORKERS; index++) must(pthread_create(&threads[index], NULL, work, (void *)index) == 0);
    for (size_t round = 0; round < FORKS; round++) {
        size_t from = round % WORKERS;
        void *block;
        pid_t child;
        int status;
        while (!(block = __atomic_exchange_n((void **)&offered[from], NULL, __ATOMIC_SEQ_CST))) sched_yield();
        child = fork();
        must(child >= 0);
        if (child == 0) {
            truth_after_fork();
            free(block);
            note_free_inherited(28001 + from);
            t_free(t_malloc(28111), 28111);
            (void)t_malloc(28123 + round);
            truth_write("mt_fork-child");
            _exit(0);
        }
        t_free(block, 28001 + from);
        must(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    stop = 1;
    for (int index = 0; index < WORKERS; index++) pthread_join(threads[index], NULL);
    truth_write("mt_fork");
    return 0;
}
