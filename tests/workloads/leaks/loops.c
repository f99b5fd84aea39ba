/* Leak cases of allocations whose failure is an error value, in and around loops: where the error path is taken the
 * allocation never happened, so there is nothing that path could leak; where an earlier one happened, there is. Each
 * case's truth stands in truth.toml. */
#include "leaks.h"

/* An error or a block, as languages with error unions return it. */
struct result {
    int error;
    void *block;
};

/* A result inside a result: the outer error says that the request was malformed. */
struct nested {
    int error;
    struct result inner;
};

OWN struct result allocator_create(size_t bytes) {
    struct result result = {0, malloc(bytes)};
    if (!result.block)
        result.error = 12;
    return result;
}

OWN void allocator_destroy(void *block) {
    free(block);
}

/* The size that fails where `fail` says so. */
static inline size_t size_or_failure(size_t bytes, int fail) {
    return opaque(fail ? HUGE_BYTES : bytes);
}

/* Returns at the first failure, from within the loop. */
OWN int create_or_return(size_t rounds, size_t failing) {
    for (size_t i = 0; i < rounds; i++) {
        struct result block = allocator_create(size_or_failure(1, i == failing));
        if (block.error)
            return 1;
        *(char *)block.block = (char)i;
        used(block.block);
        allocator_destroy(block.block);
    }
    return 0;
}

OWN void catch_return_with_allocation(void) {
    if (create_or_return(3, 3) != 0 || create_or_return(3, 2) != 1 || create_or_return(3, 0) != 1)
        abort();
}

/* Hands an error on to its caller, which loops. */
OWN struct result try_create(size_t bytes) {
    struct result block = allocator_create(bytes);
    if (block.error)
        return block;
    memset(block.block, 1, 24);
    used(block.block);
    return block;
}

OWN int try_all(size_t rounds, size_t failing) {
    for (size_t i = 0; i < rounds; i++) {
        struct result block = try_create(size_or_failure(24, i == failing));
        if (block.error)
            return block.error;
        allocator_destroy(block.block);
    }
    return 0;
}

OWN void try_with_allocation_in_function_returning_error(void) {
    if (try_all(20, 20) != 0 || try_all(20, 13) != 12)
        abort();
}

OWN struct nested create_nested(size_t bytes, int malformed) {
    struct nested result = {malformed, {0, NULL}};
    if (!malformed)
        result.inner = allocator_create(bytes);
    return result;
}

/* Every fifth request is malformed, every seventh fails, the others succeed. */
OWN void nested_error_unions(void) {
    size_t outer = 0, inner = 0;
    for (size_t i = 1; i <= 35; i++) {
        struct nested result = create_nested(size_or_failure(40, i % 7 == 0), i % 5 == 0);
        if (result.error) {
            outer++;
            continue;
        }
        if (result.inner.error) {
            inner++;
            continue;
        }
        allocator_destroy(result.inner.block);
    }
    if (outer != 7 || inner != 4)
        abort();
}

/* The results are stored first and looked at afterwards. */
OWN void error_union_stored_before_check(void) {
    struct result stored[30];
    for (size_t i = 0; i < 30; i++)
        stored[i] = allocator_create(size_or_failure(48, i % 6 == 5));
    for (size_t i = 0; i < 30; i++) {
        if (stored[i].error)
            continue;
        allocator_destroy(stored[i].block);
    }
}

/* Three allocations, one check; the error path frees what there is. */
OWN int create_three(size_t failing) {
    struct result first = allocator_create(size_or_failure(56, failing == 1));
    struct result second = allocator_create(size_or_failure(72, failing == 2));
    struct result third = allocator_create(size_or_failure(88, failing == 3));
    int error = first.error | second.error | third.error;
    allocator_destroy(first.block);
    allocator_destroy(second.block);
    allocator_destroy(third.block);
    return error;
}

OWN void multiple_allocations_with_single_check(void) {
    for (size_t i = 0; i < 24; i++)
        if (create_three(i % 4) != (i % 4 ? 12 : 0))
            abort();
}

/* No error when allocating and freeing in the same iteration. */
OWN void allocate_and_free_in_same_iteration(void) {
    for (size_t i = 0; i < 40; i++) {
        struct result block = allocator_create(opaque(16));
        if (block.error)
            return;
        allocator_destroy(block.block);
    }
}

/* No error with correct cleanup of nested loops. */
OWN void correct_nested_loop_cleanup(void) {
    for (size_t i = 0; i < 8; i++) {
        struct result outer = allocator_create(opaque(104));
        if (outer.error)
            return;
        for (size_t j = 0; j < 5; j++) {
            struct result inner = allocator_create(size_or_failure(32, i == 6 && j == 3));
            if (inner.error)
                break;
            allocator_destroy(inner.block);
        }
        allocator_destroy(outer.block);
    }
}

/* ---- The same shapes with the leak they invite ---- */

OWN void *open_section(void) {
    struct result block = allocator_create(opaque(120));
    if (block.error)
        abort();
    used(block.block);
    return block.block;
}

OWN void close_section(void *section) {
    allocator_destroy(section);
}

/* The second allocation fails, and the early return forgets the first. */
OWN int write_section(int fail) {
    void *section = open_section();
    struct result body = allocator_create(size_or_failure(72, fail));
    if (body.error)
        return body.error;
    allocator_destroy(body.block);
    close_section(section);
    return 0;
}

/* 15 sections, five of which fail. */
OWN void early_return_forgets_first_allocation(void) {
    for (size_t i = 0; i < 15; i++)
        if (write_section(i % 3 == 2) != (i % 3 == 2 ? 12 : 0))
            abort();
}

OWN void *enter_loop(void) {
    struct result block = allocator_create(opaque(136));
    if (block.error)
        abort();
    used(block.block);
    return block.block;
}

OWN void leave_loop(void *state) {
    allocator_destroy(state);
}

/* The inner loop's failure leaves both loops, the outer loop's block stays behind. */
OWN int unroll(size_t failing) {
    for (size_t i = 0; i < 4; i++) {
        void *state = enter_loop();
        for (size_t j = 0; j < 3; j++) {
            struct result inner = allocator_create(size_or_failure(32, i == failing && j == 1));
            if (inner.error)
                return inner.error;
            allocator_destroy(inner.block);
        }
        leave_loop(state);
    }
    return 0;
}

/* Ten loops: four are left early in their second round, so 6 * 4 + 4 * 2 = 32 blocks, of which 4 are lost. */
OWN void nested_loop_left_early(void) {
    for (size_t i = 0; i < 10; i++)
        if (unroll(i < 4 ? 1 : 9) != (i < 4 ? 12 : 0))
            abort();
}

OWN struct nested decode_nested(int malformed) {
    struct nested result = {malformed, allocator_create(opaque(152))};
    used(result.inner.block);
    return result;
}

/* The outer error hides that the inner result holds a block. */
OWN int decode(int malformed) {
    struct nested result = decode_nested(malformed);
    if (result.error)
        return result.error;
    allocator_destroy(result.inner.block);
    return 0;
}

/* Five of 20 requests are malformed. */
OWN void nested_error_hides_block(void) {
    for (size_t i = 0; i < 20; i++)
        if (decode(i % 4 == 3) != (i % 4 == 3))
            abort();
}

LEAK_MAIN({"catch_return_with_allocation", catch_return_with_allocation},
          {"try_with_allocation_in_function_returning_error", try_with_allocation_in_function_returning_error},
          {"nested_error_unions", nested_error_unions},
          {"error_union_stored_before_check", error_union_stored_before_check},
          {"multiple_allocations_with_single_check", multiple_allocations_with_single_check},
          {"allocate_and_free_in_same_iteration", allocate_and_free_in_same_iteration},
          {"correct_nested_loop_cleanup", correct_nested_loop_cleanup},
          {"early_return_forgets_first_allocation", early_return_forgets_first_allocation},
          {"nested_loop_left_early", nested_loop_left_early}, {"nested_error_hides_block", nested_error_hides_block})
