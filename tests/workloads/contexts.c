/* Two stacks in one thread (makecontext), as rustc's stacker and fibers have: calls on both, interleaved, deeper and
 * shallower, with the second stack above and then below the first in memory. */
#include <ucontext.h>
#include "truth.h"

#define STACK_BYTES ((size_t)256 * 1024)

static ucontext_t main_context, other_context;
static void *shared;

OWN static void deeper(int depth) {
    volatile char room[200];
    room[0] = (char)depth;
    if (depth > 0) {
        deeper(depth - 1);
    } else {
        t_free(t_malloc(16001), 16001);
        swapcontext(&other_context, &main_context);
        t_free(t_calloc(3, 5347), 16041);
    }
    room[1] = room[0];
}

OWN static void fiber(void) {
    for (int round = 0; round < 20; round++) {
        deeper(round);
        shared = t_realloc(shared, 16033, 160333);
        swapcontext(&other_context, &main_context);
        t_free(shared, 160333);
        swapcontext(&other_context, &main_context);
    }
}

OWN int main(void) {
    char *stack = mmap(0, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(stack != MAP_FAILED);
    for (int side = 0; side < 2; side++) {
        getcontext(&other_context);
        other_context.uc_stack.ss_sp = stack;
        other_context.uc_stack.ss_size = STACK_BYTES;
        other_context.uc_link = &main_context;
        makecontext(&other_context, fiber, 0);
        for (int round = 0; round < 20; round++) {
            shared = t_malloc(16033);
            swapcontext(&main_context, &other_context);
            t_free(t_malloc(16057), 16057);
            swapcontext(&main_context, &other_context);
            t_free(t_malloc(16061), 16061);
            swapcontext(&main_context, &other_context);
        }
        swapcontext(&main_context, &other_context); /* lets the fiber end */
    }
    truth_write("contexts");
    return 0;
}
