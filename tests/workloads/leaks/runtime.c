/* Leak cases of what runs beside a compiler: tasks and executors, channels, worker threads, pools, arenas, and sessions
 * that follow each other. Each case's truth stands in truth.toml. */
#include "leaks.h"

#include <pthread.h>
#include <time.h>
#include <unistd.h>

/* ---- Executor ---- */

struct task {
    char *state, *waker;
};

OWN struct task *task_spawn(void) {
    return xcalloc(1, sizeof(struct task));
}

OWN void task_start(struct task *task, size_t bytes) {
    task->state = xmalloc(bytes);
}

OWN void task_register_waker(struct task *task) {
    task->waker = xmalloc(40);
}

OWN void executor_free(struct task **tasks, size_t count, int wakers) {
    for (size_t i = 0; i < count; i++) {
        free(tasks[i]->state);
        if (wakers)
            free(tasks[i]->waker);
        free(tasks[i]);
    }
    free(tasks);
}

OWN void run_executor(int wakers) {
    struct task **tasks = xcalloc(20, sizeof *tasks);
    for (size_t i = 0; i < 20; i++) {
        tasks[i] = task_spawn();
        task_start(tasks[i], 300 + i);
        if (i % 3 == 0)
            task_register_waker(tasks[i]);
    }
    executor_free(tasks, 20, wakers);
}

/* Seven of 20 tasks had a waker. */
OWN void executor_forgets_wakers(void) {
    run_executor((int)opaque(0));
}

OWN void executor_frees_wakers(void) {
    run_executor((int)opaque(1));
}

/* ---- Channel: destroyed with messages in it ---- */

struct message {
    struct message *next;
    uint64_t words[7];
};

struct channel {
    pthread_mutex_t lock;
    pthread_cond_t filled;
    struct message *first, **last;
};

OWN void channel_send(struct channel *channel) {
    struct message *message = xcalloc(1, sizeof *message);
    pthread_mutex_lock(&channel->lock);
    *channel->last = message;
    channel->last = &message->next;
    pthread_cond_signal(&channel->filled);
    pthread_mutex_unlock(&channel->lock);
}

OWN void channel_receive(struct channel *channel) {
    pthread_mutex_lock(&channel->lock);
    while (!channel->first)
        pthread_cond_wait(&channel->filled, &channel->lock);
    struct message *message = channel->first;
    channel->first = message->next;
    if (!channel->first)
        channel->last = &channel->first;
    pthread_mutex_unlock(&channel->lock);
    free(message);
}

OWN void *receive_most(void *channel) {
    for (size_t i = 0; i < 97; i++)
        channel_receive(channel);
    return NULL;
}

OWN void channel_destroy(struct channel *channel) {
    pthread_cond_destroy(&channel->filled);
    pthread_mutex_destroy(&channel->lock);
    free(channel);
}

/* 100 messages, of which the receiver takes 97. */
OWN void channel_destroyed_with_messages(void) {
    struct channel *channel = xcalloc(1, sizeof *channel);
    pthread_t receiver;
    pthread_mutex_init(&channel->lock, NULL);
    pthread_cond_init(&channel->filled, NULL);
    channel->last = &channel->first;
    if (pthread_create(&receiver, NULL, receive_most, channel))
        abort();
    for (size_t i = 0; i < 100; i++)
        channel_send(channel);
    pthread_join(receiver, NULL);
    channel_destroy(channel);
}

/* ---- Worker threads ---- */

OWN char *job_begin(void) {
    return xmalloc(176);
}

OWN void job_end(char *job) {
    free(job);
}

/* Number 50 of 60 is cancelled and forgotten. */
OWN void run_job(size_t number) {
    char *job = job_begin();
    used(job);
    if (number == 50)
        return;
    job_end(job);
}

OWN void *work(void *unused) {
    for (size_t i = 0; i < 60; i++)
        run_job(i);
    return unused;
}

/* Four workers side by side: 240 jobs, four lost. */
OWN void workers_lose_cancelled_jobs(void) {
    pthread_t workers[4];
    for (size_t i = 0; i < 4; i++)
        if (pthread_create(&workers[i], NULL, work, NULL))
            abort();
    for (size_t i = 0; i < 4; i++)
        pthread_join(workers[i], NULL);
}

/* ---- Made on one thread, owned by another ---- */

struct unit {
    char *header, *body;
};

static struct unit units[24];

OWN void unit_read_header(struct unit *unit, size_t bytes) {
    unit->header = xmalloc(bytes);
}

OWN void unit_read_body(struct unit *unit) {
    unit->body = xmalloc(1200);
}

OWN void *read_units(void *unused) {
    for (size_t i = 0; i < 24; i++) {
        unit_read_header(&units[i], 64 + i);
        unit_read_body(&units[i]);
    }
    return unused;
}

OWN void units_free(void) {
    for (size_t i = 0; i < 24; i++) {
        free(units[i].body);
        units[i].body = units[i].header = NULL;
    }
}

/* 24 headers of 64 to 87 bytes: 1812 bytes. */
OWN void headers_read_by_other_thread_forgotten(void) {
    pthread_t reader;
    if (pthread_create(&reader, NULL, read_units, NULL))
        abort();
    pthread_join(reader, NULL);
    units_free();
}

/* ---- Scratch memory per thread ---- */

static pthread_key_t scratch_key;

OWN void scratch_init(void) {
    if (pthread_setspecific(scratch_key, xmalloc(520)))
        abort();
}

OWN void scratch_free(void *scratch) {
    free(scratch);
}

OWN void *compile_on_thread(void *unused) {
    scratch_init();
    run_job(0);
    return unused;
}

OWN void compile_on_threads(void (*destructor)(void *)) {
    if (pthread_key_create(&scratch_key, destructor))
        abort();
    for (size_t i = 0; i < 8; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, compile_on_thread, NULL))
            abort();
        pthread_join(thread, NULL);
    }
}

/* Eight threads after each other, each with its own. */
OWN void scratch_of_each_thread_left(void) {
    compile_on_threads(NULL);
}

OWN void scratch_of_each_thread_freed(void) {
    compile_on_threads(scratch_free);
}

/* ---- Pools and arenas ---- */

struct pooled {
    struct pooled *next;
    uint64_t payload[9];
};

static struct pooled *pool;

OWN struct pooled *pool_acquire(void) {
    struct pooled *object = pool;
    if (object)
        pool = object->next;
    else
        object = xcalloc(1, sizeof *object);
    return object;
}

OWN void pool_release(struct pooled *object) {
    object->next = pool;
    pool = object;
}

/* The first round needs 12 objects at once, as do the 29 after it: the pool is full from the first on. */
OWN void pool_keeps_its_peak(void) {
    struct pooled *objects[12];
    for (size_t round = 0; round < 30; round++) {
        for (size_t i = 0; i < 12; i++)
            objects[i] = pool_acquire();
        for (size_t i = 0; i < 12; i++)
            pool_release(objects[i]);
    }
}

struct arena {
    struct arena_block *chunks, *large;
    size_t used;
};

struct arena_block {
    struct arena_block *next;
    char bytes[];
};

OWN struct arena_block *arena_add_chunk(struct arena_block *next) {
    struct arena_block *block = xmalloc(sizeof *block + 1016);
    block->next = next;
    return block;
}

OWN struct arena_block *arena_add_large(struct arena_block *next, size_t bytes) {
    struct arena_block *block = xmalloc(sizeof *block + bytes);
    block->next = next;
    return block;
}

OWN void *arena_take(struct arena *arena, size_t bytes) {
    if (bytes > 1016) {
        arena->large = arena_add_large(arena->large, bytes);
        return arena->large->bytes;
    }
    if (!arena->chunks || arena->used + bytes > 1016) {
        arena->chunks = arena_add_chunk(arena->chunks);
        arena->used = 0;
    }
    arena->used += bytes;
    return arena->chunks->bytes + arena->used - bytes;
}

OWN void arena_free(struct arena *arena) {
    while (arena->chunks) {
        struct arena_block *next = arena->chunks->next;
        free(arena->chunks);
        arena->chunks = next;
    }
    arena->large = NULL;
}

OWN void arena_reset(struct arena *arena) {
    while (arena->chunks && arena->chunks->next) {
        struct arena_block *next = arena->chunks->next;
        free(arena->chunks);
        arena->chunks = next;
    }
    arena->used = 0;
}

/* Three arenas with 3, 1 and 4 large blocks of 1500 to 1507 bytes and 8 bytes of header: 8 blocks, 12092 bytes. */
OWN void arena_forgets_large_blocks(void) {
    static const size_t large[] = {3, 1, 4};
    size_t bytes = 1500;
    for (size_t i = 0; i < 3; i++) {
        struct arena arena = {NULL, NULL, 0};
        for (size_t j = 0; j < 100; j++)
            used(arena_take(&arena, 60));
        for (size_t j = 0; j < large[i]; j++)
            used(arena_take(&arena, bytes++));
        arena_free(&arena);
    }
}

/* A reset keeps one chunk for the next phase, the end frees that too. */
OWN void arena_reset_between_phases(void) {
    struct arena arena = {NULL, NULL, 0};
    for (size_t phase = 0; phase < 8; phase++) {
        for (size_t j = 0; j < 100; j++)
            used(arena_take(&arena, 60));
        arena_reset(&arena);
    }
    arena_free(&arena);
}

/* ---- Sessions after each other in one process ---- */

struct session {
    char *sources;
};

static void *volatile prelude_roots[64];
static size_t prelude_count;

OWN void load_prelude_types(void) {
    for (size_t i = 0; i < 3; i++)
        prelude_roots[prelude_count++] = xmalloc(96);
}

OWN void load_prelude_traits(void) {
    prelude_roots[prelude_count++] = xmalloc(224);
}

OWN void session_read(struct session *session) {
    session->sources = xmalloc(3000);
}

OWN void session_end(struct session *session) {
    free(session->sources);
}

/* Loads what every session needs, though the one before had loaded it. */
OWN void run_session(void) {
    struct session session;
    load_prelude_types();
    load_prelude_traits();
    session_read(&session);
    session_end(&session);
}

OWN void prelude_loaded_by_each_session(void) {
    for (size_t i = 0; i < 9; i++)
        run_session();
}

/* The same with a prelude that is loaded once. */
OWN void prelude_loaded_once(void) {
    struct session session;
    load_prelude_traits();
    for (size_t i = 0; i < 9; i++) {
        session_read(&session);
        session_end(&session);
    }
}

/* ---- Strings of a language's runtime ---- */

OWN char *number_to_text(long number) {
    char *text = xmalloc(24);
    snprintf(text, 24, "%ld", number);
    return text;
}

OWN void text_free(char *text) {
    free(text);
}

/* Negative numbers are printed through another text, and the first is forgotten. */
OWN void print_number(long number) {
    char *text = number_to_text(number);
    if (number < 0)
        text = number_to_text(-number);
    text_free(text);
}

/* 147 numbers, three negative: 150 texts, three of them lost. */
OWN void negative_numbers_lose_text(void) {
    for (long i = 0; i < 147; i++)
        print_number(i % 49 == 20 ? -i - 1 : i);
}

/* ---- Recordings that end before the program ---- */

/* Sleeps as many seconds as the second argument says; `exit` ends the program here, with everything alive. */
OWN void pause_here(void) {
    struct timespec second = {1, 0};
    if (strcmp(second_argument, "exit") == 0)
        exit(0);
    for (long left = atol(second_argument); left > 0; left--)
        nanosleep(&second, NULL);
}

OWN struct pooled *module_add_function(struct pooled *next) {
    struct pooled *function = xcalloc(1, sizeof *function);
    function->next = next;
    return function;
}

OWN void module_free(struct pooled *function) {
    while (function) {
        struct pooled *next = function->next;
        free(function);
        function = next;
    }
}

/* 30 functions are alive during the pause, and die after it. */
OWN void module_alive_during_pause(void) {
    struct pooled *module = NULL;
    for (size_t i = 0; i < 30; i++)
        module = module_add_function(module);
    pause_here();
    module_free(module);
}

static pthread_barrier_t all_built;
static pthread_barrier_t may_end;

OWN char *thread_open_unit(void) {
    return xmalloc(440);
}

OWN void thread_close_unit(char *unit) {
    free(unit);
}

OWN void *hold_units(void *unused) {
    char *open[5];
    for (size_t i = 0; i < 5; i++)
        open[i] = thread_open_unit();
    pthread_barrier_wait(&all_built);
    pthread_barrier_wait(&may_end);
    for (size_t i = 0; i < 5; i++)
        thread_close_unit(open[i]);
    return unused;
}

/* Two threads with five units each are in the middle of their work. */
OWN void threads_alive_during_pause(void) {
    pthread_t threads[2];
    pthread_barrier_init(&all_built, NULL, 3);
    pthread_barrier_init(&may_end, NULL, 3);
    for (size_t i = 0; i < 2; i++)
        if (pthread_create(&threads[i], NULL, hold_units, NULL))
            abort();
    pthread_barrier_wait(&all_built);
    pause_here();
    pthread_barrier_wait(&may_end);
    for (size_t i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
}

LEAK_MAIN({"executor_forgets_wakers", executor_forgets_wakers}, {"executor_frees_wakers", executor_frees_wakers},
          {"channel_destroyed_with_messages", channel_destroyed_with_messages},
          {"workers_lose_cancelled_jobs", workers_lose_cancelled_jobs},
          {"headers_read_by_other_thread_forgotten", headers_read_by_other_thread_forgotten},
          {"scratch_of_each_thread_left", scratch_of_each_thread_left},
          {"scratch_of_each_thread_freed", scratch_of_each_thread_freed},
          {"pool_keeps_its_peak", pool_keeps_its_peak}, {"arena_forgets_large_blocks", arena_forgets_large_blocks},
          {"arena_reset_between_phases", arena_reset_between_phases},
          {"prelude_loaded_by_each_session", prelude_loaded_by_each_session},
          {"prelude_loaded_once", prelude_loaded_once}, {"negative_numbers_lose_text", negative_numbers_lose_text},
          {"module_alive_during_pause", module_alive_during_pause},
          {"threads_alive_during_pause", threads_alive_during_pause})
