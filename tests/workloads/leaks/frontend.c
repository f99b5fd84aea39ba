/* Leak cases of a front end: tokens, syntax trees and error recovery, scopes and symbols, string tables, modules and
 * their caches, requests that fail. Each case's truth stands in truth.toml. */
#include "leaks.h"

#include <setjmp.h>

/* ---- Error recovery orphans what was parsed so far ---- */

struct node {
    struct node *left, *right;
    uint64_t payload[3];
};

OWN struct node *parse_operand(size_t value) {
    struct node *node = xcalloc(1, sizeof *node);
    node->payload[0] = value;
    return node;
}

/* The operator's node is larger than an operand's. */
OWN struct node *parse_operator(struct node *left, struct node *right) {
    struct node *node = xcalloc(2, sizeof *node);
    node->left = left;
    node->right = right;
    return node;
}

OWN void ast_free(struct node *node) {
    if (!node)
        return;
    ast_free(node->left);
    ast_free(node->right);
    free(node);
}

/* Statements 30, 90, 150 and 210 end after the operator: the left operand is dropped, parsing goes on after them. */
OWN struct node *parse_statement(size_t number) {
    struct node *left = parse_operand(number);
    if (number % 60 == 30)
        return NULL;
    return parse_operator(left, parse_operand(number + 1));
}

OWN void parse_file(size_t statements) {
    for (size_t i = 0; i < statements; i++)
        ast_free(parse_statement(i));
}

OWN void recovery_orphans_operands(void) {
    parse_file(240);
}

/* The same with a synchronisation that frees. */
OWN struct node *parse_statement_carefully(size_t number) {
    struct node *left = parse_operand(number);
    if (number % 60 == 30) {
        ast_free(left);
        return NULL;
    }
    return parse_operator(left, parse_operand(number + 1));
}

OWN void recovery_frees_operands(void) {
    for (size_t i = 0; i < 240; i++)
        ast_free(parse_statement_carefully(i));
}

/* ---- Tokens lost on errors ---- */

OWN uint32_t *lex_tokens(size_t count) {
    return xcalloc(count, sizeof(uint32_t));
}

OWN void tokens_free(uint32_t *tokens) {
    free(tokens);
}

OWN int check_file(size_t number) {
    uint32_t *tokens = lex_tokens(150);
    if (number % 3 == 1)
        return -1;
    tokens_free(tokens);
    return 0;
}

/* 18 files, six with errors. */
OWN void tokens_lost_on_errors(void) {
    size_t errors = 0;
    for (size_t i = 0; i < 18; i++)
        errors += check_file(i) != 0;
    if (errors != 6)
        abort();
}

/* ---- A jump out of the middle ---- */

static jmp_buf recovery;

struct function_state {
    uint64_t slots[12];
};

OWN struct function_state *begin_function(void) {
    return xcalloc(1, sizeof(struct function_state));
}

OWN void end_function(struct function_state *state) {
    free(state);
}

OWN void check_body(struct function_state *state, size_t number) {
    state->slots[0] = number;
    used(state);
    if (number % 4 == 3)
        longjmp(recovery, 1);
}

OWN void check_function(size_t number) {
    struct function_state *state = begin_function();
    check_body(state, number);
    end_function(state);
}

/* 40 functions, ten of which end in a jump over end_function(). */
OWN void jump_skips_teardown(void) {
    static volatile size_t number;
    for (number = 0; number < 40; number++)
        if (!setjmp(recovery))
            check_function(number);
}

/* ---- Growth of what was grown ---- */

struct line_table {
    uint32_t *offsets;
    size_t count, capacity;
};

OWN void line_table_add(struct line_table *table, uint32_t offset) {
    if (table->count == table->capacity) {
        table->capacity = table->capacity ? table->capacity * 2 : 8;
        table->offsets = xrealloc(table->offsets, table->capacity * sizeof *table->offsets);
    }
    table->offsets[table->count++] = offset;
}

OWN void scan_text(void) {
    char *text = xmalloc(5000);
    used(text);
    free(text);
}

OWN void scan_unit(size_t lines) {
    struct line_table table = {NULL, 0, 0};
    scan_text();
    for (size_t i = 0; i < lines; i++)
        line_table_add(&table, (uint32_t)i * 40);
    scan_text();
}

/* Ten translation units of 50 lines each: a table of 64 entries is left by each. */
OWN void line_tables_per_unit(void) {
    for (size_t i = 0; i < 10; i++)
        scan_unit(50);
}

/* ---- String table: one pass fills it, and nothing of it is ever freed ---- */

static char *interned[64];
static size_t interned_count;

OWN void intern(const char *text) {
    for (size_t i = 0; i < interned_count; i++)
        if (strcmp(interned[i], text) == 0)
            return;
    interned[interned_count++] = xstrdup(text);
}

/* Names of 2 to 41 characters, each seen four times: 40 strings, 860 characters and 40 terminators. */
OWN void lex_names(void) {
    for (size_t pass = 0; pass < 4; pass++)
        for (size_t i = 0; i < 40; i++) {
            char *name = xcalloc(1, 48);
            memset(name, 'a' + (int)(i % 26), i + 2);
            intern(name);
            free(name);
        }
}

OWN void string_table_kept(void) {
    lex_names();
}

/* ---- Scopes: the teardown frees names, but not the types beside them ---- */

struct symbol {
    char *name, *type;
};

struct scope {
    struct symbol symbols[10];
    size_t count;
};

OWN struct scope *scope_push(void) {
    return xcalloc(1, sizeof(struct scope));
}

OWN void declare_name(struct symbol *symbol) {
    symbol->name = xstrdup("variable");
}

OWN void declare_type(struct symbol *symbol, size_t depth) {
    static const char *const types[] = {"int", "double", "unsigned long"};
    symbol->type = xstrdup(types[depth % 3]);
}

OWN void scope_pop(struct scope *scope, int types) {
    for (size_t i = 0; i < scope->count; i++) {
        free(scope->symbols[i].name);
        if (types)
            free(scope->symbols[i].type);
    }
    free(scope);
}

OWN void check_scope(size_t depth, size_t symbols, int types) {
    struct scope *scope = scope_push();
    for (; scope->count < symbols; scope->count++) {
        declare_name(&scope->symbols[scope->count]);
        declare_type(&scope->symbols[scope->count], depth);
    }
    if (depth < 3)
        check_scope(depth + 1, symbols + 3 - depth, types);
    scope_pop(scope, types);
}

/* Depths 0 to 3 hold 2, 5, 7 and 8 symbols; their types take 4, 7, 14 and 4 bytes each: 22 blocks, 173 bytes. */
OWN void scope_types_forgotten(void) {
    check_scope(0, 2, (int)opaque(0));
}

OWN void scope_types_freed(void) {
    check_scope(0, 2, (int)opaque(1));
}

/* ---- A rare path behind several layers of wrappers ---- */

OWN void *mem_alloc(size_t bytes) {
    void *block = xmalloc(bytes + 8);
    used(block);
    return block;
}

OWN void *zone_alloc(size_t bytes) {
    void *block = mem_alloc((bytes + 15) & ~(size_t)15);
    used(block);
    return block;
}

OWN void *expand_arguments(size_t count) {
    return zone_alloc(count * 24);
}

OWN void end_expansion(void *arguments) {
    free(arguments);
}

/* Every 80th of 400 expansions is variadic and leaves early. */
OWN void expand_macro(size_t number) {
    void *arguments = expand_arguments(5);
    used(arguments);
    if (number % 80 == 79)
        return;
    end_expansion(arguments);
}

OWN void variadic_arguments_lost(void) {
    for (size_t i = 0; i < 400; i++)
        expand_macro(i);
}

/* ---- Requests that fail ---- */

/* Five requests nobody can grant: there is no block that could be leaked. */
OWN void huge_requests_fail(void) {
    for (size_t i = 0; i < 5; i++) {
        void *block = malloc(opaque(HUGE_BYTES) + i);
        if (block || calloc(opaque(HUGE_BYTES), 2) || realloc(NULL, opaque(HUGE_BYTES)))
            abort();
    }
}

OWN void *read_text(size_t bytes) {
    return xmalloc(bytes);
}

/* A growth that fails leaves the old block alive; it is freed afterwards. */
OWN void failed_growth_keeps_block(void) {
    for (size_t i = 0; i < 12; i++) {
        void *text = read_text(700);
        void *grown = realloc(text, opaque(i % 4 == 0 ? HUGE_BYTES : 1400));
        free(grown ? grown : text);
    }
}

/* The only pointer is overwritten by the failed growth's result. */
OWN void append_text(size_t bytes) {
    void *text = read_text(700);
    text = realloc(text, bytes);
    if (!text)
        return;
    used(text);
    free(text);
}

/* Four of 16 growths fail. */
OWN void failed_growth_loses_block(void) {
    for (size_t i = 0; i < 16; i++)
        append_text(opaque(i % 4 == 0 ? HUGE_BYTES : 1400));
}

/* ---- Dependency graph: nodes die, their edges do not ---- */

struct module_node {
    uint32_t *edges;
    uint64_t stamp;
};

OWN struct module_node *graph_add_node(size_t number) {
    struct module_node *node = xcalloc(1, sizeof *node);
    node->stamp = number;
    return node;
}

OWN void graph_add_edges(struct module_node *node, size_t edges) {
    node->edges = xcalloc(edges, sizeof *node->edges);
}

OWN void graph_free(struct module_node **nodes, size_t count) {
    for (size_t i = 0; i < count; i++)
        free(nodes[i]);
    free(nodes);
}

/* 25 modules; number i has i % 7 edges, and where that is zero no list: 21 lists with 69 edges of 4 bytes. */
OWN void dependency_edges_forgotten(void) {
    struct module_node **nodes = xcalloc(25, sizeof *nodes);
    for (size_t i = 0; i < 25; i++) {
        nodes[i] = graph_add_node(i);
        if (i % 7)
            graph_add_edges(nodes[i], i % 7);
    }
    graph_free(nodes, 25);
}

/* ---- Module cache ---- */

struct module {
    char *source, *summary;
};

static struct module *modules[8];

OWN struct module *module_load(void) {
    struct module *module = xcalloc(1, sizeof *module);
    module->source = xmalloc(2000);
    return module;
}

OWN void module_summarise(struct module *module, size_t bytes) {
    module->summary = xmalloc(bytes);
}

OWN void module_evict(struct module *module, int summaries) {
    free(module->source);
    if (summaries)
        free(module->summary);
    free(module);
}

OWN void cache_modules(int summaries) {
    for (size_t i = 0; i < 30; i++) {
        if (modules[i % 8])
            module_evict(modules[i % 8], summaries);
        modules[i % 8] = module_load();
        module_summarise(modules[i % 8], 100 + i);
    }
    for (size_t i = 0; i < 8; i++)
        module_evict(modules[i], summaries);
}

/* 30 modules pass through the cache; their summaries of 100 to 129 bytes stay behind: 3435 bytes. */
OWN void module_summaries_forgotten(void) {
    cache_modules((int)opaque(0));
}

OWN void module_cache_cleared(void) {
    cache_modules((int)opaque(1));
}

/* ---- A constant pool whose teardown stops one block short ---- */

struct constant_chunk {
    struct constant_chunk *next;
    uint64_t constants[31];
};

OWN struct constant_chunk *constant_chunk_new(struct constant_chunk *next) {
    struct constant_chunk *chunk = xcalloc(1, sizeof *chunk);
    chunk->next = next;
    return chunk;
}

/* Ends at the last chunk rather than behind it. */
OWN void constant_pool_free(struct constant_chunk *chunk) {
    while (chunk->next) {
        struct constant_chunk *next = chunk->next;
        free(chunk);
        chunk = next;
    }
}

OWN void last_constant_chunk_lost(void) {
    struct constant_chunk *pool = NULL;
    for (size_t i = 0; i < 64; i++)
        pool = constant_chunk_new(pool);
    constant_pool_free(pool);
}

LEAK_MAIN({"recovery_orphans_operands", recovery_orphans_operands},
          {"recovery_frees_operands", recovery_frees_operands}, {"tokens_lost_on_errors", tokens_lost_on_errors},
          {"jump_skips_teardown", jump_skips_teardown}, {"line_tables_per_unit", line_tables_per_unit},
          {"string_table_kept", string_table_kept}, {"scope_types_forgotten", scope_types_forgotten},
          {"scope_types_freed", scope_types_freed}, {"variadic_arguments_lost", variadic_arguments_lost},
          {"huge_requests_fail", huge_requests_fail}, {"failed_growth_keeps_block", failed_growth_keeps_block},
          {"failed_growth_loses_block", failed_growth_loses_block},
          {"dependency_edges_forgotten", dependency_edges_forgotten},
          {"module_summaries_forgotten", module_summaries_forgotten}, {"module_cache_cleared", module_cache_cleared},
          {"last_constant_chunk_lost", last_constant_chunk_lost})
