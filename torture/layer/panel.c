/* The panel: a page of shared memory on which the torture orders faults, while the node runs.

   offset  size  field
        0     8  nanoseconds by which CLOCK_REALTIME is ahead, signed
        8     8  unused
       16  15x256 rules

   rule:  operations u32 (0: none) | errno u32 (0: only delay) | skip i64 | times i64 |
          delay us u32 | short u32 | fired u64 | prefix of the path, zero-terminated

   A rule lets `skip` matching operations pass, then acts on `times` of them. With `short`, a write
   that is to fail first takes half of its bytes, as a disk does that fills up. */
#include "layer.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define RULES 15

struct rule {
    uint32_t operations, error;
    int64_t skip, times;
    uint32_t delay_us, is_short;
    uint64_t fired;
    char prefix[216];
};

struct panel {
    int64_t shift_ns;
    int64_t unused;
    struct rule rules[RULES];
};

_Static_assert(sizeof(struct rule) == 256, "layout of the panel");

static struct panel *panel;

static struct panel *find_panel(void) {
    if (panel == NULL && layer_is_on()) {
        const char *path = getenv("DFS_TORTURE_PANEL");
        int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;
        if (fd >= 0) {
            void *map = mmap(NULL, sizeof(struct panel), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            if (map != MAP_FAILED) panel = map;
            syscall(SYS_close, fd);
        }
    }
    return panel;
}

int64_t clock_shift_ns(void) {
    struct panel *found = find_panel();
    return found ? __atomic_load_n(&found->shift_ns, __ATOMIC_RELAXED) : 0;
}

int ask_panel(int operation, const char *path, int *is_short) {
    struct panel *found = find_panel();
    *is_short = 0;
    if (found == NULL) return 0;
    for (int number = 0; number < RULES; number++) {
        struct rule *rule = &found->rules[number];
        if (!(__atomic_load_n(&rule->operations, __ATOMIC_ACQUIRE) & (uint32_t)operation)) continue;
        if (strncmp(path, rule->prefix, strlen(rule->prefix)) != 0) continue;
        if (__atomic_fetch_sub(&rule->skip, 1, __ATOMIC_RELAXED) > 0) continue;
        if (__atomic_fetch_sub(&rule->times, 1, __ATOMIC_RELAXED) <= 0) continue;
        __atomic_fetch_add(&rule->fired, 1, __ATOMIC_RELAXED);
        if (rule->delay_us) {
            struct timespec pause = {rule->delay_us / 1000000, rule->delay_us % 1000000 * 1000L};
            nanosleep(&pause, NULL);
        }
        *is_short = (int)rule->is_short;
        if (rule->error) return (int)rule->error;
    }
    return 0;
}
