/* phases MODULES NODES: a compiler whose memory ends with its phases, which only markers tell. All phases do their work in the same
 * functions, called from one place of `main`; what they made is freed there, after these have returned. So no call is as long as a
 * phase, and what a call made ends with this phase or that one: only by phases can blocks be told apart. How many objects end with which,
 * stands in tests/tests/arenas.rs. */
#include <stdio.h>
#include <stdlib.h>

#include "../../../samples/heaptape.h"

#define CALL __attribute__((noinline, noclone))

struct node {
    struct node *next;
    long value[3];
};

static const char *const stages[] = {"parse", "check", "emit"};

CALL static struct node *node(struct node **list, long value) {
    struct node *made = malloc(sizeof *made);
    made->next = *list;
    made->value[0] = value;
    *list = made;
    return made;
}

CALL static long expression(struct node **list, long count) {
    long sum = 0;
    for (long at = 0; at < count; at++) sum += node(list, at)->value[0];
    return sum;
}

CALL static long declaration(struct node **list, long count) {
    long sum = 0;
    for (long at = 0; at < count; at++) sum += node(list, at)->value[0] & 1;
    return sum;
}

CALL static void release(struct node **list) {
    while (*list != NULL) {
        struct node *next = (*list)->next;
        free(*list);
        *list = next;
    }
}

int main(int argc, char **argv) {
    long modules = argc > 1 ? atol(argv[1]) : 1, nodes = argc > 2 ? atol(argv[2]) : 1, sum = 0;
    struct node *of_stage = NULL, *of_module = NULL;
    char *volatile outside = malloc(100);
    for (long module = 0; module < modules; module++) {
        HEAPTAPE_BEGIN("module");
        for (int stage = 0; stage < 3; stage++) {
            HEAPTAPE_BEGIN(stages[stage]);
            /* What is declared while parsing stays for the module. */
            struct node **declared = stage == 0 ? &of_module : &of_stage;
            sum += declaration(declared, nodes / 2);
            sum += expression(&of_stage, nodes);
            release(&of_stage);
            HEAPTAPE_END(stages[stage]);
        }
        sum += expression(&of_module, nodes);
        release(&of_module);
        HEAPTAPE_END("module");
    }
    free(outside);
    printf("%ld\n", sum);
    return 0;
}
