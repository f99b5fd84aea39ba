// Tables that grow, in C. What each function copies follows from how it is written; `tests/tests/patterns.rs` has the sums.
#include <stdlib.h>
#include <string.h>

struct table {
    char *items;
    size_t count;
};

static void *keep;

// Not inlined: each function below is a site.
#define SITE __attribute__((noinline, noclone))

// One more item of 24 bytes: allocate, copy, free.
SITE static void append_one(struct table *table) {
    char *items = malloc((table->count + 1) * 24);
    if (table->count > 0)
        memcpy(items, table->items, table->count * 24);
    free(table->items);
    table->items = items;
    table->count++;
}

// The same for items of any size; three tables use it by turns, among other blocks.
SITE static void append_by_turns(struct table *table, size_t size) {
    char *items = malloc((table->count + 1) * size);
    if (table->count > 0)
        memcpy(items, table->items, table->count * size);
    free(table->items);
    table->items = items;
    table->count++;
}

SITE static void other_work(int round) {
    char *text = malloc(50 + round % 3);
    keep = text;
    free(text);
}

// Both new blocks are there before either old one goes.
SITE static void append_two(struct table *one, struct table *two) {
    char *first = malloc((one->count + 1) * 8);
    char *second = malloc((two->count + 1) * 56);
    memcpy(first, one->items, one->count * 8);
    memcpy(second, two->items, two->count * 56);
    free(one->items);
    free(two->items);
    one->items = first;
    two->items = second;
    one->count++;
    two->count++;
}

// Items that are pointers to strings of their own, each copied too.
SITE static void append_deep(struct table *table) {
    char **items = malloc((table->count + 1) * sizeof(char *));
    char **old = (char **)table->items;
    for (size_t at = 0; at < table->count; at++) {
        items[at] = malloc(21 + at % 3);
        memcpy(items[at], old[at], 21 + at % 3);
    }
    items[table->count] = malloc(21 + table->count % 3);
    memset(items[table->count], 'x', 21 + table->count % 3);
    for (size_t at = 0; at < table->count; at++)
        free(old[at]);
    free(old);
    table->items = (char *)items;
    table->count++;
}

// One more each time by realloc.
SITE static void realloc_one(struct table *table) {
    table->items = realloc(table->items, (table->count + 1) * 40);
    table->count++;
}

// From here on: growth that is amortised, of which nothing is to be said.
SITE static void push_doubling(struct table *table, size_t *capacity) {
    if (table->count == *capacity) {
        size_t more = *capacity ? *capacity * 2 : 1;
        char *items = malloc(more * 16);
        if (table->count > 0)
            memcpy(items, table->items, table->count * 16);
        free(table->items);
        table->items = items;
        *capacity = more;
    }
    table->count++;
}

SITE static void push_half_more(struct table *table, size_t *capacity) {
    if (table->count == *capacity) {
        size_t more = *capacity + *capacity / 2 + 1;
        char *items = malloc(more * 32);
        if (table->count > 0)
            memcpy(items, table->items, table->count * 32);
        free(table->items);
        table->items = items;
        *capacity = more;
    }
    table->count++;
}

// As Python's lists grow: steps repeat for a while.
SITE static void push_eighth_more(struct table *table, size_t *capacity) {
    if (table->count == *capacity) {
        size_t wanted = table->count + 1;
        size_t more = (wanted + (wanted >> 3) + 6) & ~(size_t)3;
        char *items = malloc(more * 8);
        if (table->count > 0)
            memcpy(items, table->items, table->count * 8);
        free(table->items);
        table->items = items;
        *capacity = more;
    }
    table->count++;
}

SITE static void realloc_doubling(struct table *table, size_t *capacity) {
    if (table->count == *capacity) {
        *capacity = *capacity ? *capacity * 2 : 4;
        table->items = realloc(table->items, *capacity * 16);
    }
    table->count++;
}

SITE static void drop(struct table *table) {
    free(table->items);
}

int main(void) {
    struct table one = {0}, turns[3] = {{0}}, first = {0}, second = {0}, deep = {0}, grown = {0};
    for (int round = 0; round < 200; round++)
        append_one(&one);
    drop(&one);

    for (int round = 0; round < 120; round++)
        for (int at = 0; at < 3; at++) {
            append_by_turns(&turns[at], (size_t[]){8, 72, 16}[at]);
            other_work(round);
        }
    for (int at = 0; at < 3; at++)
        drop(&turns[at]);

    first.items = malloc(8), first.count = 1;
    second.items = malloc(56), second.count = 1;
    for (int round = 0; round < 50; round++)
        append_two(&first, &second);
    drop(&first);
    drop(&second);

    for (int round = 0; round < 60; round++)
        append_deep(&deep);
    for (size_t at = 0; at < deep.count; at++)
        free(((char **)deep.items)[at]);
    drop(&deep);

    for (int round = 0; round < 100; round++)
        realloc_one(&grown);
    drop(&grown);

    struct table pushed[4] = {{0}};
    size_t capacity[4] = {0};
    for (int round = 0; round < 20000; round++) {
        push_doubling(&pushed[0], &capacity[0]);
        push_half_more(&pushed[1], &capacity[1]);
        push_eighth_more(&pushed[2], &capacity[2]);
        realloc_doubling(&pushed[3], &capacity[3]);
    }
    for (int at = 0; at < 4; at++)
        drop(&pushed[at]);
    return 0;
}
