/* Calls that wait, in several threads, while others allocate: says how often each came back early with EINTR although
 * no signal handler is installed. The kernel restarts most of them after a stop; epoll_wait and semop it does not
 * (signal(7)), which is the reason that a recorder's stops may show there and nowhere else. Sums and data are checked. */
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <time.h>
#include "truth.h"

#define ROUNDS 150
static uint64_t sleep_eintr, read_eintr, poll_eintr, epoll_eintr, condition_early, wait_eintr, short_sleep_count;
static volatile int stop;

OWN static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

OWN static void *sleeps(void *unused) {
    (void)unused;
    for (int round = 0; round < ROUNDS; round++) {
        struct timespec wanted = {0, 4000000};
        uint64_t begin = now_ns();
        if (nanosleep(&wanted, NULL) != 0 && errno == EINTR) sleep_eintr++;
        if (now_ns() - begin < 4000000) short_sleep_count++;
    }
    return NULL;
}

OWN static void *reads(void *argument) {
    int *pipe_ends = argument, sum = 0;
    for (int round = 0; round < ROUNDS; round++) {
        unsigned char byte;
        ssize_t length;
        while ((length = read(pipe_ends[0], &byte, 1)) < 0 && errno == EINTR) read_eintr++;
        must(length == 1);
        sum += byte;
    }
    must(sum == ROUNDS * (ROUNDS - 1) / 2);
    return NULL;
}

OWN static void *writes(void *argument) {
    int *pipe_ends = argument;
    for (int round = 0; round < ROUNDS; round++) {
        unsigned char byte = (unsigned char)round;
        struct timespec wait = {0, 3000000};
        nanosleep(&wait, NULL);
        must(write(pipe_ends[1], &byte, 1) == 1);
    }
    return NULL;
}

OWN static void *polls(void *unused) {
    (void)unused;
    for (int round = 0; round < ROUNDS; round++)
        if (poll(NULL, 0, 4) < 0 && errno == EINTR) poll_eintr++;
    return NULL;
}

OWN static void *epolls(void *unused) {
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    (void)unused;
    must(epoll >= 0);
    for (int round = 0; round < ROUNDS; round++) {
        struct epoll_event event;
        if (epoll_wait(epoll, &event, 1, 4) < 0 && errno == EINTR) epoll_eintr++;
    }
    close(epoll);
    return NULL;
}

OWN static void *conditions(void *unused) {
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
    (void)unused;
    for (int round = 0; round < ROUNDS; round++) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 4000000;
        if (until.tv_nsec >= 1000000000) {
            until.tv_nsec -= 1000000000;
            until.tv_sec++;
        }
        pthread_mutex_lock(&mutex);
        if (pthread_cond_timedwait(&condition, &mutex, &until) != ETIMEDOUT) condition_early++;
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

OWN static void *children(void *unused) {
    (void)unused;
    for (int round = 0; round < ROUNDS / 10; round++) {
        int status;
        pid_t child = fork(), got;
        if (child == 0) {
            struct timespec wait = {0, 10000000};
            nanosleep(&wait, NULL);
            _exit(round);
        }
        while ((got = waitpid(child, &status, 0)) < 0 && errno == EINTR) wait_eintr++;
        must(got == child && WIFEXITED(status) && WEXITSTATUS(status) == round);
    }
    return NULL;
}

OWN static void *allocates(void *unused) {
    (void)unused;
    while (!stop) t_free(t_malloc(18013), 18013);
    return NULL;
}

OWN int main(void) {
    int pipe_ends[2];
    void *(*work[])(void *) = {sleeps, reads, writes, polls, epolls, conditions, children};
    pthread_t threads[7], allocator;
    truth_lists_ops = 0;
    must(pipe(pipe_ends) == 0);
    must(pthread_create(&allocator, NULL, allocates, NULL) == 0);
    for (int index = 0; index < 7; index++) must(pthread_create(&threads[index], NULL, work[index], pipe_ends) == 0);
    for (int index = 0; index < 7; index++) pthread_join(threads[index], NULL);
    stop = 1;
    pthread_join(allocator, NULL);
    truth_fact("sleep_eintr", sleep_eintr);
    truth_fact("short_sleep_count", short_sleep_count);
    truth_fact("read_eintr", read_eintr);
    truth_fact("poll_eintr", poll_eintr);
    truth_fact("epoll_eintr", epoll_eintr);
    truth_fact("condition_early", condition_early);
    truth_fact("wait_eintr", wait_eintr);
    truth_write("interrupts");
    return 0;
}
