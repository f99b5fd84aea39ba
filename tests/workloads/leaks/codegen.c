/* Leak cases of a back end: machine code buffers, virtual instructions and what they own, register allocation, code
 * caches. Each case's truth stands in truth.toml. */
#include "leaks.h"

/* ---- A buffer whose finish() copies ---- */

struct mach_buffer {
    uint8_t *data;
    size_t used, capacity;
};

OWN void mach_buffer_init(struct mach_buffer *buffer, size_t capacity) {
    buffer->data = xmalloc(capacity);
    buffer->used = 0;
    buffer->capacity = capacity;
}

OWN void mach_buffer_deinit(struct mach_buffer *buffer) {
    free(buffer->data);
    buffer->data = NULL;
}

OWN void mach_buffer_reserve(struct mach_buffer *buffer, size_t more) {
    size_t capacity = buffer->capacity;
    while (buffer->used + more > capacity)
        capacity *= 2;
    if (capacity != buffer->capacity)
        buffer->data = xrealloc(buffer->data, capacity);
    buffer->capacity = capacity;
}

OWN int mach_buffer_emit(struct mach_buffer *buffer, size_t instructions, int encodable) {
    for (size_t i = 0; i < instructions; i++) {
        mach_buffer_reserve(buffer, 4);
        memset(buffer->data + buffer->used, 0xd5, 4);
        buffer->used += 4;
        if (!encodable && i == instructions / 2)
            return -1;
    }
    return 0;
}

OWN uint8_t *mach_buffer_finish(struct mach_buffer *buffer) {
    uint8_t *code = xmalloc(buffer->used);
    memcpy(code, buffer->data, buffer->used);
    return code;
}

OWN void discard_code(uint8_t *code) {
    free(code);
}

/* Frees the buffer on errors only, though its content was copied out. */
OWN uint8_t *emit_errdefer(size_t capacity, size_t instructions, int encodable) {
    struct mach_buffer buffer;
    mach_buffer_init(&buffer, capacity);
    if (mach_buffer_emit(&buffer, instructions, encodable)) {
        mach_buffer_deinit(&buffer);
        return NULL;
    }
    return mach_buffer_finish(&buffer);
}

/* The same repaired: frees it in any case. */
OWN uint8_t *emit_defer(size_t capacity, size_t instructions, int encodable) {
    struct mach_buffer buffer;
    uint8_t *code = NULL;
    mach_buffer_init(&buffer, capacity);
    if (!mach_buffer_emit(&buffer, instructions, encodable))
        code = mach_buffer_finish(&buffer);
    mach_buffer_deinit(&buffer);
    return code;
}

/* 13 compilations, of which numbers 2, 6 and 11 fail. */
OWN void buffer_freed_only_on_error(void) {
    for (size_t i = 0; i < 13; i++) {
        uint8_t *code = emit_errdefer(384, 70, i != 2 && i != 6 && i != 11);
        if (code)
            discard_code(code);
    }
}

OWN void buffer_freed_always(void) {
    for (size_t i = 0; i < 13; i++) {
        uint8_t *code = emit_defer(384, 70, i != 2 && i != 6 && i != 11);
        if (code)
            discard_code(code);
    }
}

/* 64 bytes grow to 512 before the end; 9 compilations, numbers 1 and 5 fail. */
OWN void grown_buffer_freed_only_on_error(void) {
    for (size_t i = 0; i < 9; i++) {
        uint8_t *code = emit_errdefer(64, 100, i != 1 && i != 5);
        if (code)
            discard_code(code);
    }
}

/* ---- Instructions that own slices ---- */

enum inst_kind { INST_ADD, INST_ARGS, INST_RETS, INST_INDIRECT_BR, INST_JT_SEQUENCE };

struct arg_pair {
    uint32_t vreg, preg;
    uint64_t type;
};

struct ret_pair {
    uint32_t vreg, preg, bits;
};

struct inst {
    enum inst_kind kind;
    void *slice;
};

struct vcode {
    struct inst *insts;
    size_t inst_count, inst_capacity;
    uint32_t *vreg_types;
};

/* What a function of the input holds: how many of each instruction, and how many elements each owns. */
struct shape {
    size_t params, returns, values, indirects, targets, tables, entries;
};

static const struct shape shapes[4] = {
    {2, 2, 1, 1, 4, 1, 8},
    {4, 3, 2, 2, 3, 2, 5},
    {1, 1, 1, 1, 6, 3, 7},
    {6, 4, 1, 0, 0, 2, 16},
};

OWN void vcode_init(struct vcode *code) {
    code->insts = NULL;
    code->inst_count = code->inst_capacity = 0;
    code->vreg_types = xcalloc(100, 4);
}

OWN void vcode_push(struct vcode *code, enum inst_kind kind, void *slice) {
    if (code->inst_count == code->inst_capacity) {
        code->inst_capacity = code->inst_capacity ? code->inst_capacity * 2 : 4;
        code->insts = xrealloc(code->insts, code->inst_capacity * sizeof *code->insts);
    }
    code->insts[code->inst_count].kind = kind;
    code->insts[code->inst_count++].slice = slice;
}

OWN void lower_params(struct vcode *code, size_t params) {
    struct arg_pair *args = xcalloc(params, sizeof *args);
    vcode_push(code, INST_ARGS, args);
}

OWN void lower_return(struct vcode *code, size_t values) {
    struct ret_pair *rets = xcalloc(values, sizeof *rets);
    vcode_push(code, INST_RETS, rets);
}

OWN void lower_indirect_branch(struct vcode *code, size_t targets) {
    uint32_t *labels = xcalloc(targets, sizeof *labels);
    vcode_push(code, INST_INDIRECT_BR, labels);
}

OWN void lower_jump_table(struct vcode *code, size_t entries) {
    uint32_t *labels = xcalloc(entries, sizeof *labels);
    vcode_push(code, INST_JT_SEQUENCE, labels);
}

OWN void lower_function(struct vcode *code, const struct shape *shape) {
    lower_params(code, shape->params);
    for (size_t i = 0; i < shape->returns; i++) {
        vcode_push(code, INST_ADD, NULL);
        lower_return(code, shape->values);
    }
    for (size_t i = 0; i < shape->indirects; i++)
        lower_indirect_branch(code, shape->targets);
    for (size_t i = 0; i < shape->tables; i++)
        lower_jump_table(code, shape->entries);
}

/* Which kinds of instruction the teardown knows to own something: one bit per kind. */
OWN void inst_deinit(struct inst *inst, unsigned kinds) {
    if (kinds >> inst->kind & 1)
        free(inst->slice);
}

OWN void vcode_deinit(struct vcode *code, unsigned kinds) {
    if (kinds)
        for (size_t i = 0; i < code->inst_count; i++)
            inst_deinit(&code->insts[i], kinds);
    free(code->vreg_types);
    free(code->insts);
}

OWN void compile_shapes(unsigned kinds) {
    for (size_t i = 0; i < 4; i++) {
        struct vcode code;
        vcode_init(&code);
        lower_function(&code, &shapes[i]);
        vcode_deinit(&code, kinds);
    }
}

OWN void instruction_slices_forgotten(void) {
    compile_shapes(0);
}

OWN void instruction_rets_forgotten(void) {
    compile_shapes(1u << INST_ARGS | 1u << INST_INDIRECT_BR | 1u << INST_JT_SEQUENCE);
}

OWN void instruction_slices_freed(void) {
    compile_shapes(1u << INST_ARGS | 1u << INST_RETS | 1u << INST_INDIRECT_BR | 1u << INST_JT_SEQUENCE);
}

/* ---- Everything kept on purpose ---- */

static struct vcode module_code[4];

OWN void compile_module(void) {
    for (size_t i = 0; i < 4; i++) {
        vcode_init(&module_code[i]);
        lower_function(&module_code[i], &shapes[i]);
    }
}

OWN void module_deinit(int disable_free) {
    if (disable_free)
        return;
    for (size_t i = 0; i < 4; i++)
        vcode_deinit(&module_code[i], ~0u);
}

OWN void disable_free_exit(void) {
    compile_module();
    module_deinit((int)opaque(1));
}

OWN void teardown_at_exit(void) {
    compile_module();
    module_deinit((int)opaque(0));
}

/* ---- Register allocation: a rare merge loses the block it merged away ---- */

struct bundle {
    uint32_t ranges[14];
};

OWN struct bundle *bundle_new(void) {
    return xcalloc(1, sizeof(struct bundle));
}

/* Numbers 17, 44, 71 and 98 are merged into their predecessors. */
OWN void merge_bundles(struct bundle **bundles, size_t count) {
    for (size_t i = 17; i < count && i <= 98; i += 27) {
        bundles[i - 1]->ranges[0] += bundles[i]->ranges[0];
        bundles[i] = NULL;
    }
}

OWN void release_bundles(struct bundle **bundles, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (bundles[i])
            free(bundles[i]);
}

OWN void allocate_registers(void) {
    struct bundle **bundles = xcalloc(120, sizeof *bundles);
    for (size_t i = 0; i < 120; i++)
        bundles[i] = bundle_new();
    merge_bundles(bundles, 120);
    release_bundles(bundles, 120);
    free(bundles);
}

OWN void merged_bundles_lost(void) {
    allocate_registers();
}

/* ---- Growth per compiled function ---- */

struct relocation {
    struct relocation *next;
    uint64_t offset, addend, symbol, kind, unit;
};

static struct relocation *all_relocations;

OWN void record_relocation(size_t offset) {
    struct relocation *relocation = xmalloc(sizeof *relocation);
    relocation->offset = offset;
    relocation->next = all_relocations;
    all_relocations = relocation;
}

OWN void schedule_blocks(void) {
    char *scratch = xmalloc(900);
    used(scratch);
    free(scratch);
}

OWN void compile_function(size_t number) {
    schedule_blocks();
    record_relocation(number * 16);
    schedule_blocks();
    record_relocation(number * 16 + 8);
}

/* Twelve functions, two records each, and nobody ever takes the list apart. */
OWN void relocations_pile_up(void) {
    for (size_t i = 0; i < 12; i++)
        compile_function(i);
}

/* ---- A cache with an upper bound ---- */

static void *cached_code[16];

OWN void cache_evict(size_t slot) {
    free(cached_code[slot]);
    cached_code[slot] = NULL;
}

OWN void cache_insert(size_t key) {
    size_t slot = key % 16;
    if (cached_code[slot])
        cache_evict(slot);
    cached_code[slot] = xmalloc(128);
}

/* 60 insertions into 16 slots. */
OWN void code_cache_bounded(void) {
    for (size_t key = 0; key < 60; key++)
        cache_insert(key);
}

/* ---- Made once, kept to the end ---- */

static uint32_t *opcode_table;

OWN void opcode_table_init(void) {
    opcode_table = xcalloc(512, sizeof *opcode_table);
}

OWN uint32_t encode(size_t opcode) {
    if (!opcode_table)
        opcode_table_init();
    return opcode_table[opcode % 512];
}

OWN void opcode_table_kept(void) {
    for (size_t i = 0; i < 50; i++) {
        schedule_blocks();
        opaque(encode(i));
    }
}

static FILE *listing;

OWN void open_listing(void) {
    listing = fopen("/dev/null", "w");
    if (!listing)
        abort();
}

OWN void write_listing(void) {
    for (size_t i = 0; i < 50; i++)
        if (fputs("mov x0, x1\n", listing) < 0)
            abort();
}

/* A stream that nobody closes: its FILE and its buffer belong to the C library. */
OWN void listing_stream_open_at_exit(void) {
    open_listing();
    write_listing();
}

/* ---- All of it in one process ---- */

OWN void mixed_back_end(void) {
    opcode_table_kept();
    allocate_registers();
    instruction_rets_forgotten();
    buffer_freed_always();
    relocations_pile_up();
}

LEAK_MAIN({"buffer_freed_only_on_error", buffer_freed_only_on_error}, {"buffer_freed_always", buffer_freed_always},
          {"grown_buffer_freed_only_on_error", grown_buffer_freed_only_on_error},
          {"instruction_slices_forgotten", instruction_slices_forgotten},
          {"instruction_rets_forgotten", instruction_rets_forgotten},
          {"instruction_slices_freed", instruction_slices_freed}, {"disable_free_exit", disable_free_exit},
          {"teardown_at_exit", teardown_at_exit}, {"merged_bundles_lost", merged_bundles_lost},
          {"relocations_pile_up", relocations_pile_up}, {"code_cache_bounded", code_cache_bounded},
          {"opcode_table_kept", opcode_table_kept}, {"listing_stream_open_at_exit", listing_stream_open_at_exit},
          {"mixed_back_end", mixed_back_end})
