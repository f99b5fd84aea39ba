/* Random calls, on a stack below that of its signal handler: functions whose frames are found in different ways call
 * each other from two places each. At every malloc and free the program writes down what its stack is: for each of its
 * functions where its call returns to (0 for the innermost), and its canonical frame address.
 *
 * In the file that $TRUTH names: for each event count, then for each function, outermost first, (which, address, CFA),
 * 64 bits each. */
#include <alloca.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#define FRAME __attribute__((noinline, noclone))
#define STAY() __asm__ volatile("" ::: "memory")
#define KEEP(pointer) __asm__ volatile("" : : "r"(pointer) : "memory")

enum { EVENTS = 60000, DEPTH = 26, DEEPEST = 700, HELD = 64 };
enum { RUNS, PLAIN, WIDER, SAVES, DYNAMIC, REALIGNED, LARGE, HUGE, SIGNALS, HANDLER, DEEP, TAKE, DROP };

static struct { uint64_t which, address, cfa; } stack[DEEPEST];
static int depth, events, in_handler;
static FILE *out;
static void *held[HELD];
static int held_count;

static uint64_t state = 88172645463325252u;
static unsigned pick(unsigned bound) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 11) % bound;
}

/* Mostly what was picked at this depth before: calls that differ from those before in one thing are the hard ones. */
static unsigned again(unsigned *last, unsigned bound) {
    if (pick(4) == 0) *last = pick(bound);
    return *last;
}
static unsigned last_deed[DEPTH + 8], last_callee[DEPTH + 8];

#define ENTER(name)                                                                \
    int at = depth++;                                                              \
    if (at > 0) stack[at - 1].address = (uint64_t)__builtin_return_address(0);     \
    stack[at].which = name;                                                        \
    stack[at].address = 0;                                                         \
    stack[at].cfa = (uint64_t)__builtin_dwarf_cfa()
#define LEAVE() depth = at

static void tell(void) {
    uint64_t count = depth;
    fwrite(&count, sizeof count, 1, out);
    fwrite(stack, sizeof stack[0], depth, out);
    events++;
}

FRAME void take(size_t bytes) {
    ENTER(TAKE);
    tell();
    held[held_count++] = malloc(bytes);
    STAY();
    LEAVE();
}
FRAME void drop(void) {
    ENTER(DROP);
    tell();
    free(held[--held_count]);
    STAY();
    LEAVE();
}
__attribute__((always_inline)) static inline void act(void) { if (held_count > HELD / 2 || (held_count > 0 && pick(2))) drop(); else take(1 + pick(4000)); }

__attribute__((always_inline)) static inline void go(void);
/* What each function does: some events of its own, some calls, each from one of two places. */
#define BODY()                                                                     \
    for (int left = "\1\1\1\1\1\2\4\0"[pick(8)]; left > 0 && events < EVENTS; left--) {                \
        switch (again(&last_deed[depth], 5)) {                                                         \
        case 0: take(1 + pick(100)); if (held_count > HELD / 2) drop(); break;     \
        case 1: act(); break;                                                      \
        case 2: go(); break;                                                       \
        default: go(); STAY(); break;                                              \
        }                                                                          \
    }                                                                              \
    STAY()

FRAME void plain(void) { ENTER(PLAIN); BODY(); LEAVE(); }
/* A longer frame. What frames have room for is never written: there stand return addresses of calls long gone. */
FRAME void wider(void) { char room[24]; ENTER(WIDER); KEEP(room); BODY(); KEEP(room); LEAVE(); }
/* rbp among others, for values. */
FRAME void saves(int a, int b, int c, int d, int e, int f) {
    ENTER(SAVES);
    BODY();
    __asm__ volatile("" : : "r"(a), "r"(b), "r"(c), "r"(d), "r"(e), "r"(f) : "rbp");
    LEAVE();
}
FRAME void dynamic(int count) {
    ENTER(DYNAMIC);
    char *room = alloca(count);
    BODY();
    KEEP(room);
    LEAVE();
}
/* Where a frame is realigned, the builtin for the CFA tells the place it was aligned to; an argument on the stack stands
 * at the CFA. */
struct on_stack { long words[4]; };
FRAME void realigned(int count, struct on_stack first) {
    ENTER(REALIGNED);
    stack[at].cfa = (uint64_t)&first;
    char wide[64] __attribute__((aligned(64)));
    char *room = alloca(count);
    BODY();
    KEEP(wide);
    KEEP(room);
    LEAVE();
}
FRAME void large(void) { char room[7000]; ENTER(LARGE); KEEP(room); BODY(); KEEP(room); LEAVE(); }
FRAME void huge(void) { char room[200000]; ENTER(HUGE); KEEP(room); BODY(); KEEP(room); LEAVE(); }
FRAME void handler(int number) { (void)number; ENTER(HANDLER); BODY(); LEAVE(); }
FRAME void signals(void) { ENTER(SIGNALS); in_handler = 1; raise(SIGUSR1); in_handler = 0; STAY(); LEAVE(); }

__attribute__((always_inline)) static inline void next(void) {
    switch (again(&last_callee[depth], 8)) {
    case 0: plain(); break;
    case 1: wider(); break;
    case 2: saves(1, 2, 3, 4, 5, 6); break;
    case 3: dynamic(16 * pick(4)); break;
    case 4: realigned(16 * pick(4), (struct on_stack){{0}}); break;
    case 5: large(); break;
    case 6: huge(); break;
    default: if (!in_handler) signals(); else saves(6, 5, 4, 3, 2, 1); break;
    }
    STAY();
}
__attribute__((always_inline)) static inline void go(void) { if (depth < DEPTH) next(); }

/* Deeper than a recorder may follow. */
FRAME void deep(int left) {
    ENTER(DEEP);
    if (left > 0) deep(left - 1);
    else for (int deeds = pick(4); deeds >= 0; deeds--) act();
    STAY();
    LEAVE();
}

FRAME void runs(void) {
    ENTER(RUNS);
    while (events < EVENTS) go();
    for (int i = 0; i < 1000; i++) deep(560 + pick(3));
    while (held_count > 0) drop();
    LEAVE();
}

static ucontext_t here, there;
static char low[24 << 20];

int main(void) {
    const char *truth = getenv("TRUTH");
    if (!truth || !(out = fopen(truth, "w"))) return 2;
    setvbuf(out, mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), _IOFBF, 1 << 20);
    size_t room = 16 << 20;
    stack_t high = {.ss_size = room, .ss_sp = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)};
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    if (sigaltstack(&high, NULL) || sigaction(SIGUSR1, &action, NULL)) return 3;
    getcontext(&there);
    there.uc_stack.ss_sp = low;
    there.uc_stack.ss_size = sizeof low;
    there.uc_link = &here;
    makecontext(&there, runs, 0);
    swapcontext(&here, &there);
    return fclose(out) ? 4 : 0;
}
