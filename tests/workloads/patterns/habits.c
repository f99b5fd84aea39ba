// Everything but growth: a teardown, temporaries, a pool, pages, blocks that change threads. The figures follow from how it is
// written; `tests/tests/patterns.rs` has them.
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define SITE __attribute__((noinline, noclone))

struct node {
    struct node *left, *right;
    char *name;
};

SITE static struct node *build(int depth) {
    struct node *node = malloc(sizeof *node);
    node->name = malloc(11);
    node->left = depth > 0 ? build(depth - 1) : NULL;
    node->right = depth > 0 ? build(depth - 1) : NULL;
    return node;
}

SITE static void destroy(struct node *node) {
    if (!node)
        return;
    destroy(node->left);
    destroy(node->right);
    free(node->name);
    free(node);
    __asm__ volatile("" ::: "memory"); // no tail call
}

SITE static void tear_down(struct node *root) {
    destroy(root);
    __asm__ volatile("" ::: "memory");
}

// Freed at once: 500 blocks of up to 200 bytes.
SITE static void temporary(int round) {
    char *text = malloc(100 + round % 101);
    memset(text, 'x', 100);
    free(text);
}

// Freed at once, and too great for a stack: 300 blocks of 100,000 bytes.
SITE static void great_temporary(void) {
    char *text = malloc(100000);
    text[0] = 'x';
    free(text);
}

// Three alive at most, 3,000 made.
SITE static void *take(void) {
    return malloc(48);
}

// 40 pairs of aligned pages.
SITE static void page_buffer(void) {
    void *pages = NULL;
    if (posix_memalign(&pages, 4096, 8192) != 0)
        abort();
    memset(pages, 1, 8192);
    free(pages);
}

// 250 blocks of 64 bytes made here are freed by another thread.
SITE static void *produce(void) {
    return malloc(64);
}

static void *handed[250];

static void *consume(void *unused) {
    for (int at = 0; at < 250; at++)
        free(handed[at]);
    return unused;
}

int main(void) {
    struct node *root = build(10); // 2,047 nodes, each with a name
    tear_down(root);
    for (int round = 0; round < 500; round++)
        temporary(round);
    for (int round = 0; round < 300; round++)
        great_temporary();
    for (int round = 0; round < 1000; round++) {
        void *slots[3] = {take(), take(), take()};
        for (int at = 2; at >= 0; at--)
            free(slots[at]);
    }
    for (int round = 0; round < 40; round++)
        page_buffer();
    for (int at = 0; at < 250; at++)
        handed[at] = produce();
    pthread_t thread;
    if (pthread_create(&thread, NULL, consume, NULL) != 0)
        abort();
    pthread_join(thread, NULL);
    return 0;
}
