/* A compiler that compiles nothing, but allocates as compilers do: phases one after another, one instance per function inside
 * of some, phases inside of phases, code generated on three threads while the main thread emits, scratch, vectors that grow
 * across phases, artifacts that are handed on, tables that stay. What each phase did and what became of each block it says
 * itself (`phase_truth.h`); where each block's scope is follows from how this is written (`lifetimes.rs` has the list).
 *
 *   options ─┬─ lex ─ parse ─ check ─────────── lower ────────── emit ──────────────────── teardown ─ finish, cut short
 *  (outside) │                 └ check function  └ lower function  (codegen threads run)     by _exit
 *            │                     └ types            └ types
 *            └ three workers:  codegen, codegen, codegen, …  each with `encode` inside
 *
 * For phases that stacks alone show: within an instance of a repeated phase its own frame only goes on in its code, so that
 * whoever sees it go back sees another call; and a thread passes its turn on only inside of a phase, or after it has
 * allocated outside of it, so that whoever sees events only knows in time that the phase is over. */
#include "phase_truth.h"

#define FUNCTIONS 9
#define QUIET 4 /* A function of which there is nothing to check. */
#define WORKERS 3
#define UNITS (FUNCTIONS / WORKERS)

static int syntax[FUNCTIONS], bodies[FUNCTIONS], types[FUNCTIONS], code[FUNCTIONS];
static int options, late_options, symbols, strings, notes, log_line;
static size_t symbol_bytes = 1000;

void timer_begin(int phase) { phase_begins(phase == 5 ? "emit" : "teardown"); }
void timer_end(int phase) {
    must(phase == 5 || phase == 6);
    phase_ends();
}

int lex_line(int line) { return take(300 + (size_t)line); }

void lex_file(void) {
    int line, tokens, text;
    phase_begins("lex");
    text = take(5000);
    for (line = 0; line < 20; line++) {
        tokens = lex_line(line);
        give(tokens);
    }
    strings = take(2222);
    give(text);
    phase_ends();
}

int new_node(int function) { return take(700 + (size_t)function * 11); }
int parse_item(int function) { return new_node(function); }

/* Each call's block is given back by the outermost: its scope is `depth` frames out. */
int nest(int depth) { return depth == 0 ? take(77) : nest(depth - 1); }
void parse_expressions(void) {
    int deep = nest(20);
    give(deep);
    deep = nest(5);
    give(deep);
}

void parse_file(void) {
    int function;
    phase_begins("parse");
    symbols = take(symbol_bytes);
    for (function = 0; function < FUNCTIONS; function++) syntax[function] = parse_item(function);
    parse_expressions();
    symbols = grow(symbols, symbol_bytes *= 2);
    give(strings);
    phase_ends();
}

int intern(int function) {
    int key, type;
    phase_begins("types");
    key = take(48);
    type = take(160 + (size_t)function);
    give(key);
    phase_ends();
    return type;
}

/* Three times from one call. */
void resolve(int function) {
    int round, type;
    for (round = 0; round < 3; round++) {
        type = intern(function + round);
        if (round == 1)
            types[function] = type;
        else
            give(type);
    }
}

void check_function(int function) {
    int scratch;
    phase_begins("check function");
    if (function != QUIET) {
        scratch = take(1200 + (size_t)function);
        resolve(function);
        scratch = grow(scratch, 2500);
        must(!realloc(blocks[scratch].memory, HUGE_BYTES));
        symbols = grow(symbols, symbol_bytes += 333);
        give(scratch);
    }
    phase_ends();
}

void check_file(void) {
    int function;
    phase_begins("check");
    for (function = 0; function < FUNCTIONS; function++) check_function(function);
    give(late_options);
    phase_ends();
}

int new_body(int function) { return take(900 + (size_t)function * 7); }

void lower_function(int function) {
    phase_begins("lower function");
    bodies[function] = new_body(function);
    give(intern(function));
    bodies[function] = grow(bodies[function], 1900 + (size_t)function);
    give(syntax[function]);
    phase_ends();
}

void lower_file(void) {
    int function, empty;
    phase_begins("lower");
    empty = take(64);
    for (function = 0; function < FUNCTIONS; function++) lower_function(function);
    must(!realloc(blocks[empty].memory, 0));
    death(empty);
    symbols = grow(symbols, symbol_bytes += 1);
    give(bodies[0]);
    bodies[0] = new_body(0);
    phase_ends();
}

int encode(int function) {
    int table, encoded;
    phase_begins("encode");
    table = take(4000);
    encoded = take(600 + (size_t)function);
    give(table);
    phase_ends();
    return encoded;
}

void codegen_unit(int function) {
    int scratch;
    phase_begins("codegen");
    scratch = take(3000 + (size_t)function);
    pass_to((me + 1) % (WORKERS + 1));
    code[function] = encode(function);
    bodies[function] = grow(bodies[function], 50);
    give(scratch);
    give(bodies[function]);
    phase_ends();
}

int note_unit(int function) { return take(20 + (size_t)function); }

void *worker(void *number) {
    int unit, noted[UNITS];
    thread_begins((int)(intptr_t)number);
    wait_for_turn();
    for (unit = 0; unit < UNITS; unit++) {
        int function = unit * WORKERS + me - 1;
        codegen_unit(function);
        noted[unit] = note_unit(function);
        pass_to((me + 1) % (WORKERS + 1));
    }
    for (unit = 0; unit < UNITS; unit++) give(noted[unit]);
    leave_to((me + 1) % (WORKERS + 1));
    return 0;
}

void emit_file(void) {
    int round, function, buffer;
    size_t size = 100;
    timer_begin(5);
    buffer = take(size);
    for (round = 0; round < 2 * UNITS + 1; round++) {
        pass_to(1);
        for (function = 0; function < FUNCTIONS; function++)
            if (code[function]) {
                buffer = grow(buffer, size += blocks[code[function]].size);
                give(code[function]);
                code[function] = 0;
            }
    }
    give(buffer);
    timer_end(5);
}

void drop_types(void) {
    int function;
    for (function = 0; function < FUNCTIONS; function++)
        if (types[function] && function % 2) {
            give(types[function]);
            types[function] = 0;
        }
}

void teardown(void) {
    timer_begin(6);
    give(symbols);
    drop_types();
    timer_end(6);
}

void finish(void) {
    phase_begins("finish");
    log_line = take(123);
    tell_truth();
    _exit(0);
}

/* A phase that the books say nothing of: what is allocated in it is the C library's own. */
void start_workers(pthread_t *workers) {
    int number;
    for (number = 1; number <= WORKERS; number++)
        must(!pthread_create(&workers[number - 1], 0, worker, (void *)(intptr_t)number));
}

int main(void) {
    pthread_t workers[WORKERS];
    int number;
    thread_begins(0);
    thread_count = WORKERS + 1;
    start_workers(workers);
    options = take(555);
    late_options = take(66);
    notes = take(7);
    lex_file();
    parse_file();
    check_file();
    lower_file();
    emit_file();
    for (number = 0; number < WORKERS; number++) must(!pthread_join(workers[number], 0));
    teardown();
    /* Half of the types go here, outside of all phases; those that began the list stay. */
    for (number = 2; number < FUNCTIONS; number++)
        if (types[number]) give(types[number]);
    give(options);
    finish();
}
