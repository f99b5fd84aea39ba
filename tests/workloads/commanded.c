/* A program that others command, for attaching: `commanded THREADS`. It allocates PRE blocks before it says "ready" and
 * then obeys one-letter commands from standard input, answering each with a line:
 *   w  work: WORK rounds of known calls in the main thread
 *   o  frees OLD of the blocks from the beginning
 *   r  reallocs OLD of the blocks from the beginning
 *   f  a forked child does LEAF known calls and exits
 *   q  checks every remaining block's content and exits 0
 * The other threads allocate and free all the time, each checking its blocks' content. */
#include <pthread.h>
#include <sys/wait.h>
#include <time.h>
#include "truth.h"

#define PRE 400
#define OLD 50
#define WORK 1000

static volatile int stop;
static uint64_t early_sleeps;

OWN static void *background(void *argument) {
    size_t number = (size_t)argument;
    while (!stop) {
        unsigned char *block = malloc(19001 + number);
        must(block);
        memset(block, (int)number, 19001 + number);
        struct timespec wait = {0, 50000};
        nanosleep(&wait, NULL);
        for (size_t index = 0; index < 19001 + number; index += 100) must(block[index] == number);
        free(block);
    }
    return NULL;
}

OWN static void answer(const char *text) {
    must(write(1, text, strlen(text)) == (ssize_t)strlen(text));
}

OWN int main(int count, char **values) {
    static unsigned char *blocks[PRE];
    static size_t bytes[PRE];
    pthread_t threads[64];
    int thread_count = count > 1 ? atoi(values[1]) : 4, next = 0;
    must(thread_count <= 64);
    truth_lists_ops = 0;
    for (int index = 0; index < PRE; index++) {
        bytes[index] = 20011 + (size_t)index;
        blocks[index] = malloc(bytes[index]);
        must(blocks[index]);
        memset(blocks[index], index & 255, bytes[index]);
    }
    for (size_t index = 0; index < (size_t)thread_count; index++)
        must(pthread_create(&threads[index], NULL, background, (void *)index) == 0);
    answer("ready\n");
    for (;;) {
        char command;
        ssize_t length = read(0, &command, 1);
        if (length < 0 && errno == EINTR) {
            early_sleeps++;
            continue;
        }
        if (length != 1 || command == 'q') break;
        if (command == 'w') {
            for (size_t round = 0; round < WORK; round++) {
                void *block = t_malloc(21001 + round);
                block = t_realloc(block, 21001 + round, 22001 + round);
                if (round % 2) t_free(block, 22001 + round);
            }
        } else if (command == 'o') {
            for (int index = 0; index < OLD; index++, next++) {
                free(blocks[next]);
                blocks[next] = NULL;
            }
        } else if (command == 'r') {
            for (int index = 0; index < OLD; index++, next++) {
                blocks[next] = realloc(blocks[next], 24001 + (size_t)next);
                must(blocks[next]);
            }
        } else if (command == 'f') {
            pid_t child = fork();
            int status;
            if (child == 0) {
                for (int index = 0; index < 100; index++) free(malloc(25000 + (size_t)index));
                _exit(0);
            }
            must(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
        } else {
            continue;
        }
        answer("done\n");
    }
    stop = 1;
    for (int index = 0; index < thread_count; index++) pthread_join(threads[index], NULL);
    for (int index = 0; index < PRE; index++)
        for (size_t place = 0; blocks[index] && place < bytes[index] && place < 20000; place++)
            must(blocks[index][place] == (index & 255));
    truth_fact("read_eintr", early_sleeps);
    truth_write("commanded");
    answer("bye\n");
    return 0;
}
