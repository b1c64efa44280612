/* The calls of the C library that the layer takes the place of. */
#define _GNU_SOURCE
#include "layer.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define ALSO(name, of) EXPORT extern __typeof__(of) name __attribute__((alias(#of)))
/* The same for names that the headers declare with another type, though it is the same here. */
#define ALSO_AS(name, of) __asm__(".globl " name "\n.set " name ", " of)
#define BOOT_ID "/proc/sys/kernel/random/boot_id"

/* Returns -1 with errno set if an operation is to fail. */
static int may(int operation, const char *path, int *is_short) {
    int ignored, error = ask_panel(operation, path, is_short ? is_short : &ignored);
    if (error) errno = error;
    return error ? -1 : 0;
}

/* Opening */

static int open_watched(int dirfd, const char *path, int flags, mode_t mode, const char *full) {
    struct stat status;
    int is_new = (flags & O_CREAT) && lstat(full, &status) != 0;
    if (is_new && may(OP_NAME, full, NULL)) return -1;
    if (!is_new && (flags & O_TRUNC) && (flags & O_ACCMODE) != O_RDONLY) {
        struct place place;
        int fd = (int)syscall(SYS_openat, dirfd, path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0 && find_place(fd, &place)) journal_resize(fd, &place, 0);
        if (fd >= 0) syscall(SYS_close, fd);
    }
    int fd = (int)syscall(SYS_openat, dirfd, path, flags, mode);
    if (fd >= 0 && is_new) journal_create(full);
    return fd;
}

static int open_any(int dirfd, const char *path, int flags, mode_t mode) {
    char full[PATH_BYTES];
    if (layer_is_on() && strcmp(path, BOOT_ID) == 0) {
        const char *other = getenv("DFS_TORTURE_BOOT_ID");
        return (int)syscall(SYS_openat, AT_FDCWD, other ? other : path, flags, mode);
    }
    if ((flags & (O_CREAT | O_TRUNC)) && resolve(dirfd, path, full))
        return open_watched(dirfd, path, flags, mode, full);
    return (int)syscall(SYS_openat, dirfd, path, flags, mode);
}

static mode_t mode_of(int flags, va_list arguments) {
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
}

EXPORT int open(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = mode_of(flags, arguments);
    va_end(arguments);
    return open_any(AT_FDCWD, path, flags, mode);
}
ALSO(open64, open);

EXPORT int openat(int dirfd, const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = mode_of(flags, arguments);
    va_end(arguments);
    return open_any(dirfd, path, flags, mode);
}
ALSO(openat64, openat);

EXPORT int creat(const char *path, mode_t mode) {
    return open_any(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
ALSO(creat64, creat);

/* Writing */

/* Says what is about to be written. Returns how many bytes may be; -1 with errno: none. */
static ssize_t before_write(int fd, off_t offset, size_t length, struct place *place) {
    int is_short = 0;
    if (!find_place(fd, place) || place->is_directory) return (ssize_t)length;
    if (may(OP_WRITE, place->path, &is_short)) {
        if (!is_short || length < 2) return -1;
        length /= 2;
    }
    if (offset < 0) {
        int flags = fcntl(fd, F_GETFL);
        offset = flags & O_APPEND ? place->size : (off_t)syscall(SYS_lseek, fd, 0, SEEK_CUR);
    }
    journal_write(fd, place, offset, length);
    return (ssize_t)length;
}

/* A descriptor opened for synchronous writing syncs by itself. */
static ssize_t after_write(int fd, ssize_t written, const struct place *place) {
    if (written > 0 && place->is_watched && (fcntl(fd, F_GETFL) & (O_SYNC | O_DSYNC)))
        journal_sync(place, journal_mark(), 0);
    return written;
}

EXPORT ssize_t write(int fd, const void *data, size_t length) {
    struct place place;
    ssize_t allowed = before_write(fd, -1, length, &place);
    if (allowed < 0) return -1;
    return after_write(fd, syscall(SYS_write, fd, data, (size_t)allowed), &place);
}

EXPORT ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    struct place place;
    ssize_t allowed = before_write(fd, offset, length, &place);
    if (allowed < 0) return -1;
    return after_write(fd, syscall(SYS_pwrite64, fd, data, (size_t)allowed, offset), &place);
}
ALSO(pwrite64, pwrite);

static ssize_t write_parts(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    struct place place;
    size_t length = 0;
    for (int number = 0; number < count; number++) length += parts[number].iov_len;
    ssize_t allowed = before_write(fd, offset, length, &place);
    if (allowed < 0) return -1;
    if (allowed < (ssize_t)length) { /* a short write: of the first part at most */
        size_t first = parts[0].iov_len < (size_t)allowed ? parts[0].iov_len : (size_t)allowed;
        return offset < 0 ? syscall(SYS_write, fd, parts[0].iov_base, first)
                          : syscall(SYS_pwrite64, fd, parts[0].iov_base, first, offset);
    }
    ssize_t written = offset < 0 && !flags
                          ? syscall(SYS_writev, fd, parts, count)
                          : syscall(SYS_pwritev2, fd, parts, count, offset, 0, flags);
    return after_write(fd, written, &place);
}

EXPORT ssize_t writev(int fd, const struct iovec *parts, int count) {
    return write_parts(fd, parts, count, -1, 0);
}

EXPORT ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    return write_parts(fd, parts, count, offset, 0);
}
ALSO(pwritev64, pwritev);

EXPORT ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    return write_parts(fd, parts, count, offset, flags);
}
ALSO(pwritev64v2, pwritev2);

EXPORT ssize_t sendfile(int out, int in, off_t *offset, size_t length) {
    struct place place;
    ssize_t allowed = before_write(out, -1, length, &place);
    return allowed < 0 ? -1 : syscall(SYS_sendfile, out, in, offset, (size_t)allowed);
}
ALSO(sendfile64, sendfile);

EXPORT ssize_t copy_file_range(int in, off_t *from, int out, off_t *to, size_t length,
                               unsigned flags) {
    struct place place;
    ssize_t allowed = before_write(out, to ? *to : -1, length, &place);
    if (allowed < 0) return -1;
    return syscall(SYS_copy_file_range, in, from, out, to, (size_t)allowed, flags);
}

EXPORT int ftruncate(int fd, off_t size) {
    struct place place;
    if (find_place(fd, &place)) {
        if (may(OP_WRITE, place.path, NULL)) return -1;
        journal_resize(fd, &place, size);
    }
    return (int)syscall(SYS_ftruncate, fd, size);
}
ALSO(ftruncate64, ftruncate);

EXPORT int truncate(const char *path, off_t size) {
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    int result = ftruncate(fd, size), kept = errno;
    syscall(SYS_close, fd);
    errno = kept;
    return result;
}
ALSO(truncate64, truncate);

EXPORT int fallocate(int fd, int mode, off_t offset, off_t length) {
    struct place place;
    if (find_place(fd, &place)) {
        if (may(OP_WRITE, place.path, NULL)) return -1;
        if (mode == 0 && offset + length > place.size) journal_resize(fd, &place, offset + length);
        if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
            journal_write(fd, &place, offset, (size_t)length);
    }
    return (int)syscall(SYS_fallocate, fd, mode, offset, length);
}
ALSO(fallocate64, fallocate);

EXPORT int posix_fallocate(int fd, off_t offset, off_t length) {
    int kept = errno, result = fallocate(fd, 0, offset, length) == 0 ? 0 : errno;
    errno = kept;
    return result;
}
ALSO(posix_fallocate64, posix_fallocate);

/* Syncing */

static int sync_file(long call, int fd) {
    struct place place;
    if (!find_place(fd, &place)) return (int)syscall(call, fd);
    uint64_t mark = journal_mark();
    if (may(OP_SYNC, place.path, NULL)) {
        int kept = errno;
        journal_sync(&place, mark, 1);
        errno = kept;
        return -1;
    }
    int result = (int)syscall(call, fd);
    if (result == 0) journal_sync(&place, mark, 0);
    return result;
}

EXPORT int fsync(int fd) { return sync_file(SYS_fsync, fd); }
EXPORT int fdatasync(int fd) { return sync_file(SYS_fdatasync, fd); }

/* Names */

static int rename_any(int olddir, const char *old, int newdir, const char *new, unsigned flags) {
    char source[PATH_BYTES], target[PATH_BYTES];
    if (resolve(olddir, old, source) && resolve(newdir, new, target)) {
        if (may(OP_NAME, target, NULL)) return -1;
        journal_rename(source, target);
    }
    return (int)syscall(SYS_renameat2, olddir, old, newdir, new, flags);
}

EXPORT int rename(const char *old, const char *new) {
    return rename_any(AT_FDCWD, old, AT_FDCWD, new, 0);
}
EXPORT int renameat(int olddir, const char *old, int newdir, const char *new) {
    return rename_any(olddir, old, newdir, new, 0);
}
EXPORT int renameat2(int olddir, const char *old, int newdir, const char *new, unsigned flags) {
    return rename_any(olddir, old, newdir, new, flags);
}

EXPORT int linkat(int olddir, const char *old, int newdir, const char *new, int flags) {
    char source[PATH_BYTES], target[PATH_BYTES];
    int is_watched = resolve(newdir, new, target);
    if (is_watched && may(OP_NAME, target, NULL)) return -1;
    int result = (int)syscall(SYS_linkat, olddir, old, newdir, new, flags);
    if (result == 0 && is_watched && resolve(olddir, old, source)) journal_link(source, target);
    return result;
}
EXPORT int link(const char *old, const char *new) {
    return linkat(AT_FDCWD, old, AT_FDCWD, new, 0);
}

EXPORT int unlinkat(int dirfd, const char *path, int flags) {
    char full[PATH_BYTES];
    if (resolve(dirfd, path, full)) {
        if (may(OP_NAME, full, NULL)) return -1;
        journal_remove(full, (flags & AT_REMOVEDIR) != 0);
    }
    return (int)syscall(SYS_unlinkat, dirfd, path, flags);
}
EXPORT int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
EXPORT int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

EXPORT int mkdirat(int dirfd, const char *path, mode_t mode) {
    char full[PATH_BYTES];
    int is_watched = resolve(dirfd, path, full);
    if (is_watched && may(OP_NAME, full, NULL)) return -1;
    int result = (int)syscall(SYS_mkdirat, dirfd, path, mode);
    if (result == 0 && is_watched) journal_create(full);
    return result;
}
EXPORT int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

/* Space */

EXPORT int fstatvfs(int fd, struct statvfs *found) {
    static int (*real)(int, struct statvfs *);
    struct place place;
    if (real == NULL) real = (int (*)(int, struct statvfs *))dlsym(RTLD_NEXT, "fstatvfs");
    int result = real(fd, found);
    if (result == 0 && find_place(fd, &place) && may(OP_SPACE, place.path, NULL))
        found->f_bfree = found->f_bavail = 0;
    return result;
}
ALSO_AS("fstatvfs64", "fstatvfs");

EXPORT int statvfs(const char *path, struct statvfs *found) {
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_PATH | O_CLOEXEC);
    if (fd < 0) return -1;
    int result = fstatvfs(fd, found), kept = errno;
    syscall(SYS_close, fd);
    errno = kept;
    return result;
}
ALSO_AS("statvfs64", "statvfs");

/* Time */

EXPORT int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (real == NULL) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    int64_t shift = result == 0 && clock == CLOCK_REALTIME ? clock_shift_ns() : 0;
    if (shift) {
        int64_t sum = (int64_t)time->tv_sec * 1000000000 + time->tv_nsec + shift;
        time->tv_sec = sum / 1000000000;
        time->tv_nsec = sum % 1000000000;
    }
    return result;
}

EXPORT int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

EXPORT time_t time(time_t *stored) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (stored) *stored = now.tv_sec;
    return now.tv_sec;
}
