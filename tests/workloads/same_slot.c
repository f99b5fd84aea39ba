/* Two processes whose ids are 8192 apart (told by the argument) share a place of the recorder's. The one that has it ends while the
 * other is inside a call that goes on to call the allocator again: that stays one event, the outermost. */
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include "truth.h"

static int told[2]; /* a pipe: the second process waits in its call until the first has ended */
static volatile int wait_wanted;

OWN static void maybe_wait(void) {
    char byte;
    if (!wait_wanted) return;
    wait_wanted = 0;
    must(read(told[0], &byte, 1) == 1);
}

OWN static void *chunk(size_t bytes) {
    void *address = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(address != MAP_FAILED);
    return address;
}
#define TOY(name) name
#define TOY_CHUNK(bytes) chunk(bytes)
#define TOY_ENTER() maybe_wait()
#include "toy_allocator.h"

/* A child with an id that differs from `other` by a multiple of `slots`. */
OWN static pid_t fork_beside(pid_t other, pid_t slots) {
    for (int times = -8; times <= 8; times++) {
        pid_t wanted = other + times * slots;
        struct clone_args how = {.exit_signal = SIGCHLD, .set_tid = (uintptr_t)&wanted, .set_tid_size = 1};
        if (times == 0 || wanted <= 300) continue;
        pid_t pid = (pid_t)syscall(SYS_clone3, &how, sizeof how);
        if (pid >= 0) return pid;
    }
    truth_die("no id is free that shares a slot with the first");
    return -1;
}

OWN static void wait_for(pid_t pid) {
    int status;
    must(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

OWN int main(int count, char **values) {
    int end[2], ready[2];
    char byte = 0;
    must(count == 2 && pipe(told) == 0 && pipe(end) == 0 && pipe(ready) == 0);
    pid_t first = fork();
    if (first == 0) {
        truth_after_fork();
        t_free(t_malloc(1301), 1301);
        must(write(ready[1], &byte, 1) == 1 && read(end[0], &byte, 1) == 1);
        truth_write("first");
        _exit(0);
    }
    must(read(ready[0], &byte, 1) == 1);
    pid_t second = fork_beside(first, atoi(values[1]));
    if (second == 0) {
        truth_after_fork();
        void *block = t_malloc(1409);
        must(write(ready[1], &byte, 1) == 1);
        wait_wanted = 1;
        block = t_realloc(block, 1409, 100003);
        t_free(block, 100003);
        block = t_calloc(3, 1511);
        truth_write("second");
        _exit(0);
    }
    must(read(ready[0], &byte, 1) == 1);
    usleep(100000); /* until the second waits in its call */
    must(write(end[1], &byte, 1) == 1);
    wait_for(first);
    usleep(300000); /* until the recorder has heard of that */
    must(write(told[1], &byte, 1) == 1);
    wait_for(second);
    truth_write("same_slot");
    return 0;
}
