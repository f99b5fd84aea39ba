/* A compiler of a toy language that is written with arenas, each opened and closed by the function that it is meant for. It is
 * recorded in a build without them (`arena.h`): whoever finds the arenas again from that has found the truth.
 *
 *   main                                       session          options; as long as the process
 *    ├ load_module                     × file  names            the interner
 *    │  └ compile_module                       module           declarations, syntax trees
 *    │     ├ parse_module                      tokens
 *    │     │  └ parse_function         × fn    operands         of expressions being parsed
 *    │     ├ check_module
 *    │     │  └ check_function         × fn    types
 *    │     │     └ resolve, resolve…   × use   query            the outermost call's, shared by the calls inside of it
 *    │     ├ compile_function          × fn    code             instructions
 *    │     │  ├ lower_block, lower_block…      scratch          of each block its own, blocks inside of blocks
 *    │     │  ├ run_pass               × 3     facts
 *    │     │  └ encode_function                bytes
 *    │     └ report_module                     report
 *    ├ two threads: optimise           × 2     summaries        as long as the thread
 *    │  └ optimise_unit                × fn    graph
 *    └ link_program                            link
 *
 * What has no arena, and is made by the same functions as what has one: names and trees of what a module exports, which live
 * until the program is linked; a cache of constants that forgets the oldest; diagnostics, made here and dropped there; units of
 * work and their results, each freed by another thread than made it; the growing image. The language:
 *
 *   module = { [pub] const NAME = expr ; | [pub] fn NAME ( names ) block }
 *   block  = { let NAME = expr ; | if expr block | while expr block | return expr ; | expr ; }
 *   expr   = NUMBER | NAME | NAME ( exprs ) | ( expr ) | expr + - * < expr */
#include "arena.h"
#include <ctype.h>

#define EXPORTS 4096
#define CACHE 24
#define WORKERS 2
#define UNITS 4096

struct name { struct name *next; unsigned hash, length; char text[]; };

struct token { struct token *next; char kind; long number; struct name *name; };

enum kind { NUMBER, NAME, CALL, BINARY, LET, IF, RETURN, DISCARD, BLOCK };

struct node {
    enum kind kind;
    char operator;
    long number;
    struct name *name;
    struct node *left, *right, *next; /* Next in a block or of arguments. */
    int type;
};

struct declaration {
    struct declaration *next;
    struct name *name;
    int is_function, is_public, is_const;
    struct node *parameters, *body;
};

struct diagnostic { struct diagnostic *next; unsigned line, what; char text[40]; };

struct module {
    struct arena *names, *arena;
    struct name *buckets[64];
    struct token *token;
    struct declaration *declarations, **last;
    struct diagnostic *diagnostics;
    unsigned char *image;
    size_t image_size, image_room;
    unsigned long sum;
};

struct instruction { struct instruction *next, *previous; enum kind kind; char operator; long value; unsigned target; };

struct function { struct arena *code; struct instruction *first, *last; unsigned count, registers; };

struct export { struct name *name; struct node *body; unsigned long sum; };

struct unit { unsigned number, length; long operations[]; };

struct result { struct result *next; unsigned long sum; unsigned number; };

static struct export *exports[EXPORTS];
static unsigned export_count;
static struct { unsigned key; long *value; } cache[CACHE];
static unsigned cache_at;
static struct unit *units[UNITS];
static unsigned unit_count;
static struct result *results;
static pthread_mutex_t results_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- Names ---- */

static struct name *new_name(struct arena *arena, const char *text, unsigned length) {
    struct name *name = allocate(arena, sizeof *name + length + 1);
    memcpy(name->text, text, length);
    name->length = length;
    return name;
}

static struct name *intern(struct module *module, const char *text, unsigned length) {
    unsigned hash = 5381, at;
    struct name *name;
    for (at = 0; at < length; at++) hash = hash * 33 + (unsigned char)text[at];
    for (name = module->buckets[hash % 64]; name; name = name->next)
        if (name->length == length && !memcmp(name->text, text, length)) return name;
    name = new_name(module->names, text, length);
    name->hash = hash;
    name->next = module->buckets[hash % 64];
    module->buckets[hash % 64] = name;
    return name;
}

/* ---- Tokens ---- */

static struct token *new_token(struct arena *arena, struct token *last, char kind) {
    struct token *token = allocate(arena, sizeof *token);
    token->kind = kind;
    if (last) last->next = token;
    return token;
}

static struct token *lex(struct module *module, struct arena *arena, const char *text) {
    struct token *first = 0, *last = 0;
    while (*text) {
        const char *begin = text;
        if (isspace((unsigned char)*text)) {
            text++;
            continue;
        }
        if (isdigit((unsigned char)*text)) {
            last = new_token(arena, last, '0');
            while (isdigit((unsigned char)*text)) last->number = last->number * 10 + *text++ - '0';
        } else if (isalpha((unsigned char)*text)) {
            while (isalnum((unsigned char)*text)) text++;
            last = new_token(arena, last, 'a');
            last->name = intern(module, begin, (unsigned)(text - begin));
        } else
            last = new_token(arena, last, *text++);
        if (!first) first = last;
    }
    last = new_token(arena, last, 0);
    return first ? first : last;
}

/* ---- Syntax ---- */

static struct node *new_node(struct arena *arena, enum kind kind) {
    struct node *node = allocate(arena, sizeof *node);
    node->kind = kind;
    return node;
}

static struct name *copy_name(struct arena *arena, const struct name *name) {
    return new_name(arena, name->text, name->length);
}

static struct node *copy_tree(struct arena *arena, const struct node *node) {
    struct node *copy;
    if (!node) return 0;
    copy = new_node(arena, node->kind);
    copy->operator = node->operator;
    copy->number = node->number;
    if (node->name) copy->name = copy_name(arena, node->name);
    copy->left = copy_tree(arena, node->left);
    copy->right = copy_tree(arena, node->right);
    copy->next = copy_tree(arena, node->next);
    return copy;
}

static void discard_tree(struct node *node) {
    if (!node) return;
    discard_tree(node->left);
    discard_tree(node->right);
    discard_tree(node->next);
    if (node->name) discard(node->name);
    discard(node);
}

static int accept(struct module *module, char kind) {
    if (module->token->kind != kind) return 0;
    module->token = module->token->next;
    return 1;
}

static int accept_word(struct module *module, const char *word) {
    if (module->token->kind != 'a' || strcmp(module->token->name->text, word)) return 0;
    module->token = module->token->next;
    return 1;
}

static struct name *expect_name(struct module *module) {
    struct name *name = module->token->name;
    must(accept(module, 'a'));
    return name;
}

struct operand { struct operand *below; struct node *node; char operator; int strength; };

static struct operand *push(struct arena *operands, struct operand *below, struct node *node, char operator, int strength) {
    struct operand *operand = allocate(operands, sizeof *operand);
    *operand = (struct operand){below, node, operator, strength};
    return operand;
}

static struct node *parse_expression(struct module *module, struct arena *operands);

static struct node *parse_primary(struct module *module, struct arena *operands) {
    struct node *node;
    if (accept(module, '(')) {
        node = parse_expression(module, operands);
        must(accept(module, ')'));
        return node;
    }
    node = new_node(module->arena, module->token->kind == '0' ? NUMBER : NAME);
    if (node->kind == NUMBER) {
        node->number = module->token->number;
        module->token = module->token->next;
        return node;
    }
    node->name = expect_name(module);
    if (accept(module, '(')) {
        struct node **last = &node->left;
        node->kind = CALL;
        while (!accept(module, ')')) {
            *last = parse_expression(module, operands);
            last = &(*last)->next;
            accept(module, ',');
        }
    }
    return node;
}

static int strength_of(char operator) {
    return operator == '*' ? 3 : operator == '+' || operator == '-' ? 2 : operator == '<' ? 1 : 0;
}

/* The right operand of the topmost operator is on top. */
static struct operand *reduce(struct module *module, struct arena *operands, struct operand *top) {
    struct node *node = new_node(module->arena, BINARY);
    node->operator = top->operator;
    node->left = top->below->node;
    node->right = top->node;
    return push(operands, top->below->below, node, top->below->operator, top->below->strength);
}

static struct node *parse_expression(struct module *module, struct arena *operands) {
    struct operand *top = push(operands, 0, parse_primary(module, operands), 0, 0);
    int strength;
    while ((strength = strength_of(module->token->kind))) {
        char operator = module->token->kind;
        module->token = module->token->next;
        while (top->strength >= strength) top = reduce(module, operands, top);
        top = push(operands, top, parse_primary(module, operands), operator, strength);
    }
    while (top->below) top = reduce(module, operands, top);
    return top->node;
}

static struct node *parse_block(struct module *module, struct arena *operands);

static struct node *parse_statement(struct module *module, struct arena *operands) {
    struct node *node;
    if (accept_word(module, "let")) {
        node = new_node(module->arena, LET);
        node->name = expect_name(module);
        must(accept(module, '='));
        node->left = parse_expression(module, operands);
    } else if (accept_word(module, "if") || accept_word(module, "while")) {
        node = new_node(module->arena, IF);
        node->left = parse_expression(module, operands);
        node->right = parse_block(module, operands);
        return node;
    } else if (accept_word(module, "return")) {
        node = new_node(module->arena, RETURN);
        node->left = parse_expression(module, operands);
    } else {
        node = new_node(module->arena, DISCARD);
        node->left = parse_expression(module, operands);
    }
    must(accept(module, ';'));
    return node;
}

static struct node *parse_block(struct module *module, struct arena *operands) {
    struct node *block = new_node(module->arena, BLOCK), **last = &block->left;
    must(accept(module, '{'));
    while (!accept(module, '}')) {
        *last = parse_statement(module, operands);
        last = &(*last)->next;
    }
    return block;
}

static void parse_function(struct module *module, struct declaration *function) {
    struct arena operands = {0};
    struct node **last = &function->parameters;
    arena_open(&operands, "operands");
    must(accept(module, '('));
    while (!accept(module, ')')) {
        *last = new_node(module->arena, NAME);
        (*last)->name = expect_name(module);
        last = &(*last)->next;
        accept(module, ',');
    }
    function->body = parse_block(module, &operands);
    arena_close(&operands);
}

static void parse_constant(struct module *module, struct declaration *constant) {
    struct arena operands = {0};
    arena_open(&operands, "operands");
    must(accept(module, '='));
    constant->body = parse_expression(module, &operands);
    must(accept(module, ';'));
    arena_close(&operands);
}

static struct declaration *new_declaration(struct module *module) {
    struct declaration *declaration = allocate(module->arena, sizeof *declaration);
    *module->last = declaration;
    module->last = &declaration->next;
    return declaration;
}

static void parse_module(struct module *module, const char *text) {
    struct arena tokens = {0};
    arena_open(&tokens, "tokens");
    module->token = lex(module, &tokens, text);
    while (!accept(module, 0)) {
        struct declaration *declaration = new_declaration(module);
        declaration->is_public = accept_word(module, "pub");
        declaration->is_function = accept_word(module, "fn");
        must(declaration->is_function || accept_word(module, "const"));
        declaration->name = expect_name(module);
        if (declaration->is_function)
            parse_function(module, declaration);
        else
            parse_constant(module, declaration);
        if (!module->token->kind) break;
    }
    module->token = 0;
    arena_close(&tokens);
}

/* ---- Types ---- */

struct type { struct type *outer; struct name *name; int type; };

struct constraint { struct constraint *next; struct type *left, *right; };

struct checker {
    struct module *module;
    struct arena types, query;
    struct type *scope;
    struct constraint *constraints;
    unsigned line;
};

static struct declaration *find(struct module *module, const struct name *name) {
    struct declaration *declaration = module->declarations;
    while (declaration && declaration->name != name) declaration = declaration->next;
    return declaration;
}

static void complain(struct checker *checker, const struct name *name) {
    struct diagnostic *diagnostic = allocate(0, sizeof *diagnostic);
    diagnostic->line = checker->line;
    snprintf(diagnostic->text, sizeof diagnostic->text, "%s is not declared", name->text);
    diagnostic->next = checker->module->diagnostics;
    checker->module->diagnostics = diagnostic;
}

struct visit { struct visit *next; const struct declaration *declaration; int type; };

static int resolve(struct checker *checker, const struct declaration *declaration);

static int resolve_tree(struct checker *checker, const struct node *node) {
    int type = 0;
    for (; node; node = node->next) {
        const struct declaration *used = node->kind == NAME || node->kind == CALL ? find(checker->module, node->name) : 0;
        struct visit *visit = allocate(&checker->query, sizeof *visit);
        visit->type = (int)node->kind;
        if (used && !used->is_function) type += resolve(checker, used);
        type += visit->type + resolve_tree(checker, node->left) + resolve_tree(checker, node->right);
    }
    return type;
}

/* The type of a constant follows from those of the constants in it. */
static int resolve(struct checker *checker, const struct declaration *declaration) {
    int is_outermost = !checker->query.is_open, type;
    if (is_outermost) arena_open(&checker->query, "query");
    type = resolve_tree(checker, declaration->body) % 7;
    if (is_outermost) arena_close(&checker->query);
    return type;
}

static struct type *new_type(struct checker *checker, struct name *name) {
    struct type *type = allocate(&checker->types, sizeof *type);
    type->name = name;
    return type;
}

static void constrain(struct checker *checker, struct type *left, struct type *right) {
    struct constraint *constraint = allocate(&checker->types, sizeof *constraint);
    *constraint = (struct constraint){checker->constraints, left, right};
    checker->constraints = constraint;
}

static struct type *check_expression(struct checker *checker, struct node *node) {
    struct type *type = new_type(checker, node->name), *known;
    struct node *argument;
    if (node->kind == NAME) {
        struct declaration *declaration = find(checker->module, node->name);
        for (known = checker->scope; known && known->name != node->name;) known = known->outer;
        if (known)
            constrain(checker, type, known);
        else if (declaration)
            type->type = declaration->is_function ? 1 : resolve(checker, declaration);
        else
            complain(checker, node->name);
    }
    for (argument = node->kind == CALL ? node->left : 0; argument; argument = argument->next)
        constrain(checker, type, check_expression(checker, argument));
    if (node->kind == BINARY)
        constrain(checker, check_expression(checker, node->left), check_expression(checker, node->right));
    return type;
}

static void declare(struct checker *checker, struct name *name) {
    struct type *type = new_type(checker, name);
    type->outer = checker->scope;
    checker->scope = type;
}

static void check_block(struct checker *checker, struct node *block) {
    struct type *outer = checker->scope;
    struct node *statement;
    for (statement = block->left; statement; statement = statement->next) {
        checker->line++;
        statement->type = check_expression(checker, statement->left)->type;
        if (statement->kind == LET) declare(checker, statement->name);
        if (statement->kind == IF) check_block(checker, statement->right);
    }
    checker->scope = outer;
}

static void check_function(struct module *module, struct declaration *function) {
    struct checker checker = {.module = module};
    struct node *parameter;
    arena_open(&checker.types, "types");
    for (parameter = function->parameters; parameter; parameter = parameter->next) declare(&checker, parameter->name);
    check_block(&checker, function->body);
    arena_close(&checker.types);
}

static void check_module(struct module *module) {
    struct declaration *declaration;
    for (declaration = module->declarations; declaration; declaration = declaration->next)
        if (declaration->is_function) check_function(module, declaration);
}

/* ---- Code ---- */

static struct instruction *new_instruction(struct function *function, enum kind kind, long value) {
    struct instruction *instruction = allocate(function->code, sizeof *instruction);
    instruction->kind = kind;
    instruction->value = value;
    instruction->target = function->registers++;
    instruction->previous = function->last;
    if (function->last)
        function->last->next = instruction;
    else
        function->first = instruction;
    function->last = instruction;
    function->count++;
    return instruction;
}

/* What a block knows of names and of values that it has computed already. */
struct known { struct known *next; const struct name *name; long value; unsigned target; };

struct block { struct arena scratch; struct block *outer; struct known *names, *values; };

static struct known *note(struct block *block, struct known *next, const struct name *name, long value, unsigned target) {
    struct known *known = allocate(&block->scratch, sizeof *known);
    *known = (struct known){next, name, value, target};
    return known;
}

/* Numbers are the same everywhere; the last ones are remembered beyond the module. */
static long cached(long number) {
    unsigned key = (unsigned)number % 4093, at;
    for (at = 0; at < CACHE; at++)
        if (cache[at].value && cache[at].key == key) return *cache[at].value;
    cache_at = (cache_at + 1) % CACHE;
    if (cache[cache_at].value) discard(cache[cache_at].value);
    cache[cache_at].key = key;
    cache[cache_at].value = allocate(0, sizeof(long));
    *cache[cache_at].value = number;
    return number;
}

static unsigned lower_expression(struct function *function, struct block *block, const struct node *node) {
    const struct node *argument;
    struct block *around;
    struct known *known;
    unsigned left, right;
    switch (node->kind) {
    case NUMBER:
        left = new_instruction(function, NUMBER, cached(node->number))->target;
        block->values = note(block, block->values, 0, node->number, left);
        return left;
    case NAME:
        for (around = block; around; around = around->outer)
            for (known = around->names; known; known = known->next)
                if (known->name == node->name) return known->target;
        return new_instruction(function, NAME, (long)node->name->hash)->target;
    case CALL:
        for (argument = node->left; argument; argument = argument->next) {
            left = lower_expression(function, block, argument);
            block->values = note(block, block->values, node->name, 0, left);
        }
        return new_instruction(function, CALL, (long)node->name->hash)->target;
    default:
        left = lower_expression(function, block, node->left);
        right = lower_expression(function, block, node->right);
        block->values = note(block, block->values, 0, left * 31 + right, left);
        return new_instruction(function, BINARY, node->operator)->target;
    }
}

static void lower_block(struct function *function, struct block *outer, const struct node *node) {
    struct block block = {.outer = outer};
    const struct node *statement;
    arena_open(&block.scratch, "scratch");
    for (statement = node->left; statement; statement = statement->next) {
        unsigned target = lower_expression(function, &block, statement->left);
        if (statement->kind == LET) block.names = note(&block, block.names, statement->name, 0, target);
        if (statement->kind == IF) lower_block(function, &block, statement->right);
        if (statement->kind == RETURN) new_instruction(function, RETURN, target);
    }
    arena_close(&block.scratch);
}

struct fact { struct fact *next; const struct instruction *about; long value; };

static struct fact *learn(struct arena *facts, struct fact *next, const struct instruction *about, long value) {
    struct fact *fact = allocate(facts, sizeof *fact);
    *fact = (struct fact){next, about, value};
    return fact;
}

static void fold_constants(struct function *function, struct arena *facts) {
    struct instruction *instruction, *last = function->last;
    struct fact *known = 0;
    for (instruction = function->first; instruction; instruction = instruction->next) {
        if (instruction->kind == NUMBER) known = learn(facts, known, instruction, instruction->value);
        if (instruction->kind == BINARY && known && known->next && instruction->value == '+')
            known = learn(facts, known, new_instruction(function, NUMBER, known->value + known->next->value), 0);
        if (instruction == last) break;
    }
}

static void share_values(struct function *function, struct arena *facts) {
    struct instruction *instruction;
    struct fact *known = 0;
    for (instruction = function->first; instruction; instruction = instruction->next)
        if (instruction->kind != CALL) known = learn(facts, known, instruction, instruction->value * 7 + instruction->kind);
}

static void drop_unused(struct function *function, struct arena *facts) {
    struct instruction *instruction;
    struct fact *used = 0;
    for (instruction = function->last; instruction; instruction = instruction->previous)
        if (instruction->kind == CALL || instruction->kind == RETURN || instruction->kind == BINARY)
            used = learn(facts, used, instruction, instruction->target);
}

typedef void (*pass)(struct function *, struct arena *);

static void run_pass(struct function *function, pass run) {
    struct arena facts = {0};
    arena_open(&facts, "facts");
    run(function, &facts);
    arena_close(&facts);
}

struct piece { struct piece *next; unsigned length; unsigned char bytes[16]; };

static struct piece *encode(struct arena *bytes, const struct instruction *instruction) {
    struct piece *piece = allocate(bytes, sizeof *piece);
    piece->length = 3 + (unsigned)instruction->kind % 5;
    memset(piece->bytes, (int)(instruction->value ^ instruction->target), piece->length);
    return piece;
}

/* Appends to the module's image, which doubles. */
static void write_image(struct module *module, const struct piece *piece) {
    while (module->image_size + piece->length > module->image_room) {
        module->image_room = module->image_room ? 2 * module->image_room : 512;
        module->image = resize(module->image, module->image_room);
    }
    memcpy(module->image + module->image_size, piece->bytes, piece->length);
    module->image_size += piece->length;
}

static void encode_function(struct module *module, struct function *function) {
    struct arena bytes = {0};
    struct piece *first = 0, **last = &first;
    const struct instruction *instruction;
    arena_open(&bytes, "bytes");
    for (instruction = function->first; instruction; instruction = instruction->next) {
        *last = encode(&bytes, instruction);
        last = &(*last)->next;
    }
    for (; first; first = first->next) write_image(module, first);
    arena_close(&bytes);
}

static void queue_unit(const struct function *function) {
    struct unit *unit = allocate(0, sizeof *unit + function->count * sizeof(long));
    const struct instruction *instruction;
    for (instruction = function->first; instruction; instruction = instruction->next)
        unit->operations[unit->length++] = instruction->value;
    unit->number = unit_count;
    must(unit_count < UNITS);
    units[unit_count++] = unit;
}

static void export(const struct declaration *declaration, unsigned long sum) {
    struct export *export = allocate(0, sizeof *export);
    export->name = copy_name(0, declaration->name);
    export->body = copy_tree(0, declaration->body);
    export->sum = sum;
    must(export_count < EXPORTS);
    exports[export_count++] = export;
}

/* Some bodies are copied before they are lowered, into the module; the same function copies what is exported. */
static struct node *inlined(struct module *module, const struct declaration *function) {
    return function->name->hash % 4 ? function->body : copy_tree(module->arena, function->body);
}

static void compile_function(struct module *module, struct declaration *declaration) {
    static const pass passes[] = {fold_constants, share_values, drop_unused};
    struct arena code = {0};
    struct function function = {.code = &code};
    size_t at;
    arena_open(&code, "code");
    lower_block(&function, 0, inlined(module, declaration));
    for (at = 0; at < sizeof passes / sizeof *passes; at++) run_pass(&function, passes[at]);
    encode_function(module, &function);
    queue_unit(&function);
    module->sum = module->sum * 31 + function.count;
    arena_close(&code);
}

static void report_module(struct module *module) {
    struct arena report = {0};
    struct declaration *declaration;
    struct diagnostic *diagnostic;
    arena_open(&report, "report");
    for (declaration = module->declarations; declaration; declaration = declaration->next) {
        char *line = allocate(&report, 80), *kind = allocate(&report, 16);
        snprintf(kind, 16, "%s", declaration->is_function ? "function" : "constant");
        snprintf(line, 80, "%s %.40s%s", kind, declaration->name->text, declaration->is_public ? " (exported)" : "");
        module->sum = module->sum * 31 + strlen(line);
    }
    while ((diagnostic = module->diagnostics)) {
        char *line = allocate(&report, 100);
        snprintf(line, 100, "%u: %s", diagnostic->line, diagnostic->text);
        module->sum = module->sum * 31 + strlen(line);
        module->diagnostics = diagnostic->next;
        discard(diagnostic);
    }
    arena_close(&report);
}

static void compile_module(struct module *module, const char *text) {
    struct arena arena = {0};
    struct declaration *declaration;
    arena_open(&arena, "module");
    module->arena = &arena;
    module->last = &module->declarations;
    parse_module(module, text);
    check_module(module);
    for (declaration = module->declarations; declaration; declaration = declaration->next) {
        if (declaration->is_function) compile_function(module, declaration);
        if (declaration->is_public) export(declaration, module->sum);
    }
    report_module(module);
    arena_close(&arena);
}

static char *read_text(const char *path) {
    char *text = 0;
    size_t size = 0, room = 0;
    ssize_t got;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    must(file >= 0);
    do {
        if (room - size < 1024) text = resize(text, room = room ? 2 * room : 4096);
        got = read(file, text + size, room - size - 1);
        must(got >= 0);
        size += (size_t)got;
    } while (got);
    text[size] = 0;
    close(file);
    return text;
}

static void say(const char *what, unsigned long number) {
    char line[80];
    int length = snprintf(line, sizeof line, "%.40s %lu\n", what, number);
    must(write(1, line, (size_t)length) == length);
}

static unsigned long load_module(const char *path) {
    struct arena names = {0};
    struct module module = {.names = &names};
    char *text = read_text(path);
    arena_open(&names, "names");
    compile_module(&module, text);
    discard(text);
    arena_close(&names);
    if (module.image) discard(module.image);
    say("module", module.sum * 31 + module.image_size);
    return module.sum;
}

/* ---- Threads ---- */

struct vertex { struct vertex *next, *edge; long value; };

struct summary { struct summary *next; unsigned length; unsigned long sum; };

static unsigned long optimise_unit(const struct unit *unit) {
    struct arena graph = {0};
    struct vertex *vertices = 0, *vertex;
    unsigned long sum = 0;
    unsigned at;
    arena_open(&graph, "graph");
    for (at = 0; at < unit->length; at++) {
        vertex = allocate(&graph, sizeof *vertex);
        *vertex = (struct vertex){vertices, at % 3 ? vertices : 0, unit->operations[at]};
        vertices = vertex;
    }
    for (vertex = vertices; vertex; vertex = vertex->next)
        sum = sum * 31 + (unsigned long)(vertex->value + (vertex->edge ? vertex->edge->value : 0));
    arena_close(&graph);
    return sum;
}

static void publish(unsigned number, unsigned long sum) {
    struct result *result = allocate(0, sizeof *result);
    result->number = number;
    result->sum = sum;
    pthread_mutex_lock(&results_lock);
    result->next = results;
    results = result;
    pthread_mutex_unlock(&results_lock);
}

static void *optimise(void *number) {
    struct arena summaries = {0};
    struct summary *last = 0;
    unsigned at;
    arena_open(&summaries, "summaries");
    for (at = (unsigned)(uintptr_t)number; at < unit_count; at += WORKERS) {
        struct summary *summary = allocate(&summaries, sizeof *summary);
        *summary = (struct summary){last, units[at]->length, optimise_unit(units[at])};
        publish(at, summary->sum + (last ? last->length : 0));
        last = summary;
        discard(units[at]);
    }
    arena_close(&summaries);
    return 0;
}

static void optimise_program(void) {
    pthread_t threads[WORKERS];
    uintptr_t at;
    for (at = 0; at < WORKERS; at++) must(!pthread_create(&threads[at], 0, optimise, (void *)at));
    for (at = 0; at < WORKERS; at++) must(!pthread_join(threads[at], 0));
}

/* ---- The end ---- */

struct symbol { struct symbol *next; const char *name; unsigned long sum; };

static unsigned long link_program(void) {
    struct arena link = {0};
    struct symbol *symbols = 0;
    struct result *result;
    unsigned long sum = 0;
    unsigned at;
    arena_open(&link, "link");
    for (at = 0; at < export_count; at++) {
        struct symbol *symbol = allocate(&link, sizeof *symbol);
        *symbol = (struct symbol){symbols, exports[at]->name->text, exports[at]->sum};
        symbols = symbol;
    }
    for (; symbols; symbols = symbols->next) sum = sum * 31 + symbols->sum + (unsigned char)symbols->name[0];
    while ((result = results)) {
        struct symbol *symbol = allocate(&link, sizeof *symbol);
        symbol->sum = result->sum;
        sum += symbol->sum * (result->number + 1);
        results = result->next;
        discard(result);
    }
    arena_close(&link);
    return sum;
}

static void discard_exports(void) {
    while (export_count) {
        struct export *export = exports[--export_count];
        discard_tree(export->body);
        discard(export->name);
        discard(export);
    }
}

int main(int argument_count, char **arguments) {
    struct arena session = {0};
    int at;
    arena_open(&session, "session");
    for (at = 1; at < argument_count; at++) {
        struct name *path = new_name(&session, arguments[at], (unsigned)strlen(arguments[at]));
        load_module(path->text);
    }
    optimise_program();
    say("program", link_program());
    discard_exports();
    for (at = 0; at < CACHE; at++)
        if (cache[at].value) discard(cache[at].value);
    arena_close(&session);
    return 0;
}
