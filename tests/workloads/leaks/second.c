/* The second set of leak cases in C: speculation, redefinition, rehashing, loaders, SSA, caches, arenas, requests that
 * fail, threads. Each case's truth stands in second.toml. */
#include "leaks.h"

#include <pthread.h>
#include <setjmp.h>
#include <time.h>

/* A table that doubles. */
OWN void *vec_reserve(void *data, size_t *capacity, size_t bytes_each) {
    *capacity = *capacity ? *capacity * 2 : 2;
    return xrealloc(data, *capacity * bytes_each);
}

/* An allocator that is handed around, as compilers have it whose language has no heap of its own. */
struct allocator {
    void *(*alloc)(size_t bytes);
    void (*release)(void *block);
};

OWN void *counted_alloc(size_t bytes) {
    return xcalloc(1, bytes);
}

OWN void counted_release(void *block) {
    free(block);
}

static const struct allocator counted = {counted_alloc, counted_release};

/* ---- Speculative parsing ---- */

struct type {
    struct type *inner;
    uint64_t *arguments;
    uint64_t kind[3];
};

struct cast {
    struct type *type;
    uint64_t operand[4];
};

OWN uint64_t *parse_type_arguments(void) {
    return xcalloc(3, sizeof(uint64_t));
}

/* Pointers to pointers to a type with arguments. */
OWN struct type *parse_type(size_t depth) {
    struct type *type = xcalloc(1, sizeof *type);
    if (depth)
        type->inner = parse_type(depth - 1);
    else
        type->arguments = parse_type_arguments();
    return type;
}

OWN void type_free(struct type *type) {
    if (!type)
        return;
    type_free(type->inner);
    free(type->arguments);
    free(type);
}

OWN struct cast *cast_new(struct type *type) {
    struct cast *cast = xcalloc(1, sizeof *cast);
    cast->type = type;
    return cast;
}

OWN void cast_free(struct cast *cast) {
    type_free(cast->type);
    free(cast);
}

/* A bracket: the parser tries a cast. Every fifth turns out to hold no type after all; it goes back to the bracket. */
OWN struct cast *try_cast(size_t number) {
    struct type *type = parse_type(number % 3);
    if (number % 5 == 4)
        return NULL;
    return cast_new(type);
}

OWN void speculation_forgets_types(void) {
    for (size_t i = 0; i < 60; i++) {
        struct cast *cast = try_cast(i);
        if (cast)
            cast_free(cast);
    }
}

/* ---- Redefinitions ---- */

#define BUCKETS 32

struct symbol {
    struct symbol *next;
    char *name;
    uint64_t attributes[5];
};

struct scope {
    struct symbol *buckets[BUCKETS];
};

OWN struct scope *scope_open(void) {
    return xcalloc(1, sizeof(struct scope));
}

OWN struct symbol *symbol_new(void) {
    return xcalloc(1, sizeof(struct symbol));
}

OWN void symbol_set_name(struct symbol *symbol, size_t number) {
    char name[16];
    snprintf(name, sizeof name, "local_%03u", (unsigned)(number % 1000));
    symbol->name = xstrdup(name);
}

/* A second definition takes the place of the first. */
OWN void scope_define(struct scope *scope, size_t number) {
    struct symbol **place = &scope->buckets[number % BUCKETS];
    struct symbol *symbol = symbol_new();
    symbol_set_name(symbol, number);
    while (*place && strcmp((*place)->name, symbol->name) != 0)
        place = &(*place)->next;
    if (*place) {
        symbol->next = (*place)->next;
        (*place)->next = NULL;
    }
    *place = symbol;
}

OWN void scope_close(struct scope *scope) {
    for (size_t i = 0; i < BUCKETS; i++)
        while (scope->buckets[i]) {
            struct symbol *symbol = scope->buckets[i];
            scope->buckets[i] = symbol->next;
            free(symbol->name);
            free(symbol);
        }
    free(scope);
}

/* Four scopes of 70 definitions each; the second and the fourth define two names twice. */
OWN void redefined_symbols_lost(void) {
    for (size_t i = 0; i < 4; i++) {
        struct scope *scope = scope_open();
        for (size_t j = 0; j < 70; j++)
            scope_define(scope, i % 2 == 1 && (j == 35 || j == 69) ? j - 30 : j);
        scope_close(scope);
    }
}

/* ---- An interner that grows ---- */

struct interner {
    char **slots;
    size_t capacity, count;
};

OWN char **interner_find(const struct interner *interner, const char *text) {
    size_t at = (size_t)(text[4] - '0') * 10 + (size_t)(text[5] - '0');
    while (interner->slots[at % interner->capacity] && strcmp(interner->slots[at % interner->capacity], text) != 0)
        at++;
    return &interner->slots[at % interner->capacity];
}

/* Moves the texts to a larger table, and lets go of the smaller one. */
OWN void interner_rehash(struct interner *interner, size_t capacity) {
    struct interner old = *interner;
    interner->slots = xcalloc(capacity, sizeof *interner->slots);
    interner->capacity = capacity;
    for (size_t i = 0; i < old.capacity; i++)
        if (old.slots[i])
            *interner_find(interner, old.slots[i]) = old.slots[i];
}

OWN void interner_add(struct interner *interner, size_t number) {
    char text[8];
    if (interner->count * 4 >= interner->capacity * 3)
        interner_rehash(interner, interner->capacity ? interner->capacity * 2 : 16);
    snprintf(text, sizeof text, "name%02u", (unsigned)(number % 100));
    *interner_find(interner, text) = xstrdup(text);
    interner->count++;
}

OWN void interner_free(struct interner *interner) {
    for (size_t i = 0; i < interner->capacity; i++)
        free(interner->slots[i]);
    free(interner->slots);
    interner->slots = NULL;
}

/* 30 names: tables of 16, 32 and 64. */
OWN void intern_module(void) {
    struct interner interner = {0};
    for (size_t i = 0; i < 30; i++)
        interner_add(&interner, i);
    interner_free(&interner);
}

OWN void rehash_keeps_old_tables(void) {
    for (size_t i = 0; i < 8; i++)
        intern_module();
}

/* ---- A loader that jumps to the wrong label ---- */

struct loaded {
    char *path, *source;
    uint32_t *tokens;
};

OWN char *resolve_path(void) {
    return xmalloc(40);
}

OWN char *read_source(size_t number) {
    return number % 8 == 7 ? NULL : xmalloc(300 + 10 * number);
}

OWN uint32_t *tokenize(size_t number) {
    return number % 5 == 3 ? NULL : xcalloc(64, sizeof(uint32_t));
}

OWN struct loaded *load_module(size_t number) {
    struct loaded *module = NULL;
    char *path = resolve_path(), *source = read_source(number);
    uint32_t *tokens = NULL;
    if (!source)
        goto no_source;
    tokens = tokenize(number);
    if (!tokens)
        goto no_source; /* there ought to be a label between the two */
    module = xmalloc(sizeof *module);
    *module = (struct loaded){path, source, tokens};
    return module;
no_source:
    free(path);
    return NULL;
}

OWN void unload_module(struct loaded *module) {
    free(module->tokens);
    free(module->source);
    free(module->path);
    free(module);
}

/* 30 modules: three are missing, five of the others do not tokenize. The last is unloaded first. */
OWN void wrong_label_keeps_source(void) {
    struct loaded *modules[30];
    size_t count = 0;
    for (size_t i = 0; i < 30; i++) {
        struct loaded *module = load_module(i);
        if (module)
            modules[count++] = module;
    }
    while (count > 0)
        unload_module(modules[--count]);
}

/* ---- Construction of SSA ---- */

struct phi {
    uint64_t *operands;
    size_t count, capacity;
};

struct ssa_function {
    struct phi *phis[3];
    uint64_t *values;
};

OWN void phi_add_operand(struct phi *phi, uint64_t value) {
    if (phi->count == phi->capacity)
        phi->operands = vec_reserve(phi->operands, &phi->capacity, sizeof *phi->operands);
    phi->operands[phi->count++] = value;
}

OWN struct phi *phi_new(void) {
    return xcalloc(1, sizeof(struct phi));
}

/* Phi `k` of function `number` has between two and six operands. */
OWN struct ssa_function *ssa_build(size_t number) {
    struct ssa_function *function = xcalloc(1, sizeof *function);
    function->values = xcalloc(20 + number, sizeof(uint64_t));
    for (size_t k = 0; k < 3; k++) {
        function->phis[k] = phi_new();
        for (size_t i = 0; i < 2 + (number + k) % 5; i++)
            phi_add_operand(function->phis[k], i);
    }
    return function;
}

/* From the time when phis had two operands in place. */
OWN void ssa_free(struct ssa_function *function) {
    for (size_t k = 0; k < 3; k++)
        free(function->phis[k]);
    free(function->values);
    free(function);
}

OWN void phi_operands_forgotten(void) {
    struct ssa_function *functions[6];
    for (size_t i = 0; i < 6; i++)
        functions[i] = ssa_build(i);
    for (size_t i = 6; i-- > 0;)
        ssa_free(functions[i]);
}

/* ---- A server that never clears its diagnostics ---- */

struct diagnostic {
    struct diagnostic *next;
    char *text;
    uint64_t span[2];
};

static struct diagnostic *diagnostics;

OWN char *format_message(size_t code) {
    char text[32];
    snprintf(text, sizeof text, "E%04u: unused variable", (unsigned)(code % 10000));
    return strdup(text);
}

OWN void report_diagnostic(size_t code) {
    struct diagnostic *diagnostic = xcalloc(1, sizeof *diagnostic);
    diagnostic->text = format_message(code);
    diagnostic->next = diagnostics;
    diagnostics = diagnostic;
}

OWN char *receive_document(size_t number) {
    return xmalloc(900 + 64 * number);
}

OWN void handle_request(size_t number) {
    char *document = receive_document(number);
    for (size_t i = 0; i < 3; i++)
        report_diagnostic(number * 3 + i);
    free(document);
}

OWN void diagnostics_of_each_request(void) {
    for (size_t i = 0; i < 11; i++)
        handle_request(i);
}

/* ---- A cache of instances, least recently used first to go ---- */

struct instance {
    struct instance *newer, *older;
    char *key;
    size_t number;
    uint64_t code[4];
};

static struct instance *newest, *oldest;
static size_t instance_count;

OWN void lru_unlink(struct instance *instance) {
    *(instance->newer ? &instance->newer->older : &newest) = instance->older;
    *(instance->older ? &instance->older->newer : &oldest) = instance->newer;
}

OWN void lru_push(struct instance *instance) {
    instance->newer = NULL;
    instance->older = newest;
    *(newest ? &newest->newer : &oldest) = instance;
    newest = instance;
}

OWN char *lru_copy_key(size_t number) {
    char key[16];
    snprintf(key, sizeof key, "Vec<Type%04u>", (unsigned)(number % 10000));
    return xstrdup(key);
}

OWN void lru_add(size_t number) {
    struct instance *instance = xcalloc(1, sizeof *instance);
    instance->number = number;
    instance->key = lru_copy_key(number);
    lru_push(instance);
    instance_count++;
}

OWN void lru_drop_oldest(void) {
    struct instance *instance = oldest;
    lru_unlink(instance);
    free(instance->key);
    free(instance);
    instance_count--;
}

OWN int lru_touch(size_t number) {
    for (struct instance *instance = newest; instance; instance = instance->older)
        if (instance->number == number) {
            lru_unlink(instance);
            lru_push(instance);
            return 1;
        }
    return 0;
}

OWN void instantiate(size_t number) {
    if (lru_touch(number))
        return;
    if (instance_count == 24)
        lru_drop_oldest();
    lru_add(number);
}

/* 200 instances, each wanted again soon after. The cache holds 24. */
OWN void instances_bounded(void) {
    for (size_t i = 0; i < 200; i++) {
        instantiate(i);
        instantiate(i < 5 ? 0 : i - 5);
    }
}

/* ---- Sources that are needed to the end ---- */

struct source {
    struct source *next;
    char *text;
    uint32_t *lines;
    size_t bytes;
};

struct source_manager {
    struct source *first;
    uint64_t options[9];
};

static struct source_manager *manager;

OWN void manager_new(void) {
    manager = xcalloc(1, sizeof *manager);
}

OWN char *source_read(size_t bytes) {
    return xmalloc(bytes);
}

OWN uint32_t *source_index_lines(size_t number) {
    return xcalloc(number + 4, sizeof(uint32_t));
}

/* Source `number` includes two others, down to number 12. */
OWN void source_open(size_t number) {
    struct source *source = xcalloc(1, sizeof *source);
    source->bytes = 200 + 37 * number;
    source->text = source_read(source->bytes);
    source->lines = source_index_lines(number);
    source->next = manager->first;
    manager->first = source;
    for (size_t i = 1; i <= 2; i++)
        if (2 * number + i < 13)
            source_open(2 * number + i);
}

OWN void run_check_over_sources(size_t pass) {
    for (struct source *source = manager->first; source; source = source->next) {
        char *copy = xmalloc(source->bytes + pass);
        memcpy(copy, source->text, source->bytes);
        free(copy);
    }
}

/* Messages may quote the source at any time: the manager lives as long as the process. */
OWN void sources_kept_to_the_end(void) {
    manager_new();
    source_open(0);
    for (size_t pass = 0; pass < 5; pass++)
        run_check_over_sources(pass);
}

/* ---- What a target is like ---- */

static uint64_t *register_file, *mnemonics, *layout_rules;

OWN void make_register_file(void) {
    register_file = xcalloc(192, sizeof(uint64_t));
}

OWN void make_mnemonics(void) {
    size_t capacity = 0;
    for (size_t i = 0; i < 40; i++) {
        if (i == capacity)
            mnemonics = vec_reserve(mnemonics, &capacity, sizeof *mnemonics);
        mnemonics[i] = i;
    }
}

OWN void make_layout_rules(void) {
    layout_rules = xcalloc(12, sizeof(uint64_t));
}

OWN uint64_t *lay_out_record(size_t number) {
    uint64_t *record = xcalloc(number % 4 + 1, sizeof *record);
    if (number == 6)
        make_layout_rules();
    record[0] = register_file[number] + mnemonics[number] + (layout_rules ? layout_rules[number % 12] : 0);
    return record;
}

/* Two tables at the start; the rules when the seventh of 20 records needs them. */
OWN void target_described_once(void) {
    make_register_file();
    make_mnemonics();
    for (size_t i = 0; i < 20; i++)
        free(lay_out_record(i));
}

/* ---- Requests that fail ---- */

OWN char *reserve_scratch(size_t number) {
    char *scratch = malloc(opaque(HUGE_BYTES - number));
    return scratch ? scratch : xmalloc(256 + number);
}

OWN char *widen_scratch(char *scratch) {
    char *wider = realloc(scratch, opaque(HUGE_BYTES));
    return wider ? wider : scratch;
}

OWN void compile_with_scratch(size_t number) {
    char *scratch = widen_scratch(reserve_scratch(number));
    void *never = calloc(opaque(HUGE_BYTES / 8), 16);
    if (never)
        abort();
    free(scratch);
}

/* Each of 25 compilations asks for too much three times and makes do with less. */
OWN void scratch_falls_back(void) {
    for (size_t i = 0; i < 25; i++)
        compile_with_scratch(i);
}

OWN uint64_t *collect_operands(size_t number) {
    return xcalloc(6 + number % 4, sizeof(uint64_t));
}

OWN uint64_t *reserve_spill_slots(size_t number) {
    return malloc(opaque(number % 4 == 2 ? HUGE_BYTES : 128));
}

OWN void release_operands(uint64_t *operands) {
    free(operands);
}

OWN int assign_registers(size_t number) {
    uint64_t *operands = collect_operands(number);
    uint64_t *slots = reserve_spill_slots(number);
    if (!slots)
        return -1;
    used(slots);
    free(slots);
    release_operands(operands);
    return 0;
}

/* In nine of 36 the slots are not granted; the operands were. */
OWN void failed_slots_lose_operands(void) {
    size_t failed = 0;
    for (size_t i = 0; i < 36; i++)
        failed += assign_registers(i) != 0;
    if (failed != 9)
        abort();
}

/* ---- Units counted by their owners ---- */

struct unit {
    size_t owners;
    char *body;
    uint64_t hash[4];
};

#define UNITS 150
#define WORKERS 3

static struct unit *units[UNITS];
static pthread_barrier_t all_workers;

OWN struct unit *unit_create(void) {
    struct unit *unit = xcalloc(1, sizeof *unit);
    unit->owners = WORKERS;
    return unit;
}

OWN void unit_attach_body(struct unit *unit) {
    unit->body = xmalloc(120);
}

OWN void unit_release(struct unit *unit) {
    if (__atomic_sub_fetch(&unit->owners, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    free(unit->body);
    free(unit);
}

/* The second worker is told to stop at numbers 17, 47, 77, 107 and 137, and forgets what it holds. */
OWN void check_unit(size_t worker, size_t number) {
    if (worker == 1 && number % 30 == 17)
        return;
    unit_release(units[number]);
}

OWN void *check_units(void *worker) {
    pthread_barrier_wait(&all_workers);
    for (size_t i = 0; i < UNITS; i++)
        check_unit((size_t)worker, i);
    return NULL;
}

OWN void worker_forgets_its_share(void) {
    pthread_t workers[WORKERS];
    pthread_barrier_init(&all_workers, NULL, WORKERS);
    for (size_t i = 0; i < UNITS; i++) {
        units[i] = unit_create();
        unit_attach_body(units[i]);
    }
    for (size_t i = 0; i < WORKERS; i++)
        if (pthread_create(&workers[i], NULL, check_units, (void *)i))
            abort();
    for (size_t i = 0; i < WORKERS; i++)
        pthread_join(workers[i], NULL);
    memset(units, 0, sizeof units);
}

/* ---- The outer blocks of an arena ---- */

struct chunk {
    struct chunk *next;
    uint64_t words[63];
};

struct arena {
    struct chunk *first, *last;
    size_t words;
};

OWN void arena_grow(struct arena *arena) {
    struct chunk *chunk = xcalloc(1, sizeof *chunk);
    *(arena->last ? &arena->last->next : &arena->first) = chunk;
    arena->last = chunk;
    arena->words = 0;
}

OWN uint64_t *arena_word(struct arena *arena) {
    if (!arena->last || arena->words == 63)
        arena_grow(arena);
    return &arena->last->words[arena->words++];
}

/* Begins again with the first chunk, and forgets that there were others. */
OWN void arena_reset(struct arena *arena) {
    arena->last = arena->first;
    arena->first->next = NULL;
    arena->words = 0;
}

OWN void arena_free(struct arena *arena) {
    while (arena->first) {
        struct chunk *chunk = arena->first;
        arena->first = chunk->next;
        free(chunk);
    }
}

/* 140 words: three chunks. */
OWN void compile_routine(struct arena *arena) {
    for (size_t i = 0; i < 140; i++)
        *arena_word(arena) = i;
    arena_reset(arena);
}

OWN void arena_reset_forgets_chunks(void) {
    struct arena arena = {0};
    for (size_t i = 0; i < 7; i++)
        compile_routine(&arena);
    arena_free(&arena);
}

/* ---- Errors by jump, with a list of what to free ---- */

static jmp_buf on_error;
static void *to_free[16];
static size_t to_free_count;

OWN void *remember(void *block) {
    return to_free[to_free_count++] = block;
}

OWN void free_remembered(void) {
    while (to_free_count > 0)
        free(to_free[--to_free_count]);
}

OWN void check_expression(size_t number, size_t depth) {
    remember(xmalloc(24 + 8 * depth));
    if (number % 4 == 1 && depth == number % 7)
        longjmp(on_error, 1);
    if (depth < 7)
        check_expression(number, depth + 1);
}

/* 48 expressions, a quarter of which are wrong somewhere inside. */
OWN void errors_free_what_is_remembered(void) {
    static volatile size_t number;
    for (number = 0; number < 48; number++) {
        if (!setjmp(on_error))
            check_expression(number, 0);
        free_remembered();
    }
}

/* ---- Paths of includes ---- */

OWN char *join_path(void) {
    return xmalloc(36);
}

OWN void path_free(char *path) {
    free(path);
}

/* Include `number` is in directory `number % 3`. Candidates that are not there are freed, the one that is is copied. */
OWN char *find_include(size_t number) {
    for (size_t directory = 0;; directory++) {
        char *candidate = join_path();
        if (directory == number % 3) {
            char *found = xmalloc(36);
            memcpy(found, candidate, 36);
            return found;
        }
        path_free(candidate);
    }
}

OWN void found_includes_keep_candidate(void) {
    for (size_t i = 0; i < 16; i++)
        free(find_include(i));
}

/* ---- Builders that are cloned ---- */

struct builder {
    uint64_t *code;
    size_t length, capacity;
};

OWN struct builder *builder_new(const struct allocator *allocator) {
    return allocator->alloc(sizeof(struct builder));
}

OWN void builder_emit(struct builder *builder, uint64_t word) {
    if (builder->length == builder->capacity)
        builder->code = vec_reserve(builder->code, &builder->capacity, sizeof *builder->code);
    builder->code[builder->length++] = word;
}

OWN uint64_t *clone_code(const struct allocator *allocator, const struct builder *builder) {
    uint64_t *code = allocator->alloc(builder->length * sizeof *code);
    memcpy(code, builder->code, builder->length * sizeof *code);
    return code;
}

OWN struct builder *builder_clone(const struct allocator *allocator, const struct builder *builder) {
    struct builder *clone = allocator->alloc(sizeof *clone);
    *clone = *builder;
    clone->code = clone_code(allocator, builder);
    return clone;
}

/* From the time when a clone shared the code of its template. */
OWN void builder_drop_clone(const struct allocator *allocator, struct builder *clone) {
    allocator->release(clone);
}

OWN void builder_free(const struct allocator *allocator, struct builder *builder) {
    free(builder->code);
    allocator->release(builder);
}

/* Templates of 6, 9, 12 and 15 words, each specialised three times. */
OWN void clones_keep_their_code(void) {
    for (size_t i = 0; i < 4; i++) {
        struct builder *builder = builder_new(&counted), *clones[3];
        for (size_t j = 0; j < 6 + 3 * i; j++)
            builder_emit(builder, j);
        for (size_t j = 0; j < 3; j++)
            clones[j] = builder_clone(&counted, builder);
        for (size_t j = 0; j < 3; j++)
            builder_drop_clone(&counted, clones[j]);
        builder_free(&counted, builder);
    }
}

/* ---- A server that waits ---- */

struct document {
    char *text;
    uint64_t version[5];
};

static struct document *documents[30];

OWN char *document_read(size_t number) {
    return xmalloc(100 + 10 * number);
}

OWN struct document *document_open(size_t number) {
    struct document *document = xcalloc(1, sizeof *document);
    document->text = document_read(number);
    return document;
}

OWN void document_close(size_t number) {
    if (!documents[number])
        return;
    free(documents[number]->text);
    free(documents[number]);
    documents[number] = NULL;
}

OWN void wait_for_requests(void) {
    struct timespec second = {1, 0};
    if (strcmp(second_argument, "exit") == 0)
        exit(0);
    for (long left = atol(second_argument); left > 0; left--)
        nanosleep(&second, NULL);
}

/* 30 documents, of which the editor closed 18 before it fell silent. */
OWN void documents_open_while_waiting(void) {
    for (size_t i = 0; i < 30; i++)
        documents[i] = document_open(i);
    for (size_t i = 0; i < 30; i++)
        if (i % 5 != 1 && i % 5 != 3)
            document_close(i);
    wait_for_requests();
    for (size_t i = 0; i < 30; i++)
        document_close(i);
}

LEAK_MAIN({"speculation_forgets_types", speculation_forgets_types}, {"redefined_symbols_lost", redefined_symbols_lost},
          {"rehash_keeps_old_tables", rehash_keeps_old_tables}, {"wrong_label_keeps_source", wrong_label_keeps_source},
          {"phi_operands_forgotten", phi_operands_forgotten},
          {"diagnostics_of_each_request", diagnostics_of_each_request}, {"instances_bounded", instances_bounded},
          {"sources_kept_to_the_end", sources_kept_to_the_end}, {"target_described_once", target_described_once},
          {"scratch_falls_back", scratch_falls_back}, {"failed_slots_lose_operands", failed_slots_lose_operands},
          {"worker_forgets_its_share", worker_forgets_its_share},
          {"arena_reset_forgets_chunks", arena_reset_forgets_chunks},
          {"errors_free_what_is_remembered", errors_free_what_is_remembered},
          {"found_includes_keep_candidate", found_includes_keep_candidate},
          {"clones_keep_their_code", clones_keep_their_code},
          {"documents_open_while_waiting", documents_open_while_waiting})
