// std::bad_alloc thrown by libstdc++'s operator new and caught, beside ordinary, aligned, array and nothrow forms. The
// calls of malloc come from libstdc++, so the reader finds the program's own blocks by their sizes: 30011 and above,
// which no library asks for here (the exception object and the emergency pool are listed in the test).
#include <new>
#include "truth.h"

struct alignas(256) Wide {
    char bytes[256 * 121]; // 30976
};

OWN static void refuse(size_t bytes) {
    try {
        delete[] new char[bytes];
        truth_die("operator new returned");
    } catch (const std::bad_alloc &) {
        note_failed("malloc", bytes);
    }
}

OWN static void deeper(int depth, size_t bytes) {
    volatile char room[100];
    room[0] = (char)depth;
    if (depth > 0)
        deeper(depth - 1, bytes);
    else
        refuse(bytes);
    room[1] = room[0];
}

int main() {
    for (int round = 0; round < 50; round++) {
        char *kept = new char[30011];
        note_alloc("malloc", 30011);
        deeper(round % 20, HUGE_BYTES - (size_t)round);
        char *more = new char[30013 + (size_t)round];
        note_alloc("malloc", 30013 + (size_t)round);
        must(new (std::nothrow) char[HUGE_BYTES - 100] == nullptr);
        note_failed("malloc", HUGE_BYTES - 100);
        Wide *wide = new Wide;
        note_alloc("aligned_alloc", sizeof(Wide));
        delete wide;
        note_free(sizeof(Wide));
        delete[] kept;
        note_free(30011);
        delete[] more;
        note_free(30013 + (size_t)round);
    }
    truth_write("bad_alloc");
    return 0;
}
