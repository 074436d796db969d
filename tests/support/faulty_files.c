/* A library for LD_PRELOAD whose calls on files below one folder fail on request; all other calls go on to the C
   library. `faulty_set` says which call fails, and `faulty_count` how many there were. Nothing fails before it.
   A negative error stands for SIGKILL. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE, FSYNC, SYNC_FOLDER, RENAME, READ, CLOSE, CREATE, OPEN, LINK, MKDIR, UNLINK, FLOCK, KINDS };

static char folder[PATH_MAX];
static size_t folder_length;
static atomic_long counts[KINDS];
static long first[KINDS]; /* the number of the first call that fails, from 1; 0: none */
static int errors[KINDS], all_later[KINDS];

void faulty_folder(const char *path) {
    strncpy(folder, path, sizeof folder - 1);
    folder_length = strlen(folder);
    for (int kind = 0; kind < KINDS; kind++) counts[kind] = first[kind] = 0;
}

void faulty_set(int kind, long number, int error, int also_later) {
    first[kind] = number, errors[kind] = error, all_later[kind] = also_later;
}

long faulty_count(int kind) { return counts[kind]; }

static int is_ours(const char *path) { return folder_length && path && !strncmp(path, folder, folder_length); }

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0;
}

static int is_ours_fd(int fd) {
    char path[PATH_MAX];
    int kept = errno, found = folder_length && path_of(fd, path) && is_ours(path);
    errno = kept;
    return found;
}

static int is_ours_at(int at, const char *path) {
    return path && (path[0] == '/' ? is_ours(path) : at != AT_FDCWD && is_ours_fd(at));
}

/* Counts a call. Returns whether it fails, and sets errno then. */
static int fails(int kind) {
    long number = atomic_fetch_add(&counts[kind], 1) + 1;
    if (!first[kind] || number < first[kind] || (number > first[kind] && !all_later[kind])) return 0;
    if (errors[kind] < 0) kill(getpid(), SIGKILL);
    errno = errors[kind];
    return 1;
}

static int fsync_kind(int fd) {
    struct stat facts;
    return !fstat(fd, &facts) && S_ISDIR(facts.st_mode) ? SYNC_FOLDER : FSYNC;
}

#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))
#define ON_FD(type, name, kind, failed, types, values)  \
    type name types {                                   \
        static type(*real) types;                       \
        if (!real) real = (type(*) types)dlsym(RTLD_NEXT, #name); \
        if (is_ours_fd(fd) && fails(kind)) return failed; \
        return real values;                             \
    }
#define ON_PATH(name, kind, at, types, values)          \
    int name types {                                    \
        static int(*real) types;                        \
        if (!real) real = (int(*) types)dlsym(RTLD_NEXT, #name); \
        if (is_ours_at(at, path) && fails(kind)) return -1; \
        return real values;                             \
    }

ON_FD(ssize_t, write, WRITE, -1, (int fd, const void *data, size_t size), (fd, data, size))
ON_FD(ssize_t, pwrite, WRITE, -1, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
ON_FD(ssize_t, pwrite64, WRITE, -1, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
ON_FD(ssize_t, writev, WRITE, -1, (int fd, const struct iovec *data, int parts), (fd, data, parts))
ON_FD(ssize_t, read, READ, -1, (int fd, void *data, size_t size), (fd, data, size))
ON_FD(ssize_t, pread, READ, -1, (int fd, void *data, size_t size, off_t at), (fd, data, size, at))
ON_FD(ssize_t, pread64, READ, -1, (int fd, void *data, size_t size, off64_t at), (fd, data, size, at))
ON_FD(int, fsync, fsync_kind(fd), -1, (int fd), (fd))
ON_FD(int, fdatasync, fsync_kind(fd), -1, (int fd), (fd))
ON_FD(int, flock, FLOCK, -1, (int fd, int how), (fd, how))
ON_PATH(rename, RENAME, AT_FDCWD, (const char *path, const char *new), (path, new))
ON_PATH(renameat, RENAME, at, (int at, const char *path, int to, const char *new), (at, path, to, new))
ON_PATH(link, LINK, AT_FDCWD, (const char *path, const char *new), (path, new))
ON_PATH(linkat, LINK, at, (int at, const char *path, int to, const char *new, int how), (at, path, to, new, how))
ON_PATH(mkdir, MKDIR, AT_FDCWD, (const char *path, mode_t mode), (path, mode))
ON_PATH(mkdirat, MKDIR, at, (int at, const char *path, mode_t mode), (at, path, mode))
ON_PATH(unlink, UNLINK, AT_FDCWD, (const char *path), (path))
ON_PATH(unlinkat, UNLINK, at, (int at, const char *path, int how), (at, path, how))

/* The kernel frees the number of a file whose close fails, too. */
int close(int fd) {
    static int (*real)(int);
    if (!real) real = REAL(int, "close", int);
    int failing = is_ours_fd(fd) && fails(CLOSE), error = errno, result = real(fd);
    if (!failing) return result;
    errno = error;
    return -1;
}

static int refused(int at, const char *path, int flags) {
    return is_ours_at(at, path) && fails((flags & O_ACCMODE) != O_RDONLY || flags & O_CREAT ? CREATE : OPEN);
}

#define OPENS(name, at, before, types, values)          \
    int name types {                                    \
        static int(*real) before;                       \
        if (!real) real = (int(*) before)dlsym(RTLD_NEXT, #name); \
        mode_t mode = 0;                                \
        if (flags & (O_CREAT | O_TMPFILE)) {            \
            va_list more;                               \
            va_start(more, flags);                      \
            mode = va_arg(more, mode_t);                \
            va_end(more);                               \
        }                                               \
        if (refused(at, path, flags)) return -1;        \
        return real values;                             \
    }

OPENS(open, AT_FDCWD, (const char *, int, ...), (const char *path, int flags, ...), (path, flags, mode))
OPENS(open64, AT_FDCWD, (const char *, int, ...), (const char *path, int flags, ...), (path, flags, mode))
OPENS(openat, at, (int, const char *, int, ...), (int at, const char *path, int flags, ...), (at, path, flags, mode))
OPENS(openat64, at, (int, const char *, int, ...), (int at, const char *path, int flags, ...), (at, path, flags, mode))
