// A library with an object whose destructor allocates when the library is closed.
#include <cstdlib>

#define FRAME __attribute__((noinline, noclone))
#define STAY() __asm__ volatile("" ::: "memory")

static void *volatile sink;
extern "C" FRAME void take(size_t bytes) { sink = malloc(bytes); STAY(); free(sink); STAY(); }

struct Last { FRAME ~Last(); };
Last::~Last() { take(200006); STAY(); }
static Last last;
