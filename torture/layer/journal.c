/* The undo journal: what was there before each change that is not yet durable.

   A record is written before its change, but for files that are created, whose number is not known
   before. All processes append to one file; the order of the records is that of the appends.
   Layout in torture/journal.py. */
#define _GNU_SOURCE
#include "layer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { WRITE = 1, RESIZE = 2, SYNC = 3, FAILED_SYNC = 4, NAME = 5 };
enum { IS_DIRECTORY = 1, IS_RENAME = 2 };

#define MAGIC 0x6c6e756a73666400ull
#define END_MAGIC 0x646e656a73666400ull

struct record {
    uint64_t magic;
    uint32_t type, flags;
    uint32_t path_bytes, data_bytes; /* that follow, then END_MAGIC */
    uint64_t ino, offset, length;    /* NAME: ino = new, offset = old inode */
    uint64_t old_size, mark;
};

static int journal_fd = -1;
static ino_t journal_ino;
static char graves[PATH_BYTES];

static int open_journal(void) {
    struct stat status;
    if (journal_fd >= 0 && fstat(journal_fd, &status) == 0 && status.st_ino == journal_ino)
        return journal_fd;
    const char *path = getenv("DFS_TORTURE_JOURNAL"), *directory = getenv("DFS_TORTURE_GRAVES");
    int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_APPEND | O_CLOEXEC) : -1;
    if (fd < 0 || directory == NULL) {
        static const char text[] = "torture: the journal cannot be opened\n";
        (void)!syscall(SYS_write, 2, text, sizeof text - 1);
        abort();
    }
    snprintf(graves, sizeof graves, "%s", directory);
    journal_fd = fcntl(fd, F_DUPFD_CLOEXEC, 500); /* out of the way of those who count theirs */
    if (journal_fd < 0) journal_fd = fd;
    else syscall(SYS_close, fd);
    fstat(journal_fd, &status);
    journal_ino = status.st_ino;
    return journal_fd;
}

uint64_t journal_mark(void) {
    struct stat status;
    return fstat(open_journal(), &status) == 0 ? (uint64_t)status.st_size : 0;
}

static void append(struct iovec *parts, int count) {
    size_t wanted = 0;
    for (int number = 0; number < count; number++) wanted += parts[number].iov_len;
    int kept = errno;
    ssize_t written = syscall(SYS_writev, open_journal(), parts, count);
    if (written != (ssize_t)wanted) {
        static const char text[] = "torture: the journal cannot be written\n";
        (void)!syscall(SYS_write, 2, text, sizeof text - 1);
        abort();
    }
    errno = kept;
}

static const uint64_t end_magic = END_MAGIC;

static void add(struct record record, const char *path, const void *data) {
    record.magic = MAGIC;
    struct iovec parts[] = {
        {&record, sizeof record},
        {(void *)(path ? path : ""), record.path_bytes},
        {(void *)(data ? data : ""), record.data_bytes},
        {(void *)&end_magic, sizeof end_magic},
    };
    append(parts, 4);
}

/* Returns the bytes from `offset` on, to be freed; NULL if all are zero. */
static char *read_old(int fd, off_t offset, size_t length) {
    char link[64], *data = malloc(length);
    size_t done = 0;
    int is_zero = 1, reader = fd;
    /* Through its own descriptor if that can be read: to close another one of the same file takes
       all of the process's POSIX locks on it away, SQLite's among them. */
    if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        reader = (int)syscall(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC);
    }
    if (data == NULL || reader < 0) abort();
    while (done < length) {
        ssize_t got = syscall(SYS_pread64, reader, data + done, length - done, offset + (off_t)done);
        if (got <= 0) break;
        done += (size_t)got;
    }
    memset(data + done, 0, length - done);
    if (reader != fd) syscall(SYS_close, reader);
    for (size_t number = 0; is_zero && number < length; number++) is_zero = data[number] == 0;
    if (is_zero) {
        free(data);
        return NULL;
    }
    return data;
}

static void add_bytes(uint32_t type, int fd, const struct place *place, off_t offset, off_t end) {
    size_t known = offset < place->size ? (size_t)((end < place->size ? end : place->size) - offset) : 0;
    char *old = known ? read_old(fd, offset, known) : NULL;
    add((struct record){.type = type,
                        .data_bytes = old ? (uint32_t)known : 0,
                        .ino = place->ino,
                        .offset = (uint64_t)offset,
                        .length = (uint64_t)(end - offset),
                        .old_size = (uint64_t)place->size},
        NULL, old);
    free(old);
}

void journal_write(int fd, const struct place *place, off_t offset, size_t length) {
    if (length) add_bytes(WRITE, fd, place, offset, offset + (off_t)length);
}

void journal_resize(int fd, const struct place *place, off_t new_size) {
    if (new_size < place->size) add_bytes(RESIZE, fd, place, new_size, place->size);
    if (new_size > place->size)
        add((struct record){.type = RESIZE,
                            .ino = place->ino,
                            .offset = (uint64_t)new_size,
                            .old_size = (uint64_t)place->size},
            NULL, NULL);
}

void journal_sync(const struct place *place, uint64_t mark, int has_failed) {
    add((struct record){.type = has_failed ? FAILED_SYNC : SYNC,
                        .flags = place->is_directory ? IS_DIRECTORY : 0,
                        .path_bytes = (uint32_t)strlen(place->path),
                        .ino = place->ino,
                        .mark = mark},
        place->path, NULL);
}

static ino_t inode(const char *path, int *is_directory) {
    struct stat status;
    if (lstat(path, &status) != 0) return 0;
    *is_directory = S_ISDIR(status.st_mode);
    return S_ISREG(status.st_mode) || S_ISDIR(status.st_mode) ? status.st_ino : 0;
}

/* Keep what is about to lose its name. */
static void bury(const char *path, ino_t ino) {
    char grave[PATH_BYTES + 32];
    open_journal();
    snprintf(grave, sizeof grave, "%s/%llu", graves, (unsigned long long)ino);
    int kept = errno;
    (void)!syscall(SYS_linkat, AT_FDCWD, path, AT_FDCWD, grave, 0);
    errno = kept;
}

static struct record name(const char *path, ino_t new, ino_t old, uint32_t flags) {
    return (struct record){.magic = MAGIC,
                           .type = NAME,
                           .flags = flags,
                           .path_bytes = (uint32_t)strlen(path),
                           .ino = new,
                           .offset = old};
}

void journal_create(const char *path) {
    int is_directory = 0;
    ino_t ino = inode(path, &is_directory);
    if (ino) add(name(path, ino, 0, is_directory ? IS_DIRECTORY : 0), path, NULL);
}

void journal_remove(const char *path, int is_directory) {
    int found_directory = 0;
    ino_t ino = inode(path, &found_directory);
    if (ino == 0 || found_directory != is_directory) return;
    if (!is_directory) bury(path, ino);
    add(name(path, 0, ino, is_directory ? IS_DIRECTORY : 0), path, NULL);
}

void journal_link(const char *source, const char *target) {
    int is_directory = 0;
    ino_t ino = inode(source, &is_directory);
    if (ino && !is_directory) add(name(target, ino, 0, 0), target, NULL);
}

/* A directory that gets another name is durable at once: the paths of what lies in it change. */
void journal_rename(const char *source, const char *target) {
    int is_directory = 0, ignored = 0;
    ino_t ino = inode(source, &is_directory), old = inode(target, &ignored);
    if (ino == 0 || is_directory || ino == old) return;
    if (old) bury(target, old);
    struct record put = name(target, ino, old, IS_RENAME), taken = name(source, 0, ino, IS_RENAME);
    struct iovec parts[] = {
        {&put, sizeof put},     {(void *)target, put.path_bytes},   {(void *)&end_magic, 8},
        {&taken, sizeof taken}, {(void *)source, taken.path_bytes}, {(void *)&end_magic, 8},
    };
    append(parts, 6); /* by one append: half of it must not be seen */
}
