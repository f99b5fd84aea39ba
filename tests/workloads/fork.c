/* fork without exec: the child frees what it inherited, allocates for itself and forks again; the parent's heap is
 * untouched by all of it. Afterwards a storm of short-lived children. */
#include <sys/wait.h>
#include "truth.h"

#define STORM 24

OWN static void wait_for(pid_t child) {
    int status;
    must(waitpid(child, &status, 0) == child);
    must(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

OWN static void grandchild(void *inherited) {
    truth_after_fork();
    free(inherited);
    note_free_inherited(1409);
    (void)t_malloc(1601);
    truth_write("grandchild");
    _exit(0);
}

OWN static void child(void *first, void *second, void *third) {
    pid_t pid;
    void *own;
    truth_after_fork();
    free(first);
    note_free_inherited(1201);
    own = t_malloc(1301);
    third = realloc(third, 2411); /* inherited: dies here, the new block is the child's own */
    must(third);
    note_realloc_inherited("realloc", 1409, 2411);
    pid = fork();
    if (pid == 0) {
        truth_after_fork();
        t_free(t_malloc(1511), 1511);
        free(second);
        note_free_inherited(1303);
        free(own);
        note_free_inherited(1301);
        truth_write("grandchild");
        _exit(0);
    }
    wait_for(pid);
    t_free(own, 1301);
    truth_write("child");
    _exit(0);
}

OWN int main(void) {
    void *first = t_malloc(1201), *second = t_malloc(1303), *third = t_malloc(1409);
    pid_t pid = fork(), storm[STORM];
    if (pid == 0) child(first, second, third);
    wait_for(pid);
    pid = fork();
    if (pid == 0) grandchild(third);
    wait_for(pid);
    for (int index = 0; index < STORM; index++) {
        storm[index] = fork();
        if (storm[index] == 0) {
            truth_after_fork();
            void *own = t_malloc(1700 + (size_t)index);
            free(second);
            note_free_inherited(1303);
            if (index % 2) t_free(own, 1700 + (size_t)index);
            truth_write("storm");
            _exit(0);
        }
    }
    for (int index = 0; index < STORM; index++) wait_for(storm[index]);
    t_free(first, 1201);
    t_free(second, 1303);
    t_free(third, 1409);
    truth_write("fork");
    return 0;
}
