/* marked CASE…: calls marked functions in a known way. Which functions are marked, and what must be recorded for each case,
 * stands in tests/tests/markers.rs. */
#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MARKED __attribute__((noinline, noclone, used, visibility("default")))

static volatile long sink;
static void *volatile kept;

struct pass {
    long before[2];
    const char *name;
};

MARKED void phase_begin(int id) { sink += id; }
MARKED void phase_end(int id) { sink -= id; }
MARKED void named_begin(const char *text, size_t length) { sink += text != NULL && length > 0; }
MARKED void named_end(void) { sink++; }
MARKED void passed(const char *text) { sink += text != NULL; }
MARKED void wide(long number) { sink += number; }

/* Ends with its activation. */
MARKED void run_pass(struct pass *pass, int depth) {
    kept = malloc(1000 + depth);
    free(kept);
    if (depth > 1) run_pass(pass + 1, depth - 1);
    kept = malloc(2000 + depth);
    free(kept);
}

static struct pass passes[] = {{{0, 0}, "first"}, {{0, 0}, "second"}, {{0, 0}, "third"}};

static void numbers(void) {
    phase_begin(1);
    phase_begin(2);
    phase_end(2);
    phase_begin(-3);
    phase_end(-3);
    phase_end(1);
    wide(0x123456789abcdef);
    wide(-1);
}

/* Far from anything that is touched before: the page comes from the file when the marker is hit. */
static const char untouched[1 << 21] = {[1 << 20] = 'f', 'a', 'r'};

static void texts(void) {
    static char exact[96], longer[97], letters[] = "größe";
    memset(exact, 'x', sizeof exact);
    memset(longer, 'y', sizeof longer);
    named_begin("parsing and more", 7);
    named_end();
    named_begin(letters, strlen(letters));
    named_begin("", 0);
    named_begin(exact, sizeof exact);
    named_begin(longer, sizeof longer);
    named_begin(NULL, 3);
    named_begin((const char *)0x1000, 3);
    passed(untouched + (1 << 20));
    passed("");
    passed(NULL);
    /* Ends with its page; nothing is mapped behind it. */
    char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(pages + 4096, 4096);
    memcpy(pages + 4096 - 4, "end", 4);
    passed(pages + 4096 - 4);
    named_begin(pages + 4096 - 4, 3);
    memcpy(pages + 4096 - 3, "open", 3);
    passed(pages + 4096 - 3);
}

static void activations(void) {
    for (volatile int round = 0; round < 2; round++) run_pass(passes + round, 1);
    run_pass(passes, 3);
}

static jmp_buf out;

MARKED void leaves(const char *text) {
    kept = malloc(77);
    if (text[0] == 'j') longjmp(out, 1);
}

static void jumps(void) {
    for (volatile int round = 0; round < 3; round++)
        if (setjmp(out) == 0) leaves("jump");
    leaves("stay");
    free(kept);
}

static void *thread(void *name) {
    for (int round = 0; round < 100; round++) {
        named_begin(name, strlen(name));
        kept = malloc(10);
        phase_begin(round);
        phase_end(round);
        named_end();
    }
    return NULL;
}

static void threads(void) {
    static char names[4][8] = {"one", "two", "three", "four"};
    pthread_t all[4];
    for (int index = 0; index < 4; index++) pthread_create(&all[index], NULL, thread, names[index]);
    for (int index = 0; index < 4; index++) pthread_join(all[index], NULL);
}

static void plugin(const char *path) {
    for (int round = 0; round < 2; round++) {
        void *library = dlopen(path, RTLD_NOW);
        if (!library) abort();
        void (*phase)(const char *) = (void (*)(const char *))dlsym(library, "plugin_phase");
        phase("from a plugin");
        dlclose(library);
    }
}

static void many(void) {
    for (int round = 0; round < 200000; round++) phase_begin(round);
}

static void many_texts(void) {
    for (int round = 0; round < 100000; round++) named_begin(round % 2 ? "odd" : "even", round % 2 ? 3 : 4);
}

/* Waits for a line, then marks; until the input ends. */
static void commanded(void) {
    char line[16];
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        numbers();
        passed("commanded");
        puts("done");
        fflush(stdout);
    }
}

int main(int count, char **values) {
    for (int index = 1; index < count; index++) {
        const char *name = values[index];
        if (strcmp(name, "numbers") == 0) numbers();
        else if (strcmp(name, "texts") == 0) texts();
        else if (strcmp(name, "activations") == 0) activations();
        else if (strcmp(name, "jumps") == 0) jumps();
        else if (strcmp(name, "threads") == 0) threads();
        else if (strcmp(name, "many") == 0) many();
        else if (strcmp(name, "many_texts") == 0) many_texts();
        else if (strcmp(name, "commanded") == 0) commanded();
        else if (strcmp(name, "fork") == 0) {
            pid_t child = fork();
            if (child == 0) {
                passed("child");
                _exit(0);
            }
            waitpid(child, NULL, 0);
            passed("parent");
        } else if (strcmp(name, "fail") == 0) return 7;
        else if (name[0] == '/') plugin(name);
        else return 99;
    }
    return 0;
}
