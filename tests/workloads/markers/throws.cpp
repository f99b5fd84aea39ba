// Exceptions out of marked functions, overloads and templates: what a profile names by its demangled path.
#include <cstdlib>
#include <stdexcept>
#include <vector>

#define MARKED __attribute__((noinline, used))

static volatile long sink;

namespace compiler {
struct Pass {
    MARKED void run(const char *name);
    template <class T> MARKED void visit(T value);
};
void Pass::run(const char *name) {
    std::vector<int> block(100);
    sink = sink + block[7];
    if (name[0] == 't') throw std::runtime_error(name);
}
template <class T> void Pass::visit(T value) { sink = sink + static_cast<long>(value); }
} // namespace compiler

int main() {
    compiler::Pass pass;
    for (int round = 0; round < 3; round++) {
        try {
            pass.run(round == 1 ? "runs" : "throws");
        } catch (const std::runtime_error &) {
            pass.visit(round);
        }
    }
    pass.visit(2.5);
    pass.visit('c');
}
