/* Planted truth of phases and lifetimes: a program says when a phase begins and ends and makes its blocks with `take`,
 * `grow` and `give`; this keeps its own books of what each phase did and what became of each block, and writes them as JSON
 * lines to standard output. Nothing here allocates: storage is static, output is write(2).
 *   {"kind":"place","place":..,"tid":..,"path":"check › types","instances":..,...}   a phase in its place, on one thread
 *   {"kind":"instance","place":..,"number":..,...}                                   one of its instances
 *   {"kind":"cell","birth":"..","death":".." or null,"count":..,"bytes":..}          blocks by birth and death
 * The books are simple where heaptape is clever: every sum is made anew from all blocks. One thread at a time may do
 * anything at all: threads pass a turn (`pass_to`). */
#ifndef PHASE_TRUTH_H
#define PHASE_TRUTH_H
#include "truth.h"
#include <pthread.h>

#define THREADS 8
#define BLOCKS 4096
#define PLACES 64
#define INSTANCES 512
#define DEPTH 8

enum class { SCRATCH, HANDED_OVER, PROCESS_WIDE, OTHER_THREAD, DURABLE, CLASSES };
static const char *const class_names[CLASSES] = {"scratch", "handed_over", "process_wide", "other_thread", "durable"};

struct amount { size_t count, bytes; };

struct place {
    int parent, thread; /* parent -1: outermost */
    char path[160];
    int is_outside, instances, cut_short, reallocs;
    struct amount allocs, frees, left, classes[CLASSES];
    size_t peak, own_peak, held[PLACES];
};

struct instance { int place, number, open, event_count, cut_short; long begin; struct amount allocs, left; };

struct block {
    void *memory;
    size_t size;
    int place, thread, alive, instance, death_place;
    long birth;
};

static struct place places[PLACES];
static struct instance instances[INSTANCES];
static struct block blocks[BLOCKS];
static int place_count, instance_count, block_count, thread_count;
static int tids[THREADS];
static int open_phases[THREADS][DEPTH], open_count[THREADS];
static long now;
static __thread int me;

static int turn;
static pthread_mutex_t turn_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn_passed = PTHREAD_COND_INITIALIZER;

static inline void wait_for_turn(void) {
    pthread_mutex_lock(&turn_lock);
    while (turn != me) pthread_cond_wait(&turn_passed, &turn_lock);
    pthread_mutex_unlock(&turn_lock);
}

/* Lets another thread go on and forgets about this one's turn. */
static inline void leave_to(int thread) {
    pthread_mutex_lock(&turn_lock);
    turn = thread;
    pthread_cond_broadcast(&turn_passed);
    pthread_mutex_unlock(&turn_lock);
}

static inline void pass_to(int thread) {
    leave_to(thread);
    wait_for_turn();
}

/* Thread `number` counts from 0, the main thread. */
static inline void thread_begins(int number) {
    me = number;
    tids[number] = (int)syscall(SYS_gettid);
    if (number >= thread_count) thread_count = number + 1;
}

static inline void add(struct amount *sum, size_t bytes) {
    sum->count++;
    sum->bytes += bytes;
}

static inline int place_of(int parent, const char *name, int is_outside) {
    struct place *place;
    char path[160];
    int at;
    snprintf(path, sizeof path, "%s%s%s", parent < 0 ? "" : places[parent].path, parent < 0 ? "" : " › ", name);
    for (at = 0; at < place_count; at++)
        if (places[at].thread == me && places[at].parent == parent && !strcmp(places[at].path, path)) return at;
    must(place_count < PLACES);
    place = &places[place_count++];
    place->parent = parent;
    place->thread = me;
    place->is_outside = is_outside;
    memcpy(place->path, path, sizeof path);
    return at;
}

static inline int innermost(void) { return open_count[me] ? open_phases[me][open_count[me] - 1] : -1; }

static inline int here(void) { return innermost() < 0 ? place_of(-1, "(outside)", 1) : instances[innermost()].place; }

static inline size_t live_of(int place) {
    size_t sum = 0;
    int at;
    for (at = 0; at < block_count; at++)
        if (blocks[at].alive && (place < 0 || blocks[at].place == place)) sum += blocks[at].size;
    return sum;
}

/* The process may be at the peak of a place. */
static inline void look_at_peak(int place) {
    size_t live = live_of(-1);
    int at;
    if (live <= places[place].peak) return;
    places[place].peak = live;
    for (at = 0; at < PLACES; at++) places[place].held[at] = at < place_count ? live_of(at) : 0;
}

static inline void phase_begins(const char *name) {
    int place = place_of(innermost() < 0 ? -1 : instances[innermost()].place, name, 0);
    must(instance_count < INSTANCES && open_count[me] < DEPTH);
    instances[instance_count] = (struct instance){.place = place, .number = ++places[place].instances, .open = 1, .begin = now};
    open_phases[me][open_count[me]++] = instance_count++;
    look_at_peak(place);
}

static inline void phase_ends(void) {
    struct instance *instance = &instances[innermost()];
    int at;
    for (at = 0; at < block_count; at++)
        if (blocks[at].alive && blocks[at].thread == me && blocks[at].birth >= instance->begin) {
            add(&instance->left, blocks[at].size);
            add(&places[instance->place].left, blocks[at].size);
        }
    instance->open = 0;
    open_count[me]--;
}

static inline void event_happens(void) {
    int at;
    for (at = 0; at < open_count[me]; at++) instances[open_phases[me][at]].event_count++;
    now++;
}

static inline int birth(void *memory, size_t size) {
    struct block *block = &blocks[block_count];
    int at, thread, place = here();
    size_t own;
    must(memory && block_count < BLOCKS);
    *block = (struct block){.memory = memory, .size = size, .place = place, .thread = me, .alive = 1,
                            .instance = innermost(), .death_place = -1, .birth = now};
    block_count++;
    add(&places[place].allocs, size);
    for (at = 0; at < open_count[me]; at++) add(&instances[open_phases[me][at]].allocs, size);
    own = live_of(place);
    if (own > places[place].own_peak) places[place].own_peak = own;
    for (thread = 0; thread < thread_count; thread++)
        for (at = 0; at < open_count[thread]; at++) look_at_peak(instances[open_phases[thread][at]].place);
    event_happens();
    return block_count - 1;
}

static inline void death(int at) {
    struct block *block = &blocks[at];
    int place = here();
    enum class class = PROCESS_WIDE;
    must(block->alive);
    block->alive = 0;
    block->death_place = place;
    add(&places[place].frees, block->size);
    if (block->thread != me)
        class = OTHER_THREAD;
    else if (block->instance >= 0 && instances[block->instance].open)
        class = SCRATCH;
    else if (block->instance >= 0 && open_count[me] > 0)
        class = HANDED_OVER;
    add(&places[block->place].classes[class], block->size);
    event_happens();
}

/* An allocator wrapper. */
__attribute__((noinline, unused)) static int take(size_t size) { return birth(malloc(size), size); }

/* An allocator wrapper: the block's number changes. */
__attribute__((noinline, unused)) static int grow(int at, size_t size) {
    void *memory = realloc(blocks[at].memory, size);
    death(at);
    places[here()].reallocs++;
    return birth(memory, size);
}

__attribute__((noinline, unused)) static void give(int at) {
    free(blocks[at].memory);
    death(at);
}

static inline void say(const char *text, int length) { must(write(1, text, (size_t)length) == length); }

/* All that is alive stays, all that is open is cut short: nothing may be allocated or freed after this. */
static inline void tell_truth(void) {
    static char text[16384];
    int at, other, length;
    for (at = 0; at < block_count; at++)
        if (blocks[at].alive) add(&places[blocks[at].place].classes[DURABLE], blocks[at].size);
    for (me = 0; me < thread_count; me++)
        while (open_count[me]) {
            instances[innermost()].cut_short = 1;
            places[instances[innermost()].place].cut_short++;
            phase_ends();
        }
    for (at = 0; at < place_count; at++) {
        const struct place *place = &places[at];
        struct amount inclusive = {0, 0};
        int first = 1;
        for (other = 0; other < place_count; other++) {
            int up = other;
            while (up >= 0 && up != at) up = places[up].parent;
            if (up != at) continue;
            inclusive.count += places[other].allocs.count;
            inclusive.bytes += places[other].allocs.bytes;
        }
        length = snprintf(text, sizeof text,
                          "{\"kind\":\"place\",\"place\":%d,\"tid\":%d,\"path\":\"%s\",\"outside\":%s,\"instances\":%d,\"cut_short\":%d,"
                          "\"alloc_count\":%zu,\"alloc_bytes\":%zu,\"realloc_count\":%d,\"inclusive_alloc_count\":%zu,"
                          "\"inclusive_alloc_bytes\":%zu,\"free_count\":%zu,\"free_bytes\":%zu,\"left_behind_count\":%zu,"
                          "\"left_behind_bytes\":%zu,\"peak_bytes\":%zu,\"own_peak_bytes\":%zu,\"classes\":[",
                          at, tids[place->thread], place->path, place->is_outside ? "true" : "false", place->instances,
                          place->cut_short, place->allocs.count, place->allocs.bytes, place->reallocs, inclusive.count,
                          inclusive.bytes, place->frees.count, place->frees.bytes, place->left.count, place->left.bytes,
                          place->peak, place->own_peak);
        for (other = 0; other < CLASSES; other++)
            length += snprintf(text + length, sizeof text - (size_t)length, "%s{\"class\":\"%s\",\"count\":%zu,\"bytes\":%zu}",
                               other ? "," : "", class_names[other], place->classes[other].count, place->classes[other].bytes);
        length += snprintf(text + length, sizeof text - (size_t)length, "],\"held\":[");
        for (other = 0; other < place_count; other++)
            if (place->held[other]) {
                length += snprintf(text + length, sizeof text - (size_t)length, "%s[%d,%zu]", first ? "" : ",", other,
                                   place->held[other]);
                first = 0;
            }
        length += snprintf(text + length, sizeof text - (size_t)length, "]}\n");
        say(text, length);
    }
    for (at = 0; at < instance_count; at++) {
        const struct instance *one = &instances[at];
        length = snprintf(text, sizeof text,
                          "{\"kind\":\"instance\",\"place\":%d,\"number\":%d,\"event_count\":%d,\"alloc_count\":%zu,\"alloc_bytes\":%zu,"
                          "\"left_behind_count\":%zu,\"left_behind_bytes\":%zu}\n",
                          one->place, one->number, one->event_count, one->allocs.count, one->allocs.bytes, one->left.count,
                          one->left.bytes);
        say(text, length);
    }
    /* One line per block; the reader adds up. */
    for (at = 0; at < block_count; at++) {
        const struct block *block = &blocks[at];
        const char *quote = block->death_place < 0 ? "" : "\"";
        length = snprintf(text, sizeof text, "{\"kind\":\"cell\",\"birth\":\"%s\",\"death\":%s%s%s,\"count\":1,\"bytes\":%zu}\n",
                          places[block->place].path, quote, block->death_place < 0 ? "null" : places[block->death_place].path,
                          quote, block->size);
        say(text, length);
    }
}
#endif
