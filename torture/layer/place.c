/* Which files lie below the disk, and what they are called. */
#define _GNU_SOURCE
#include "layer.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CACHED 64

char disk_root[PATH_BYTES];

/* Of each thread, so that nothing is locked: a fork may come at any time. A descriptor that was
   closed and opened again has another inode. */
static __thread struct { int fd; dev_t dev; ino_t ino; int is_watched; char path[PATH_BYTES]; }
    cache[CACHED];

int layer_is_on(void) {
    static int is_on = -1;
    if (is_on < 0) {
        const char *root = getenv("DFS_TORTURE_DISK");
        if (root != NULL) snprintf(disk_root, sizeof disk_root, "%s", root);
        is_on = root != NULL;
    }
    return is_on;
}

static int is_below(const char *path) {
    size_t length = strlen(disk_root);
    return strncmp(path, disk_root, length) == 0 && (path[length] == '/' || path[length] == 0);
}

int find_place(int fd, struct place *found) {
    struct stat status;
    char link[64];
    found->is_watched = 0;
    if (fd < 0 || !layer_is_on() || fstat(fd, &status) != 0) return 0;
    found->is_directory = S_ISDIR(status.st_mode);
    if (!S_ISREG(status.st_mode) && !found->is_directory) return 0;
    found->ino = status.st_ino;
    found->size = status.st_size;
    __typeof__(cache[0]) *entry = &cache[fd % CACHED];
    if (entry->fd != fd + 1 || entry->ino != status.st_ino || entry->dev != status.st_dev) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, entry->path, sizeof entry->path - 1);
        if (length < 0) return 0;
        entry->path[length] = 0;
        entry->fd = fd + 1; /* 0 is an entry that was never used */
        entry->ino = status.st_ino;
        entry->dev = status.st_dev;
        entry->is_watched = is_below(entry->path);
    }
    if (!entry->is_watched) return 0;
    found->is_watched = 1;
    memcpy(found->path, entry->path, sizeof found->path);
    return 1;
}

int resolve(int dirfd, const char *path, char *out) {
    char base[PATH_MAX] = "", link[64];
    if (!layer_is_on() || path == NULL || path[0] == 0) return 0;
    if (path[0] != '/') {
        ssize_t length;
        snprintf(link, sizeof link, dirfd == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", dirfd);
        length = readlink(link, base, sizeof base - 1);
        if (length < 0) return 0;
        base[length] = 0;
        while (path[0] == '.' && path[1] == '/') path += 2;
    }
    if (snprintf(out, PATH_BYTES, "%s%s%s", base, base[0] ? "/" : "", path) >= PATH_BYTES) return 0;
    size_t length = strlen(out);
    while (length > 1 && out[length - 1] == '/') out[--length] = 0;
    return is_below(out);
}
