/* Counts what a process does to files below one folder, and lets something happen at one of these events.
 *
 * Preloaded into a Python process: cc -shared -fPIC -O2 -o shim.so shim.c -ldl. The process arms it by faults_arm().
 * Counted are: create, write, truncate, rename, unlink, mkdir, rmdir, link, fsync.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NOTHING, SIGNAL_BEFORE, SIGNAL_AFTER, FULL_FROM, FAIL_ONCE, VANISH };

/* Shared with the process that forked this one, which reads the count after this one was killed. */
static volatile long *count;
static long at = -1;
static int action = NOTHING, number = 0;
static char root[PATH_MAX];
static size_t root_length;
static __thread int inside;

__attribute__((constructor)) static void prepare(void) {
    count = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

long faults_count(void) { return *count; }

void faults_arm(const char *folder, long event, int what, int how) {
    strncpy(root, folder, sizeof root - 1);
    root_length = strlen(root);
    *count = 0;
    at = event, action = what, number = how;
}

void faults_disarm(void) { root_length = 0; }

static int below(const char *path) {
    if (!root_length || inside || !path) return 0;
    if (path[0] == '/') return !strncmp(path, root, root_length);
    char here[PATH_MAX];
    return getcwd(here, sizeof here) && !strncmp(here, root, root_length);
}

static int below_at(int folder, const char *path) {
    if (!root_length || inside || !path) return 0;
    if (path[0] == '/' || folder == AT_FDCWD) return below(path);
    char link[64], there[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t n = readlink(link, there, sizeof there - 1);
    return n > 0 && (there[n] = 0, !strncmp(there, root, root_length));
}

static int below_fd(int fd) {
    if (!root_length || inside) return 0;
    char link[64], there[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, there, sizeof there - 1);
    return n > 0 && (there[n] = 0, !strncmp(there, root, root_length));
}

/* Returns the number of the event if the event is to fail: errno is set. */
static int before(long event, int writes) {
    if (action == SIGNAL_BEFORE && event == at) kill(getpid(), number);
    if (action == FAIL_ONCE && event == at) return errno = number, 1;
    if (action == FULL_FROM && writes && event >= at) return errno = number, 1;
    if (action == VANISH && event == at) {
        char command[PATH_MAX + 16];
        inside = 1;
        snprintf(command, sizeof command, "rm -rf '%s'/out", root);
        unsetenv("LD_PRELOAD");
        if (system(command)) {}
        inside = 0;
    }
    return 0;
}

static void after(long event) {
    if (action == SIGNAL_AFTER && event == at) kill(getpid(), number);
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define EVENT(is_below, writes, failed, call)                  \
    if (!(is_below)) return call;                              \
    long event = __sync_fetch_and_add(count, 1);               \
    if (before(event, writes)) return failed;                  \
    inside = 1; __typeof__(call) result = call; inside = 0;    \
    int kept = errno; after(event); errno = kept;              \
    return result

#define OPEN(name)                                                                        \
    int name(const char *path, int flags, ...) {                                          \
        REAL(name);                                                                       \
        mode_t mode = 0;                                                                  \
        if (flags & (O_CREAT | __O_TMPFILE)) { va_list a; va_start(a, flags); mode = va_arg(a, mode_t); va_end(a); } \
        EVENT((flags & (O_CREAT | O_TRUNC)) && below(path), 1, -1, real(path, flags, mode)); \
    }
OPEN(open)
OPEN(open64)
#define OPENAT(name)                                                                      \
    int name(int folder, const char *path, int flags, ...) {                              \
        REAL(name);                                                                       \
        mode_t mode = 0;                                                                  \
        if (flags & (O_CREAT | __O_TMPFILE)) { va_list a; va_start(a, flags); mode = va_arg(a, mode_t); va_end(a); } \
        EVENT((flags & (O_CREAT | O_TRUNC)) && below_at(folder, path), 1, -1, real(folder, path, flags, mode)); \
    }
OPENAT(openat)
OPENAT(openat64)
FILE *fopen(const char *path, const char *mode) { REAL(fopen); EVENT(mode[0] != 'r' && below(path), 1, NULL, real(path, mode)); }
FILE *fopen64(const char *path, const char *mode) { REAL(fopen64); EVENT(mode[0] != 'r' && below(path), 1, NULL, real(path, mode)); }

/* A disk that is full takes what still fits: the first write that fails has written half. */
ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    if (!below_fd(fd)) return real(fd, data, size);
    long event = __sync_fetch_and_add(count, 1);
    if (action == FULL_FROM && event == at && size > 1) return real(fd, data, size / 2);
    if (before(event, 1)) return -1;
    if (action == SIGNAL_AFTER && event == at && number == SIGKILL && size > 1) size /= 2;
    ssize_t result = real(fd, data, size);
    int kept = errno;
    after(event);
    errno = kept;
    return result;
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { REAL(pwrite); EVENT(below_fd(fd), 1, -1, real(fd, data, size, offset)); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) { REAL(pwrite64); EVENT(below_fd(fd), 1, -1, real(fd, data, size, offset)); }
ssize_t writev(int fd, const struct iovec *parts, int n) { REAL(writev); EVENT(below_fd(fd), 1, -1, real(fd, parts, n)); }
size_t fwrite(const void *data, size_t size, size_t n, FILE *file) { REAL(fwrite); EVENT(below_fd(fileno(file)), 1, 0, real(data, size, n, file)); }
ssize_t sendfile(int out, int in, off_t *offset, size_t n) { REAL(sendfile); EVENT(below_fd(out), 1, -1, real(out, in, offset, n)); }
ssize_t sendfile64(int out, int in, off64_t *offset, size_t n) { REAL(sendfile64); EVENT(below_fd(out), 1, -1, real(out, in, offset, n)); }
ssize_t copy_file_range(int in, off64_t *a, int out, off64_t *b, size_t n, unsigned flags) { REAL(copy_file_range); EVENT(below_fd(out), 1, -1, real(in, a, out, b, n, flags)); }
int ftruncate(int fd, off_t size) { REAL(ftruncate); EVENT(below_fd(fd), 1, -1, real(fd, size)); }
int ftruncate64(int fd, off64_t size) { REAL(ftruncate64); EVENT(below_fd(fd), 1, -1, real(fd, size)); }
int posix_fallocate(int fd, off_t a, off_t n) { REAL(posix_fallocate); EVENT(below_fd(fd), 1, number, real(fd, a, n)); }
int fsync(int fd) { REAL(fsync); EVENT(below_fd(fd), 1, -1, real(fd)); }
int fdatasync(int fd) { REAL(fdatasync); EVENT(below_fd(fd), 1, -1, real(fd)); }
int rename(const char *from, const char *to) { REAL(rename); EVENT(below(to), 0, -1, real(from, to)); }
int renameat(int a, const char *from, int b, const char *to) { REAL(renameat); EVENT(below_at(b, to), 0, -1, real(a, from, b, to)); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) { REAL(renameat2); EVENT(below_at(b, to), 0, -1, real(a, from, b, to, flags)); }
int unlink(const char *path) { REAL(unlink); EVENT(below(path), 0, -1, real(path)); }
int unlinkat(int folder, const char *path, int flags) { REAL(unlinkat); EVENT(below_at(folder, path), 0, -1, real(folder, path, flags)); }
int rmdir(const char *path) { REAL(rmdir); EVENT(below(path), 0, -1, real(path)); }
int mkdir(const char *path, mode_t mode) { REAL(mkdir); EVENT(below(path), 1, -1, real(path, mode)); }
int mkdirat(int folder, const char *path, mode_t mode) { REAL(mkdirat); EVENT(below_at(folder, path), 1, -1, real(folder, path, mode)); }
int link(const char *from, const char *to) { REAL(link); EVENT(below(to), 1, -1, real(from, to)); }
int linkat(int a, const char *from, int b, const char *to, int flags) { REAL(linkat); EVENT(below_at(b, to), 1, -1, real(a, from, b, to, flags)); }
int symlink(const char *from, const char *to) { REAL(symlink); EVENT(below(to), 1, -1, real(from, to)); }
