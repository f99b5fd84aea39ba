// Leak cases of compilers in C++: shared ownership, exceptions, constructors and destructors, containers, registries.
// Each case's truth stands in truth.toml.
#include "leaks.h"

#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#define METHOD __attribute__((noinline))

namespace llvm {
// Keeps what is deliberately not freed reachable, so that leak checkers stay silent.
__attribute__((noinline, used)) void BuryPointer(const void *pointer) {
    __attribute__((used)) static const void *volatile graveyard[16];
    static unsigned count;
    if (count < 16)
        graveyard[count++] = pointer;
}
} // namespace llvm

// ---- Shared ownership ----

struct Scope {
    std::shared_ptr<Scope> captured;
    uint64_t symbols[6];
};

OWN std::shared_ptr<Scope> make_scope() {
    return std::make_shared<Scope>();
}

OWN void drop_scope(std::shared_ptr<Scope> &scope) {
    scope.reset();
}

// Numbers 39, 79, 119 and 159 belong to closures that capture the scope they are defined in.
OWN void shared_ptr_cycle() {
    for (size_t i = 0; i < 160; i++) {
        std::shared_ptr<Scope> scope = make_scope();
        if (i % 40 == 39)
            scope->captured = scope;
        drop_scope(scope);
    }
}

// ---- Exceptions ----

struct Resolver {
    uint64_t state[20];
};

OWN Resolver *make_resolver() {
    Resolver *resolver = new Resolver;
    used(resolver);
    return resolver;
}

OWN void drop_resolver(Resolver *resolver) {
    delete resolver;
}

OWN void resolve_names(Resolver *resolver, size_t number) {
    used(resolver);
    if (number % 4 == 1)
        throw std::runtime_error("unresolved name");
}

OWN void resolve_unit(size_t number) {
    Resolver *resolver = make_resolver();
    resolve_names(resolver, number);
    drop_resolver(resolver);
}

// Seven of 28 units do not resolve.
OWN void exception_skips_delete() {
    for (size_t i = 0; i < 28; i++)
        try {
            resolve_unit(i);
        } catch (const std::runtime_error &) {
        }
}

class CodeBuffer {
  public:
    METHOD explicit CodeBuffer(bool encodable) {
        reserve();
        if (!encodable)
            throw std::length_error("section too large");
    }
    METHOD ~CodeBuffer() {
        delete[] bytes;
    }
    CodeBuffer(const CodeBuffer &) = delete;
    CodeBuffer &operator=(const CodeBuffer &) = delete;

  private:
    METHOD void reserve() {
        bytes = new char[640];
        used(bytes);
    }
    char *bytes = nullptr;
};

OWN void emit_section(bool encodable) {
    CodeBuffer buffer(encodable);
    used(&buffer);
}

// Five of 20 constructors throw once the buffer is there: the destructor of what was never constructed does not run.
OWN void constructor_throws_after_allocation() {
    for (size_t i = 0; i < 20; i++)
        try {
            emit_section(i % 4 != 2);
        } catch (const std::length_error &) {
        }
}

struct Module {
    std::vector<uint32_t> functions;
    uint64_t hash;
    Module() = default;
    METHOD ~Module() {
        hash = 0;
    }
};

OWN Module *make_module() {
    Module *module = new Module;
    used(module);
    return module;
}

OWN void fill_module(Module *module) {
    module->functions.reserve(20);
    for (uint32_t i = 0; i < 20; i++)
        module->functions.push_back(i);
}

OWN void drop_module(Module *module) {
    delete module;
}

OWN void check_module(Module *module, size_t number) {
    used(module);
    if (number % 4 == 0)
        throw std::runtime_error("type error");
}

OWN void compile_module(size_t number) {
    Module *module = make_module();
    fill_module(module);
    check_module(module, number);
    drop_module(module);
}

// Four of 16 modules do not check; what they contain is lost with them.
OWN void exception_loses_owner_of_container() {
    for (size_t i = 0; i < 16; i++)
        try {
            compile_module(i);
        } catch (const std::runtime_error &) {
        }
}

// ---- Destructors that forget ----

class GenericType {
  public:
    METHOD void set_name(size_t length) {
        name = new char[length];
        used(name);
    }
    METHOD void set_arguments(size_t count) {
        arguments = new void *[count];
        used(arguments);
    }
    METHOD ~GenericType() {
        delete[] name;
    }
    GenericType() = default;
    GenericType(const GenericType &) = delete;
    GenericType &operator=(const GenericType &) = delete;

  private:
    char *name = nullptr;
    void **arguments = nullptr;
};

OWN void drop_types(GenericType *types) {
    delete[] types;
}

// 22 types with 1 to 5 arguments in turn: 22 lists, 63 pointers.
OWN void destructor_forgets_arguments() {
    GenericType *types = new GenericType[22];
    for (size_t i = 0; i < 22; i++) {
        types[i].set_name(10 + i);
        types[i].set_arguments(1 + i % 5);
    }
    drop_types(types);
}

class Type {
  public:
    virtual ~Type() = default;
    METHOD virtual void destroy() {
        free(name);
        delete this;
    }
    METHOD void set_name(size_t length) {
        name = static_cast<char *>(xmalloc(length));
    }

  protected:
    char *name = nullptr;
};

class FunctionType : public Type {
  public:
    METHOD void set_parameters(size_t count) {
        parameters = static_cast<Type **>(xcalloc(count, sizeof(Type *)));
    }
    // Repeats what the base class does, all but the name.
    METHOD void destroy() override {
        free(parameters);
        delete this;
    }

  private:
    Type **parameters = nullptr;
};

OWN FunctionType *make_function_type() {
    return new FunctionType;
}

// 14 names of 30 to 43 bytes: 511 bytes.
OWN void override_forgets_base_teardown() {
    std::vector<Type *> types;
    types.reserve(14);
    for (size_t i = 0; i < 14; i++) {
        FunctionType *type = make_function_type();
        type->set_name(30 + i);
        type->set_parameters(2 + i % 3);
        types.push_back(type);
    }
    for (Type *type : types)
        type->destroy();
}

struct Symbol {
    uint64_t words[5];
};

OWN Symbol *make_symbol() {
    Symbol *symbol = new Symbol;
    used(symbol);
    return symbol;
}

class SymbolTable {
  public:
    SymbolTable() = default;
    METHOD void declare(size_t key) {
        symbols.emplace(key, make_symbol());
    }
    METHOD ~SymbolTable() {
        symbols.clear();
    }
    SymbolTable(const SymbolTable &) = delete;
    SymbolTable &operator=(const SymbolTable &) = delete;

  private:
    std::unordered_map<size_t, Symbol *> symbols;
};

OWN void check_function(size_t symbols) {
    SymbolTable table;
    for (size_t i = 0; i < symbols; i++)
        table.declare(i);
}

// Three tables with 9, 14 and 5 symbols: the tables' nodes die with them, the symbols they point to do not.
OWN void symbol_table_forgets_values() {
    check_function(9);
    check_function(14);
    check_function(5);
}

struct Instruction {
    uint64_t opcode;
    std::string name;
};

class Arena {
  public:
    Arena() = default;
    METHOD void *take(size_t bytes) {
        if (chunks.empty() || offset + bytes > 1024) {
            chunks.push_back(xmalloc(1024));
            offset = 0;
        }
        offset += bytes;
        return static_cast<char *>(chunks.back()) + offset - bytes;
    }
    METHOD ~Arena() {
        for (void *chunk : chunks)
            free(chunk);
    }
    Arena(const Arena &) = delete;
    Arena &operator=(const Arena &) = delete;

  private:
    std::vector<void *> chunks;
    size_t offset = 0;
};

// Names of 15 characters and fewer live in the string itself, longer ones elsewhere.
OWN void make_instruction(Arena &arena, size_t name) {
    Instruction *instruction = new (arena.take(sizeof(Instruction))) Instruction;
    instruction->name.assign(name, 'i');
}

// The arena frees its memory without destroying what was built in it: 40 names of 31 to 70 characters.
OWN void arena_skips_destructors() {
    Arena arena;
    for (size_t i = 0; i < 40; i++) {
        make_instruction(arena, 8);
        make_instruction(arena, 31 + i);
    }
}

// ---- Registries ----

struct NamedType {
    std::string name;
    uint64_t size;
};

class TypeRegistry {
  public:
    METHOD void add(const std::string &name, NamedType *type) {
        types.emplace(name, type);
    }
    METHOD bool has(const std::string &name) const {
        return types.count(name) != 0;
    }
    METHOD void reserve() {
        types.reserve(64);
    }

  private:
    std::unordered_map<std::string, NamedType *> types;
};

static TypeRegistry *volatile all_types;

OWN TypeRegistry *make_registry() {
    return new TypeRegistry;
}

OWN NamedType *make_named_type(const std::string &name) {
    return new NamedType{name, 8};
}

OWN void use_type(size_t number) {
    std::string name(24, static_cast<char>('A' + number));
    if (!all_types->has(name))
        all_types->add(name, make_named_type(name));
}

// 32 types with names of 24 characters, made at their first use of five, all alive to the end as is the registry.
OWN void registry_kept_whole() {
    all_types = make_registry();
    all_types->reserve();
    for (size_t i = 0; i < 160; i++)
        use_type(i % 32);
}

struct Targets {
    uint64_t features[40];
};

OWN Targets &targets() {
    static Targets &only = *new Targets();
    return only;
}

OWN void function_static_kept() {
    for (size_t i = 0; i < 60; i++) {
        targets().features[i % 40]++;
        delete make_symbol();
    }
}

OWN void *make_consumer() {
    return ::operator new(144);
}

OWN void *make_context() {
    return ::operator new(4000);
}

OWN void *make_action() {
    return ::operator new(88);
}

// What -disable-free does: three objects are buried rather than deleted.
OWN void bury_pointer() {
    llvm::BuryPointer(make_context());
    llvm::BuryPointer(make_consumer());
    llvm::BuryPointer(make_action());
}

struct Analysis {
    Analysis *next;
    std::string name;
};

static Analysis *volatile analyses;

OWN void register_analysis() {
    analyses = new Analysis{analyses, std::string(40, 'a')};
}

OWN void run_passes() {
    drop_resolver(make_resolver());
    register_analysis();
    drop_resolver(make_resolver());
}

// Nine runs of the pass manager, each registers what the run before had registered: a node and its name.
OWN void analyses_registered_by_each_run() {
    for (size_t i = 0; i < 9; i++)
        run_passes();
}

// ---- Smart pointers ----

struct Pass {
    uint64_t options[9];
};

OWN std::unique_ptr<Pass> make_pass() {
    return std::make_unique<Pass>();
}

OWN void drop_pass(std::unique_ptr<Pass> &pass) {
    pass.reset();
}

// Numbers 25 and 65 of 80 are released to somebody who does not take them.
OWN void released_pointer_lost() {
    for (size_t i = 0; i < 80; i++) {
        std::unique_ptr<Pass> pass = make_pass();
        used(pass.get());
        if (i % 40 == 25)
            used(pass.release());
        else
            drop_pass(pass);
    }
}

static thread_local std::vector<uint64_t> per_thread;

OWN void compile_on_thread() {
    for (uint64_t i = 0; i < 100; i++)
        per_thread.push_back(i);
}

// The vectors die with their threads.
OWN void thread_local_vectors_destroyed() {
    for (size_t i = 0; i < 6; i++)
        std::thread(compile_on_thread).join();
}

struct TreeNode {
    std::vector<std::unique_ptr<TreeNode>> children;
    std::weak_ptr<Scope> scope;
    std::string text;
};

OWN std::unique_ptr<TreeNode> build_tree(const std::shared_ptr<Scope> &scope, size_t depth) {
    auto node = std::make_unique<TreeNode>();
    node->scope = scope;
    node->text.assign(20 + depth, 't');
    if (depth == 0)
        throw std::runtime_error("nested too deeply");
    for (size_t i = 0; i < 3 && depth > 2; i++)
        node->children.push_back(build_tree(scope, depth - 1));
    if (depth == 2)
        node->children.push_back(build_tree(scope, 0));
    return node;
}

// Trees that are finished and trees that an exception takes apart; owners destroy everything.
OWN void owners_destroy_everything() {
    for (size_t i = 0; i < 12; i++)
        try {
            std::shared_ptr<Scope> scope = make_scope();
            std::unique_ptr<TreeNode> tree = build_tree(scope, i % 3 == 0 ? 5 : 1);
            used(tree.get());
        } catch (const std::runtime_error &) {
        }
}

LEAK_MAIN({"shared_ptr_cycle", shared_ptr_cycle}, {"exception_skips_delete", exception_skips_delete},
          {"constructor_throws_after_allocation", constructor_throws_after_allocation},
          {"exception_loses_owner_of_container", exception_loses_owner_of_container},
          {"destructor_forgets_arguments", destructor_forgets_arguments},
          {"override_forgets_base_teardown", override_forgets_base_teardown},
          {"symbol_table_forgets_values", symbol_table_forgets_values},
          {"arena_skips_destructors", arena_skips_destructors}, {"registry_kept_whole", registry_kept_whole},
          {"function_static_kept", function_static_kept}, {"bury_pointer", bury_pointer},
          {"analyses_registered_by_each_run", analyses_registered_by_each_run},
          {"released_pointer_lost", released_pointer_lost},
          {"thread_local_vectors_destroyed", thread_local_vectors_destroyed},
          {"owners_destroy_everything", owners_destroy_everything})
