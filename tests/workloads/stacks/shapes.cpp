// Exceptions, destructors, virtual calls, lambdas: stacks known from how they are written, blocks named by their sizes.
#include <cstdlib>
#include <dlfcn.h>
#include <functional>
#include <new>
#include <stdexcept>

#define FRAME __attribute__((noinline))
#define STAY() __asm__ volatile("" ::: "memory")

static void *volatile sink;

extern "C" FRAME void take(size_t bytes) { sink = malloc(bytes); STAY(); free(sink); STAY(); }

extern "C" FRAME void throws() { throw std::runtime_error("thrown"); }
extern "C" FRAME void in_handler() { try { throws(); } catch (const std::exception &) { take(200001); STAY(); } }

struct Guard { FRAME ~Guard(); };
extern "C" FRAME void in_destructor() { take(200002); STAY(); }
Guard::~Guard() { in_destructor(); STAY(); }
extern "C" FRAME void unwound() { Guard guard; throws(); STAY(); }
extern "C" FRAME void catches() { try { unwound(); } catch (...) { STAY(); } }

struct Base { virtual void act() = 0; virtual ~Base() {} };
extern "C" FRAME void from_virtual() { take(200003); STAY(); }
struct Derived final : Base { FRAME void act() override { from_virtual(); STAY(); } };
extern "C" FRAME void calls_virtual(Base *base) { base->act(); STAY(); }

extern "C" FRAME void from_lambda() { take(200004); STAY(); }
extern "C" FRAME void calls_lambda(const std::function<void()> &lambda) { lambda(); STAY(); }

extern "C" FRAME void news() { char *block = new char[200005]; sink = block; STAY(); delete[] block; STAY(); }

extern "C" FRAME void closes(const char *path) {
    void *library = dlopen(path, RTLD_NOW);
    if (!library || dlclose(library)) abort();
    STAY();
}

int main(int, char **arguments) {
    in_handler();
    catches();
    Derived derived;
    calls_virtual(&derived);
    calls_lambda([] { from_lambda(); STAY(); });
    news();
    closes(arguments[1]);
    return 0;
}
