/* Prints what a process can see of how it was started: a recorder must change none of it. No addresses, no ids that
 * differ between two ordinary runs. */
#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include "truth.h"

extern char **environ;

int main(int count, char **values) {
    sigset_t mask;
    struct sigaction action;
    struct rlimit limit;
    cpu_set_t cpus;
    DIR *directory = opendir("/proc/self/fd");
    struct dirent *entry;
    char path[600], target[600];
    for (int index = 0; index < count; index++) printf("argument %d %s\n", index, values[index]);
    for (char **variable = environ; *variable; variable++) printf("environment %s\n", *variable);
    printf("cwd %s\n", getcwd(path, sizeof path));
    must(directory);
    while ((entry = readdir(directory))) {
        int number = atoi(entry->d_name);
        ssize_t length;
        if (entry->d_name[0] == '.' || number == dirfd(directory)) continue;
        snprintf(path, sizeof path, "/proc/self/fd/%d", number);
        length = readlink(path, target, sizeof target - 1);
        target[length > 0 ? length : 0] = 0;
        /* inode numbers of pipes and sockets differ from run to run */
        if (strchr(target, ':')) *strchr(target, ':') = 0;
        printf("fd %d %s flags %x %x\n", number, target, fcntl(number, F_GETFD), fcntl(number, F_GETFL));
    }
    closedir(directory);
    sigprocmask(SIG_SETMASK, NULL, &mask);
    for (int number = 1; number < 65; number++) {
        if (number == 32 || number == 33) continue;
        sigaction(number, NULL, &action);
        if (sigismember(&mask, number)) printf("blocked %d\n", number);
        if (action.sa_handler == SIG_IGN) printf("ignored %d\n", number);
    }
    for (int kind = 0; kind < RLIM_NLIMITS; kind++) {
        getrlimit((__rlimit_resource_t)kind, &limit);
        printf("limit %d %lx %lx\n", kind, (unsigned long)limit.rlim_cur, (unsigned long)limit.rlim_max);
    }
    sched_getaffinity(0, sizeof cpus, &cpus);
    printf("cpus %d scheduler %d nice %d\n", CPU_COUNT(&cpus), sched_getscheduler(0), getpriority(PRIO_PROCESS, 0));
    printf("personality %x dumpable %d no-new-privileges %d death-signal ", personality(0xffffffff),
           prctl(PR_GET_DUMPABLE), prctl(PR_GET_NO_NEW_PRIVS));
    int death_signal = -1;
    prctl(PR_GET_PDEATHSIG, &death_signal);
    printf("%d subreaper ", death_signal);
    int subreaper = -1;
    prctl(PR_GET_CHILD_SUBREAPER, &subreaper);
    printf("%d\n", subreaper);
    printf("umask %o uid %d %d gid %d %d\n", umask(022), getuid(), geteuid(), getgid(), getegid());
    printf("group leader %d session leader %d terminal %d %d %d\n", getpgid(0) == getpid(), getsid(0) == getpid(), isatty(0),
           isatty(1), isatty(2));
    FILE *oom = fopen("/proc/self/oom_score_adj", "r");
    int score = 12345;
    must(oom && fscanf(oom, "%d", &score) == 1);
    fclose(oom);
    printf("oom %d stdin-first-byte %d\n", score, getchar());
    return 0;
}
