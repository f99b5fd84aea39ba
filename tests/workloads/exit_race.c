/* exit_race HOW: the process ends while seven threads are in the middle of allocating: by _exit, by exec of itself (whose new image
 * makes one pair of calls), or by the last return of main. The truth is noted up to the calls under way. */
#include <pthread.h>
#include "truth.h"

#define THREADS 7
static volatile int stop_noting;

OWN static void *work(void *argument) {
    size_t bytes = 31001 + (size_t)argument;
    for (;;) t_free(t_malloc(bytes), bytes);
    return NULL;
}

OWN int main(int count, char **values) {
    pthread_t thread;
    must(count == 2);
    truth_lists_ops = 0;
    if (!strcmp(values[1], "second")) {
        t_free(t_malloc(31991), 31991);
        truth_write("exit_race-second");
        return 0;
    }
    for (size_t index = 0; index < THREADS; index++)
        must(pthread_create(&thread, NULL, work, (void *)index) == 0);
    usleep(100000);
    /* The threads go on while the truth is written and the process ends: how far nobody can note. The fact says so. */
    truth_write_with_slack("exit_race", 1 << 30);
    if (!strcmp(values[1], "exec")) execl("/proc/self/exe", values[0], "second", NULL);
    if (!strcmp(values[1], "_exit")) _exit(5);
    return 6;
}
