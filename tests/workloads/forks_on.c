/* Forks a child that calls the allocator, says "ready" and waits; both end when their input does. */
#include <sys/wait.h>
#include "truth.h"

OWN int main(void) {
    char byte;
    int status;
    free(malloc(1301));
    pid_t child = fork();
    if (child == 0) {
        for (int round = 0; round < 100; round++) free(malloc(1303));
        must(write(1, "ready\n", 6) == 6 && read(0, &byte, 1) == 0);
        _exit(0);
    }
    must(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return 0;
}
