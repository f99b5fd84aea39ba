/* New images, every way there is: spawn MODE LEAF, where LEAF is the workload `leaf`. */
#include <pthread.h>
#include <spawn.h>
#include <sys/wait.h>
#include "truth.h"

extern char **environ;

OWN static void wait_for(pid_t child) {
    int status;
    must(waitpid(child, &status, 0) == child);
    must(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static char *leaf_path;

OWN static void *exec_from_thread(void *unused) {
    char *arguments[] = {leaf_path, "thread", NULL};
    (void)unused;
    t_free(t_malloc(2711), 2711);
    truth_write("spawn");
    execve(leaf_path, arguments, environ);
    truth_die("execve failed");
    return NULL;
}

OWN int main(int count, char **values) {
    void *mine = t_malloc(2203), *theirs = NULL;
    char *mode = values[1];
    pid_t pid;
    must(count == 3);
    leaf_path = values[2];
    char *arguments[] = {leaf_path, mode, NULL};
    if (!strcmp(mode, "fork-exec")) {
        pid = fork();
        if (pid == 0) {
            truth_after_fork();
            free(mine);
            note_free_inherited(2203);
            (void)t_malloc(2309);
            truth_write("spawn-child");
            execve(leaf_path, arguments, environ);
            _exit(98);
        }
        wait_for(pid);
    } else if (!strcmp(mode, "vfork-exec")) {
        for (int round = 0; round < 5; round++) {
            pid = vfork();
            if (pid == 0) {
                execve(leaf_path, arguments, environ);
                _exit(98);
            }
            wait_for(pid);
        }
    } else if (!strcmp(mode, "vfork-malloc")) {
        /* The child works in the parent's heap: all of it is the parent's. */
        static void *volatile left_by_child;
        pid = vfork();
        if (pid == 0) {
            t_free(mine, 2203);
            left_by_child = t_malloc(2411);
            t_free(t_malloc(2417), 2417);
            _exit(0);
        }
        wait_for(pid);
        theirs = left_by_child;
        t_free(theirs, 2411);
        mine = t_malloc(2203);
    } else if (!strcmp(mode, "posix_spawn")) {
        for (int round = 0; round < 5; round++) {
            must(posix_spawn(&pid, leaf_path, NULL, NULL, arguments, environ) == 0);
            wait_for(pid);
        }
    } else if (!strcmp(mode, "exec")) {
        truth_write("spawn");
        execve(leaf_path, arguments, environ);
        truth_die("execve failed");
    } else if (!strcmp(mode, "thread-exec")) {
        /* exec from a thread that is not the leader: every thread dies, the new image has the leader's id. */
        pthread_t thread;
        must(pthread_create(&thread, NULL, exec_from_thread, NULL) == 0);
        for (;;) pause();
    } else if (!strcmp(mode, "failed-exec")) {
        pid = fork();
        if (pid == 0) {
            truth_after_fork();
            must(execve("/nonexistent/program", arguments, environ) == -1);
            t_free(t_malloc(2503), 2503);
            truth_write("spawn-child");
            _exit(0);
        }
        wait_for(pid);
        pid = vfork();
        if (pid == 0) {
            execve("/nonexistent/program", arguments, environ);
            _exit(0);
        }
        wait_for(pid);
    } else {
        truth_die("unknown mode");
    }
    t_free(mine, 2203);
    (void)t_malloc(2609);
    truth_write("spawn");
    return 0;
}
