/* A library that is opened late and has a marked function. */
static volatile long sink;
__attribute__((noinline, noclone, visibility("default"))) void plugin_phase(const char *text) { sink += text[0]; }
