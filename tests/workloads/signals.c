/* signals MODE: signals that meet allocation.
 *   handler      handlers on an alternate stack that allocate, entered from code that allocates
 *   exit         a timer's handler ends the process while the main code allocates; truth within the call under way
 *   kill         the process kills itself with SIGKILL after its last call
 *   abort        the process ends by SIGABRT
 *   stop         raises SIGSTOP on itself; only its child's SIGCONT may resume it */
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include "truth.h"

static volatile sig_atomic_t handled;
static volatile int inside_call;

OWN static void on_user(int number) {
    (void)number;
    t_free(t_malloc(17011), 17011);
    handled++;
}

OWN static void handler_mode(void) {
    stack_t alternate = {.ss_sp = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), .ss_size = 65536};
    struct sigaction action = {.sa_handler = on_user, .sa_flags = SA_ONSTACK};
    must(sigaltstack(&alternate, NULL) == 0);
    must(sigaction(SIGUSR1, &action, NULL) == 0);
    for (int round = 0; round < 100; round++) {
        void *block = t_malloc(17021);
        raise(SIGUSR1); /* between calls, so that malloc is not re-entered */
        block = t_realloc(block, 17021, 17027);
        t_free(block, 17027);
    }
    must(handled == 100);
}

OWN static void on_alarm(int number) {
    (void)number;
    if (truth_thread()->tally.alloc_count < 20000) return;
    truth_write_with_slack("signals", 1);
    _exit(7);
}

OWN static void exit_mode(void) {
    struct sigaction action = {.sa_handler = on_alarm};
    struct itimerval timer = {{0, 5000}, {0, 5000}};
    truth_lists_ops = 0;
    must(sigaction(SIGALRM, &action, NULL) == 0);
    must(setitimer(ITIMER_REAL, &timer, NULL) == 0);
    for (;;) t_free(t_malloc(17033), 17033);
}

OWN static char state_of(pid_t pid) {
    char path[64], text[512], *place;
    int file;
    ssize_t length;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    file = open(path, O_RDONLY);
    must(file >= 0);
    length = read(file, text, sizeof text - 1);
    close(file);
    must(length > 0);
    text[length] = 0;
    place = strrchr(text, ')');
    must(place);
    return place[2];
}

OWN static uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

OWN static void stop_mode(void) {
    uint64_t *continued_ms = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct timespec short_while = {0, 2000000};
    for (int round = 0; round < 3; round++) {
        pid_t parent = getpid(), child;
        *continued_ms = 0;
        t_free(t_malloc(17041), 17041);
        child = fork();
        must(child >= 0);
        if (child == 0) {
            uint64_t stopped_ms;
            while (state_of(parent) != 'T' && state_of(parent) != 't') nanosleep(&short_while, NULL);
            /* Whoever resumes it before this child does has broken the rule. */
            stopped_ms = now_ms();
            while (now_ms() < stopped_ms + 400) {
                char state = state_of(parent);
                if (state != 'T' && state != 't') _exit(3);
                nanosleep(&short_while, NULL);
            }
            __atomic_store_n(continued_ms, now_ms(), __ATOMIC_SEQ_CST);
            kill(parent, SIGCONT);
            _exit(0);
        }
        raise(SIGSTOP);
        must(__atomic_load_n(continued_ms, __ATOMIC_SEQ_CST) != 0);
        int status;
        must(waitpid(child, &status, 0) == child);
        must(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        t_free(t_malloc(17047), 17047);
    }
}

OWN int main(int count, char **values) {
    must(count == 2);
    if (!strcmp(values[1], "handler")) {
        handler_mode();
    } else if (!strcmp(values[1], "exit")) {
        exit_mode();
    } else if (!strcmp(values[1], "stop")) {
        stop_mode();
    } else {
        int fatal = !strcmp(values[1], "kill") ? SIGKILL : SIGABRT;
        for (size_t index = 0; index < 1000; index++) {
            void *block = t_malloc(17053 + index);
            if (index % 3) t_free(block, 17053 + index);
        }
        truth_write("signals");
        signal(SIGABRT, SIG_DFL);
        kill(getpid(), fatal);
        for (;;) pause();
    }
    truth_write("signals");
    return 0;
}
