/* Calls whose stacks are known from how they are written. Each block has a size of its own, which names the case.
 * Functions keep their names and their frames: nothing is inlined; what a call returns is used after it, so that it is no
 * jump, except where a jump is the point. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <pthread.h>

#define FRAME __attribute__((noinline, noclone))
#define STAY() __asm__ volatile("" ::: "memory")

#define KEEP(pointer) __asm__ volatile("" : : "r"(pointer) : "memory")

static void *volatile sink;

FRAME void take(size_t bytes) { sink = malloc(bytes); STAY(); free(sink); STAY(); }

/* A plain chain. */
FRAME void plain_c(void) { take(100001); STAY(); }
FRAME void plain_b(void) { plain_c(); STAY(); }
FRAME void plain_a(void) { plain_b(); STAY(); }

/* A frame of a size known only at run time: found by rbp. */
FRAME void dynamic(int count) {
    char *room = __builtin_alloca(count);
    memset(room, 1, count);
    take(100002);
    KEEP(room);
}

/* A stack realigned beyond what the ABI gives. */
FRAME void realigned(int count) {
    char wide[64] __attribute__((aligned(64)));
    char *room = __builtin_alloca(count);
    memset(room, 1, count);
    memset(wide, 1, sizeof wide);
    take(100003);
    KEEP(wide);
    KEEP(room);
}

/* A call that never returns stands last in its function: the return address is one past it. */
static jmp_buf back;
FRAME __attribute__((noreturn)) void leave_for_good(void) { take(100004); longjmp(back, 1); }
FRAME void calls_noreturn(void) { leave_for_good(); }

/* A jump in the place of a call: the caller's frame is gone. */
FRAME void jumped_to(void) { take(100005); STAY(); }
void jumps(void);                     /* cfi.S */
FRAME void before_jump(void) { jumps(); STAY(); }

/* Deep recursion: within the limit, and beyond. */
FRAME void recurse(int depth, size_t bytes) { if (depth == 0) take(bytes); else recurse(depth - 1, bytes); STAY(); }

/* A frame of more than 128 KiB. */
FRAME void huge(void) { char room[300000]; KEEP(room); take(100008); KEEP(room); }

/* Two stacks that are alike from `unmoved` inwards, at the same place, while what the first left behind further out still lies
 * in a frame that nobody wrote to: only rbp tells them apart, which `unmoved` does not save. */
static char *sp_before;
FRAME void unmoved(size_t bytes) {
    char *sp;
    __asm__ volatile("mov %%rsp, %0" : "=r"(sp));
    if (bytes == 100015 && sp != sp_before) abort();
    sp_before = sp;
    take(bytes);
    STAY();
}
FRAME void found_by_rbp(size_t count, size_t bytes) { char *room = __builtin_alloca(count); KEEP(room); unmoved(bytes); KEEP(room); }
FRAME void small_frame(void) { char room[16]; KEEP(room); found_by_rbp(1024, 100014); KEEP(room); }
FRAME void large_frame(void) { char room[16 + 1008]; KEEP(room); found_by_rbp(16, 100015); KEEP(room); }
static void (*volatile ways[])(void) = {small_frame, large_frame, NULL};
/* A loop, so that both return to the same place. */
FRAME void goes_both_ways(void) { for (void (*volatile *way)(void) = ways; *way; way++) (*way)(); STAY(); }

/* A signal handler on a stack of its own, while a leaf function spins. */
static volatile int told;
FRAME void handler_body(void) { take(100009); STAY(); }
FRAME void handler(int number) { (void)number; handler_body(); told = 1; STAY(); }
FRAME void spins(void) { raise(SIGUSR1); while (!told) STAY(); STAY(); }
FRAME void interrupted(void) {
    static char room[64 << 10];
    stack_t stack = {.ss_sp = room, .ss_size = sizeof room};
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    sigaltstack(&stack, NULL);
    sigaction(SIGUSR1, &action, NULL);
    spins();
    STAY();
}

/* A fiber: its stack ends where it was made. */
static ucontext_t here, there;
FRAME void fiber_body(void) { take(100010); STAY(); }
FRAME void fiber(void) { fiber_body(); STAY(); swapcontext(&there, &here); }
FRAME void runs_fiber(void) {
    static char room[64 << 10];
    getcontext(&there);
    there.uc_stack.ss_sp = room;
    there.uc_stack.ss_size = sizeof room;
    there.uc_link = &here;
    makecontext(&there, fiber, 0);
    swapcontext(&here, &there);
    STAY();
}

/* A thread. */
FRAME void thread_body(void) { take(100011); STAY(); }
FRAME void *thread(void *argument) { thread_body(); STAY(); return argument; }

/* Code of no file that calls back: push rbp; mov rbp, rsp; call rdi; pop rbp; ret. */
FRAME void called_back(void) { take(100012); STAY(); }
FRAME void runs_generated(void) {
    static const unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3};
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(page, code, sizeof code);
    mprotect(page, 4096, PROT_READ | PROT_EXEC);
    ((void (*)(void (*)(void)))page)(called_back);
    STAY();
}

/* The same code mapped a second time, behind the dynamic linker's back: known once somebody has looked. */
void calls_it(void (*)(void));        /* cfi.S */
FRAME void called_from_copy(void) { take(100013); STAY(); }
FRAME void maps_code_again(void) {
    char line[512], path[256], rights[8];
    unsigned long start, end, offset;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%lx-%lx %7s %lx %*s %*s %255s", &start, &end, rights, &offset, path) != 5) continue;
        if (rights[2] == 'x' && (unsigned long)calls_it >= start && (unsigned long)calls_it < end) break;
    }
    fclose(maps);
    int file = open(path, O_RDONLY);
    char *copy = mmap(NULL, end - start, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, (off_t)offset);
    close(file);
    void (*again)(void (*)(void)) = (void *)(copy + ((unsigned long)calls_it - start));
    for (int round = 0; round < 50; round++) {
        again(called_from_copy);
        usleep(20000);
    }
    STAY();
}

void through_hand_written(void);      /* cfi.S */

int main(void) {
    pthread_t other;
    plain_a();
    dynamic(getpid() % 7 + 100);
    realigned(getpid() % 7 + 100);
    if (!setjmp(back)) calls_noreturn();
    before_jump();
    recurse(300, 100006);
    recurse(2000, 100007);
    huge();
    goes_both_ways();
    interrupted();
    runs_fiber();
    pthread_create(&other, NULL, thread, NULL);
    pthread_join(other, NULL);
    runs_generated();
    maps_code_again();
    through_hand_written();
    return 0;
}
