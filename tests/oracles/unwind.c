/* An unwinder that shares nothing with ours: libunwind, on threads that somebody else has stopped.
 *
 * Reads one request per line:  pid tid ordinal n rip rsp rbp rbx r12 r13 r14 r15 (slot original)*n      numbers in hex but
 * pid, tid, ordinal and n. A (slot, original) pair is a return address that a return probe has replaced: memory at `slot` is
 * to read `original`. Writes one line to the file named by the first argument:  pid tid ordinal end module:vaddr …  the
 * innermost frame first; `end` is 0 where libunwind found the end of the stack, else its error. Then says "\n" on standard
 * output: the thread may go on. No call here needs to trace the thread: memory is read through process_vm_readv. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <libunwind-x86_64.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_PAIRS 64
#define MAX_FRAMES 4096

static pid_t pid;
static unw_word_t registers[17];
static unw_word_t slots[MAX_PAIRS], originals[MAX_PAIRS];
static int pairs;

static int access_mem(unw_addr_space_t space, unw_word_t at, unw_word_t *value, int write, void *argument) {
    (void)space; (void)argument;
    if (write) return -UNW_EINVAL;
    for (int index = 0; index < pairs; index++)
        if (slots[index] == at) { *value = originals[index]; return 0; }
    struct iovec here = {value, 8}, there = {(void *)at, 8};
    return process_vm_readv(pid, &here, 1, &there, 1, 0) == 8 ? 0 : -UNW_EINVAL;
}

static int access_reg(unw_addr_space_t space, unw_regnum_t number, unw_word_t *value, int write, void *argument) {
    (void)space; (void)argument;
    if (write || number < 0 || number > 16) return -UNW_EBADREG;
    *value = registers[number];
    return 0;
}

static int access_fpreg(unw_addr_space_t s, unw_regnum_t n, unw_fpreg_t *v, int w, void *a) {
    (void)s; (void)n; (void)v; (void)w; (void)a;
    return -UNW_EBADREG;
}
static void put_unwind_info(unw_addr_space_t s, unw_proc_info_t *i, void *a) {
    (void)s; (void)i; (void)a;
}
static int no_list(unw_addr_space_t s, unw_word_t *at, void *a) { (void)s; (void)at; (void)a; return -UNW_ENOINFO; }
static int no_resume(unw_addr_space_t s, unw_cursor_t *c, void *a) { (void)s; (void)c; (void)a; return -UNW_EINVAL; }
static int no_name(unw_addr_space_t s, unw_word_t at, char *b, size_t n, unw_word_t *o, void *a) {
    (void)s; (void)at; (void)b; (void)n; (void)o; (void)a;
    return -UNW_ENOINFO;
}

/* Executable mappings of the process now. */
struct mapping { unw_word_t start, end, offset; char path[512]; };
static struct mapping *mappings;
static int mapping_count, mapping_room;

static void read_mappings(void) {
    char name[64], line[1024];
    snprintf(name, sizeof name, "/proc/%d/maps", pid);
    FILE *file = fopen(name, "r");
    mapping_count = 0;
    if (!file) return;
    while (fgets(line, sizeof line, file)) {
        struct mapping found = {0};
        char rights[8];
        found.path[0] = 0;
        if (sscanf(line, "%lx-%lx %7s %lx %*s %*s %511[^\n]", &found.start, &found.end, rights, &found.offset, found.path) < 4) continue;
        if (rights[2] != 'x') continue;
        if (mapping_count == mapping_room) {
            mapping_room = mapping_room ? 2 * mapping_room : 64;
            mappings = realloc(mappings, mapping_room * sizeof *mappings);
            if (!mappings) abort();
        }
        mappings[mapping_count++] = found;
    }
    fclose(file);
}

static int read_memory(unw_word_t at, void *to, size_t bytes) {
    struct iovec here = {to, bytes}, there = {(void *)at, bytes};
    return process_vm_readv(pid, &here, 1, &there, 1, 0) == (ssize_t)bytes;
}

/* Where the code of a mapping lies against its file's addresses, and its .eh_frame_hdr. 0 where there is none. */
static unw_word_t unwind_index(const struct mapping *one) {
    Elf64_Ehdr head;
    Elf64_Phdr headers[64];
    int file = one->path[0] == '/' ? open(one->path, O_RDONLY | O_CLOEXEC) : -1;
    int known = file >= 0 ? pread(file, &head, sizeof head, 0) == sizeof head : read_memory(one->start, &head, sizeof head);
    size_t bytes = known && head.e_phnum <= 64 ? head.e_phnum * sizeof *headers : 0;
    known = bytes && (file >= 0 ? pread(file, headers, bytes, head.e_phoff) == (ssize_t)bytes
                                : read_memory(one->start + head.e_phoff, headers, bytes));
    if (file >= 0) close(file);
    if (!known) return 0;
    unw_word_t bias = 0, index = 0;
    int found = 0;
    for (int at = 0; at < head.e_phnum; at++) {
        Elf64_Phdr *h = &headers[at];
        if (h->p_type == PT_GNU_EH_FRAME) index = h->p_vaddr;
        if (h->p_type == PT_LOAD && (h->p_flags & PF_X) && one->offset >= (h->p_offset & ~0xfffUL) && one->offset < h->p_offset + h->p_filesz) {
            bias = one->start - one->offset + h->p_offset - h->p_vaddr;
            found = 1;
        }
    }
    return found && index ? bias + index : 0;
}

int _Ux86_64_dwarf_search_unwind_table(unw_addr_space_t, unw_word_t, unw_dyn_info_t *, unw_proc_info_t *, int, void *);

/* libunwind's own search mistakes files whose code does not begin at a page of the file, as lld links them. */
static int find_proc_info(unw_addr_space_t space, unw_word_t ip, unw_proc_info_t *info, int need, void *argument) {
    static struct { unw_word_t start, end, index; } known[512];
    static int count, of_pid;
    if (of_pid != pid) { of_pid = pid; count = 0; }
    for (int at = 0; at < mapping_count; at++) {
        struct mapping *one = &mappings[at];
        if (ip < one->start || ip >= one->end) continue;
        int place = 0;
        while (place < count && (known[place].start != one->start || known[place].end != one->end)) place++;
        if (place == count) {
            if (count == 512) return -UNW_ENOINFO;
            known[count].start = one->start, known[count].end = one->end, known[count++].index = unwind_index(one);
        }
        unw_word_t index = known[place].index;
        struct { unsigned char version, frame_encoding, count_encoding, table_encoding; int frame; unsigned count; } header;
        /* A sorted table of 4-byte offsets, as all linkers write it. */
        if (!index || !read_memory(index, &header, sizeof header) || header.count_encoding != 3 || header.table_encoding != 0x3b)
            return -UNW_ENOINFO;
        unw_dyn_info_t table = {.format = UNW_INFO_FORMAT_REMOTE_TABLE, .start_ip = one->start, .end_ip = one->end};
        table.u.rti.segbase = index;
        table.u.rti.table_data = index + sizeof header;
        table.u.rti.table_len = header.count * 8UL / sizeof(unw_word_t);
        return _Ux86_64_dwarf_search_unwind_table(space, ip, &table, info, need, argument);
    }
    return -UNW_ENOINFO;
}

/* A thread that a return probe stopped is on its way out of the kernel's trampoline: `pop r11; pop rcx; ret`. */
static void leave_trampoline(void) {
    for (int index = 0; index < mapping_count; index++) {
        struct mapping *one = &mappings[index];
        unw_word_t top[3];
        if (strcmp(one->path, "[uprobes]") || registers[16] < one->start || registers[16] >= one->end) continue;
        if (!read_memory(registers[7], top, sizeof top)) return;
        registers[16] = top[2];
        registers[7] += sizeof top;
    }
}

/* Virtual address in the file of what lies at an offset of it. */
static unw_word_t to_vaddr(const char *path, unw_word_t offset) {
    static char last_path[512];
    static Elf64_Phdr headers[64];
    static int count;
    if (strcmp(path, last_path)) {
        Elf64_Ehdr head;
        int file = open(path, O_RDONLY | O_CLOEXEC);
        count = 0;
        if (file >= 0 && pread(file, &head, sizeof head, 0) == sizeof head && head.e_phnum <= 64 &&
            pread(file, headers, head.e_phnum * sizeof *headers, head.e_phoff) == (ssize_t)(head.e_phnum * sizeof *headers))
            count = head.e_phnum;
        if (file >= 0) close(file);
        snprintf(last_path, sizeof last_path, "%s", path);
    }
    for (int index = 0; index < count; index++) {
        Elf64_Phdr *one = &headers[index];
        if (one->p_type == PT_LOAD && offset >= one->p_offset && offset < one->p_offset + one->p_filesz)
            return offset - one->p_offset + one->p_vaddr;
    }
    return offset;
}

static void print_frame(FILE *out, unw_word_t ip) {
    for (int index = 0; index < mapping_count; index++) {
        struct mapping *one = &mappings[index];
        /* A return address may be one past its mapping. */
        if (ip - 1 < one->start || ip - 1 >= one->end) continue;
        if (one->path[0] == '/') fprintf(out, " %s:%lx", one->path, to_vaddr(one->path, ip - one->start + one->offset));
        else fprintf(out, " %s:%lx", one->path[0] ? one->path : "[anonymous]", one->path[0] == '[' ? ip - one->start : ip);
        return;
    }
    fprintf(out, " [anonymous]:%lx", ip);
}

int main(int count, char **values) {
    static unw_accessors_t accessors = {
        .find_proc_info = find_proc_info, .put_unwind_info = put_unwind_info,
        .get_dyn_info_list_addr = no_list, .access_mem = access_mem, .access_reg = access_reg,
        .access_fpreg = access_fpreg, .resume = no_resume, .get_proc_name = no_name,
    };
    if (count < 2) return 2;
    FILE *out = fopen(values[1], "a");
    if (!out) return 2;
    unw_addr_space_t space = NULL;
    pid_t target_pid = 0;
    char line[8192];
    int served = 0;
    while (fgets(line, sizeof line, stdin)) {
        int tid, used = 0;
        unsigned long ordinal;
        pid_t wanted;
        unw_word_t *r = registers;
        if (sscanf(line, "%d %d %lu %d %lx %lx %lx %lx %lx %lx %lx %lx%n", &wanted, &tid, &ordinal, &pairs, &r[16], &r[7],
                   &r[6], &r[3], &r[12], &r[13], &r[14], &r[15], &used) < 12) return 3;
        char *rest = line + used;
        for (int index = 0; index < pairs && index < MAX_PAIRS; index++) {
            if (sscanf(rest, "%lx %lx%n", &slots[index], &originals[index], &used) < 2) return 3;
            rest += used;
        }
        pid = wanted;
        /* Mappings and tables are remembered by libunwind: begin anew now and then, and with every process. */
        if (pid != target_pid || served++ % 500 == 0) {
            if (space) unw_destroy_addr_space(space);
            space = unw_create_addr_space(&accessors, 0);
            unw_set_caching_policy(space, UNW_CACHE_GLOBAL);
            target_pid = pid;
        }
        read_mappings();
        leave_trampoline();
        unw_cursor_t cursor;
        int end = unw_init_remote(&cursor, space, NULL);
        fprintf(out, "%d %d %lu", pid, tid, ordinal);
        static unw_word_t ips[MAX_FRAMES];
        int frames = 0;
        if (end == 0) {
            do {
                unw_word_t ip;
                if (unw_get_reg(&cursor, UNW_REG_IP, &ip) || ip == 0 || frames == MAX_FRAMES) break;
                ips[frames++] = ip;
                /* Where nothing is known, libunwind guesses by rbp: it shall not. */
                unw_proc_info_t info;
                if (unw_get_proc_info(&cursor, &info)) { end = -UNW_ENOINFO; break; }
                end = unw_step(&cursor);
            } while (end > 0);
        }
        fprintf(out, " %d", end);
        for (int index = 0; index < frames; index++) print_frame(out, ips[index]);
        fprintf(out, "\n");
        fflush(out);
        if (write(1, "\n", 1) != 1) return 4;
    }
    return 0;
}
