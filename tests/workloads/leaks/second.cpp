// The second set of leak cases in C++: teardown by kind, cycles between owners, exceptions, moves and clones, weak
// references, tables made once, processes that end in the middle. Each case's truth stands in second.toml.
#include "leaks.h"

#include <future>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
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

// ---- Teardown by kind ----

enum class Kind : uint64_t { Literal, Binary, Call };

struct Expr {
    Kind kind;
    uint64_t span[2];
};

struct Binary : Expr {
    Expr *left, *right;
};

struct Call : Expr {
    std::vector<Expr *> arguments;
};

OWN Expr *make_literal() {
    Expr *literal = new Expr;
    literal->kind = Kind::Literal;
    used(literal);
    return literal;
}

OWN void set_arguments(Call *call, size_t count) {
    call->arguments.reserve(count);
    for (size_t i = 0; i < count; i++)
        call->arguments.push_back(make_literal());
}

OWN Expr *make_call(size_t arguments) {
    Call *call = new Call;
    call->kind = Kind::Call;
    set_arguments(call, arguments);
    return call;
}

OWN Expr *make_binary(Expr *left, Expr *right) {
    Binary *binary = new Binary;
    binary->kind = Kind::Binary;
    binary->left = left;
    binary->right = right;
    return binary;
}

// From the time when the arguments of a call stood behind it.
OWN void destroy(Expr *expr) {
    switch (expr->kind) {
    case Kind::Literal:
        delete expr;
        break;
    case Kind::Binary: {
        Binary *binary = static_cast<Binary *>(expr);
        destroy(binary->left);
        destroy(binary->right);
        delete binary;
        break;
    }
    case Kind::Call:
        for (Expr *argument : static_cast<Call *>(expr)->arguments)
            destroy(argument);
        ::operator delete(expr);
        break;
    }
}

// Ten expressions with two calls each.
OWN void calls_keep_argument_vectors() {
    for (size_t i = 0; i < 10; i++) {
        Expr *call = make_call(1 + i % 3);
        destroy(make_binary(call, make_call(2)));
    }
}

// ---- Sessions and their analyses ----

struct Session;

struct Analysis {
    std::shared_ptr<Session> session;
    uint64_t result[4];
};

struct Session {
    std::vector<std::shared_ptr<Analysis>> analyses;
    uint64_t options[3];
};

OWN std::shared_ptr<Session> open_session() {
    auto session = std::make_shared<Session>();
    session->analyses.reserve(2);
    return session;
}

OWN void add_analysis(const std::shared_ptr<Session> &session) {
    auto analysis = std::make_shared<Analysis>();
    analysis->session = session;
    session->analyses.push_back(analysis);
}

OWN void analyse_unit() {
    std::shared_ptr<Session> session = open_session();
    add_analysis(session);
    add_analysis(session);
    used(session.get());
}

// An analysis owns the session that owns it: none of seven sessions dies.
OWN void sessions_and_analyses_own_each_other() {
    for (size_t i = 0; i < 7; i++)
        analyse_unit();
}

// ---- Exceptions while arguments are lowered ----

struct Operand {
    uint64_t words[5];
};

OWN void check_operand(size_t number, size_t position) {
    if (number % 4 == 3 && position == 2)
        throw std::runtime_error("operand out of range");
}

OWN Operand *make_operand() {
    Operand *operand = new Operand;
    used(operand);
    return operand;
}

OWN Operand **lower_arguments(size_t number) {
    Operand **arguments = new Operand *[3];
    for (size_t i = 0; i < 3; i++) {
        check_operand(number, i);
        arguments[i] = make_operand();
    }
    return arguments;
}

OWN void drop_arguments(Operand **arguments) {
    for (size_t i = 0; i < 3; i++)
        delete arguments[i];
    delete[] arguments;
}

OWN void lower_call(size_t number) {
    drop_arguments(lower_arguments(number));
}

// Eight of 32 calls have a third argument that cannot be lowered.
OWN void exception_loses_arguments() {
    for (size_t i = 0; i < 32; i++)
        try {
            lower_call(i);
        } catch (const std::runtime_error &) {
        }
}

// ---- Keywords ----

using Keywords = std::unordered_map<std::string, unsigned>;

OWN std::string keyword(unsigned number) {
    std::string text = "kw_";
    text += static_cast<char>('a' + number % 26);
    return text;
}

OWN Keywords *make_keywords() {
    Keywords *table = new Keywords;
    table->reserve(20);
    for (unsigned i = 0; i < 20; i++)
        table->emplace(keyword(i), i);
    return table;
}

OWN const Keywords &keywords() {
    static const Keywords &table = *make_keywords();
    return table;
}

OWN size_t scan_file(size_t number) {
    std::vector<unsigned> tokens;
    for (unsigned i = 0; i < 10 + number; i++) {
        auto found = keywords().find(keyword(i));
        tokens.push_back(found == keywords().end() ? 0 : found->second);
    }
    return tokens.size();
}

// A table without destructor, made when the first of 15 files is scanned.
OWN void keywords_made_once() {
    for (size_t i = 0; i < 15; i++)
        if (scan_file(i) != 10 + i)
            abort();
}

// ---- Moves ----

class IntervalList {
  public:
    METHOD explicit IntervalList(size_t count) {
        allocate(count);
    }
    METHOD ~IntervalList() {
        delete[] intervals;
    }
    // Does not ask what it held before.
    METHOD IntervalList &operator=(IntervalList &&other) {
        intervals = std::exchange(other.intervals, nullptr);
        return *this;
    }
    IntervalList(const IntervalList &) = delete;

  private:
    METHOD void allocate(size_t count) {
        intervals = new uint64_t[count];
        used(intervals);
    }
    uint64_t *intervals = nullptr;
};

OWN void assign_register(size_t number) {
    IntervalList list(3 + number % 4);
    if (number % 30 == 11) {
        IntervalList tail(2);
        list = std::move(tail);
    }
    used(&list);
}

// Of 120 values, numbers 11, 41, 71 and 101 are split.
OWN void move_overwrites_intervals() {
    for (size_t i = 0; i < 120; i++)
        assign_register(i);
}

// ---- Clones ----

class GenericType {
  public:
    METHOD explicit GenericType(const char *text) : name(text), parameters(6) {
    }
    METHOD GenericType(const GenericType &other) : name(other.name), parameters(other.parameters) {
    }
    METHOD virtual ~GenericType() {
        used(this);
    }
    METHOD virtual GenericType *clone() const {
        return new GenericType(*this);
    }

  private:
    std::string name;
    std::vector<uint32_t> parameters;
};

OWN GenericType *make_template() {
    return new GenericType("specialised_generic_type");
}

OWN void drop_type(GenericType *type) {
    delete type;
}

// Whether the same instance was there already is asked after cloning.
OWN GenericType *specialise(const GenericType *generic, size_t number) {
    GenericType *clone = generic->clone();
    used(clone);
    return number % 24 == 13 ? nullptr : clone;
}

// Of 72 specialisations, numbers 13, 37 and 61 were there already.
OWN void clone_lost_when_cached() {
    GenericType *generic = make_template();
    for (size_t i = 0; i < 72; i++)
        drop_type(specialise(generic, i));
    drop_type(generic);
}

// ---- Weak references ----

struct Module {
    std::vector<uint32_t> code;
    uint64_t hash[6];
};

using ModuleCache = std::map<size_t, std::weak_ptr<Module>>;

OWN ModuleCache &module_cache() {
    static ModuleCache &cache = *new ModuleCache;
    return cache;
}

OWN void read_code(Module &module) {
    module.code.reserve(50);
    used(module.code.data());
}

OWN std::shared_ptr<Module> load_module() {
    return std::make_shared<Module>();
}

OWN void remember_module(size_t number, const std::shared_ptr<Module> &module) {
    module_cache()[number] = module;
}

OWN void drop_module(std::shared_ptr<Module> &module) {
    module.reset();
}

OWN void build_unit(size_t number) {
    std::shared_ptr<Module> module = load_module();
    read_code(*module);
    remember_module(number, module);
    drop_module(module);
}

// The entry of a module that is gone still holds the block in which it and its counts lay.
OWN void weak_entries_hold_modules() {
    for (size_t i = 0; i < 10; i++)
        build_unit(i);
}

// ---- Errors that travel between threads ----

OWN int compile_task(size_t number) {
    std::vector<uint64_t> code(20 + number);
    used(code.data());
    if (number % 5 == 2)
        throw std::runtime_error("this message is too long to be stored in the string itself");
    return static_cast<int>(code.size());
}

// 30 tasks run on another thread; six of them fail there and are asked here.
OWN void futures_carry_errors() {
    std::vector<std::packaged_task<int()>> tasks;
    std::vector<std::future<int>> results;
    for (size_t i = 0; i < 30; i++) {
        tasks.emplace_back([i] { return compile_task(i); });
        results.push_back(tasks.back().get_future());
    }
    std::thread worker([&tasks] {
        for (auto &task : tasks)
            task();
    });
    worker.join();
    size_t failed = 0;
    for (auto &result : results)
        try {
            result.get();
        } catch (const std::runtime_error &) {
            failed++;
        }
    if (failed != 6)
        abort();
}

// ---- The end in the middle ----

struct TypeRef {
    uint64_t words[3];
};

struct Declaration {
    TypeRef *type;
    uint64_t words[4];
};

struct Unit {
    std::vector<Declaration *> declarations;
};

OWN Unit *open_unit() {
    Unit *unit = new Unit;
    unit->declarations.reserve(12);
    return unit;
}

OWN void attach_type(Declaration *declaration) {
    declaration->type = new TypeRef;
    used(declaration->type);
}

OWN void add_declaration(Unit *unit) {
    Declaration *declaration = new Declaration;
    attach_type(declaration);
    unit->declarations.push_back(declaration);
}

OWN void drop_unit(Unit *unit) {
    for (Declaration *declaration : unit->declarations) {
        delete declaration->type;
        delete declaration;
    }
    delete unit;
}

OWN void check_unit(Unit *unit, size_t number) {
    for (size_t i = 0; i < 12; i++)
        add_declaration(unit);
    if (number == 3)
        std::exit(0);
}

static Unit *current_unit;

// Asked to stop after the check of the fourth unit, the process does: that unit is still open.
OWN void exit_with_open_unit() {
    for (size_t i = 0;; i++) {
        current_unit = open_unit();
        check_unit(current_unit, i);
        drop_unit(current_unit);
    }
}

// ---- Given up on purpose ----

struct Subtarget {
    uint64_t features[15];
};

struct TargetMachine {
    Subtarget *subtarget;
    uint64_t options[25];
};

OWN Subtarget *make_subtarget() {
    Subtarget *subtarget = new Subtarget;
    used(subtarget);
    return subtarget;
}

OWN TargetMachine *make_target_machine() {
    TargetMachine *machine = new TargetMachine;
    machine->subtarget = make_subtarget();
    return machine;
}

OWN void emit_module(const TargetMachine *machine, size_t number) {
    std::vector<uint64_t> code(machine->subtarget ? 30 + number : 0);
    used(code.data());
}

// The machine serves ten modules and is buried.
OWN void target_machine_buried() {
    TargetMachine *machine = make_target_machine();
    for (size_t i = 0; i < 10; i++)
        emit_module(machine, i);
    llvm::BuryPointer(machine);
}

LEAK_MAIN({"calls_keep_argument_vectors", calls_keep_argument_vectors},
          {"sessions_and_analyses_own_each_other", sessions_and_analyses_own_each_other},
          {"exception_loses_arguments", exception_loses_arguments}, {"keywords_made_once", keywords_made_once},
          {"move_overwrites_intervals", move_overwrites_intervals}, {"clone_lost_when_cached", clone_lost_when_cached},
          {"weak_entries_hold_modules", weak_entries_hold_modules}, {"futures_carry_errors", futures_carry_errors},
          {"exit_with_open_unit", exit_with_open_unit}, {"target_machine_buried", target_machine_buried})
