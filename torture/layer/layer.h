/* What the parts of the layer share. The layer is preloaded into the processes of a node; see
   torture/disk.py for what it is for, and torture/journal.py for what it writes. */
#ifndef DFS_TORTURE_LAYER_H
#define DFS_TORTURE_LAYER_H

#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

#define PATH_BYTES 512

/* Operations that a rule of the panel may name. */
enum { OP_WRITE = 1, OP_SYNC = 2, OP_NAME = 4, OP_SPACE = 8 };

/* A regular file or directory below the disk. */
struct place {
    int is_watched;
    int is_directory;
    ino_t ino;
    off_t size;
    char path[PATH_BYTES]; /* as it was when the file was first met through this descriptor */
};

/* place.c */
extern char disk_root[PATH_BYTES];
int layer_is_on(void);
int find_place(int fd, struct place *found);
int resolve(int dirfd, const char *path, char *out); /* 1: below the disk */

/* journal.c */
uint64_t journal_mark(void); /* what is journaled from now on lies behind this */
void journal_write(int fd, const struct place *place, off_t offset, size_t length);
void journal_resize(int fd, const struct place *place, off_t new_size);
void journal_sync(const struct place *place, uint64_t mark, int has_failed);
void journal_create(const char *path);
void journal_remove(const char *path, int is_directory);
void journal_link(const char *source, const char *target);
void journal_rename(const char *source, const char *target);

/* panel.c */
int ask_panel(int operation, const char *path, int *is_short); /* errno to fail with, or 0 */
int64_t clock_shift_ns(void);

#endif
