/* System calls that go wrong, for LD_PRELOAD. In: a control block in a file that all processes of a run map (see shim.py, which has the
 * same struct). Out: at the asked call on the asked files an errno, a signal, or a delay; a clock that jumps.
 *
 * Counted are calls on paths that begin with `prefix` and hold `part`. What libc does inside itself (the flush of a FILE at fclose) and
 * what a mapped page does at its first touch are not seen here: a small real disk (tmpfs) is for those. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { CREATE = 1, WRITE = 2, SYNC = 4, RENAME = 8, MKDIR = 16, READ = 32, UNLINK = 64, RESERVE = 128 };
enum { KINDS = 8 };

struct control {
  uint32_t armed, ops, error, signal, sticky, skip_main;
  int64_t at, delay_us, jump_s, jump_at;
  int64_t seen, fired, clock_seen, of_kind[KINDS];
  int32_t fired_op, main_pid;
  char prefix[512], part[128], fired_path[512], log[512];
};

static struct control *volatile control;

#define REAL(name) ({ static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name); real; })

void faults_arm(const char *path) {
  int handle = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
  if (handle < 0) return;
  void *block = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, handle, 0);
  syscall(SYS_close, handle);
  if (block != MAP_FAILED) control = block;
}

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("FAULTS_CONTROL");
  if (path && *path) faults_arm(path);
}

static int concerns(const char *path) {
  return !strncmp(path, control->prefix, strlen(control->prefix)) && (!*control->part || strstr(path, control->part));
}

/* A line in the log, where one is wanted: what is written, flushed and renamed, in this order. */
static void note(const char *op, const char *path, const char *to) {
  if (!control || !control->armed || !*control->log || !path || !concerns(path)) return;
  char line[4096];
  int length = snprintf(line, sizeof line, "%s\t%s\t%s\n", op, path, to);
  int handle = syscall(SYS_openat, AT_FDCWD, control->log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (handle < 0) return;
  syscall(SYS_write, handle, line, length);
  syscall(SYS_close, handle);
}

/* Whether this call fails; errno is set then. */
static int fault(int op, const char *path) {
  if (!control || !control->armed || !path || !concerns(path)) return 0;
  __sync_add_and_fetch(&control->of_kind[__builtin_ctz(op)], 1);
  if (!(control->ops & op) || (control->skip_main && getpid() == control->main_pid)) return 0;
  int64_t now = __sync_add_and_fetch(&control->seen, 1);
  if (control->delay_us && control->at && now % control->at == 0) {
    struct timespec nap = {control->delay_us / 1000000, control->delay_us % 1000000 * 1000};
    __sync_add_and_fetch(&control->fired, 1);
    nanosleep(&nap, NULL);
    return 0;
  }
  if (!control->at || control->delay_us || now < control->at || (!control->sticky && now > control->at)) return 0;
  if (__sync_add_and_fetch(&control->fired, 1) == 1) {
    control->fired_op = op;
    strncpy(control->fired_path, path, sizeof control->fired_path - 1);
  }
  if (control->signal) {
    if (now == control->at) kill(getpid(), control->signal);
    return 0;
  }
  errno = control->error;
  return 1;
}

static int fault_fd(int op, int handle) {
  if (!control || !control->armed || handle < 0) return 0;
  char link[64], path[1024];
  snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
  ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
  if (length <= 0) return 0;
  path[length] = 0;
  if (op == WRITE || op == SYNC) note(op == WRITE ? "write" : "fsync", path, "");
  return fault(op, path);
}

static int fault_at(int op, int folder, const char *path) {
  if (!control || !control->armed || !path) return 0;
  char link[64], whole[2048];
  ssize_t length = 0;
  if (*path != '/') {
    snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
    length = syscall(SYS_readlinkat, AT_FDCWD, link, whole, 1000);
    if (length <= 0) return 0;
    whole[length++] = '/';
  }
  snprintf(whole + length, sizeof whole - length, "%s", path);
  if (op == UNLINK) note("unlink", whole, "");
  return fault(op, whole);
}

#define OPENER(name, call, given, folder)                                           \
  int name given {                                                                  \
    mode_t mode = 0;                                                                \
    if (flags & (O_CREAT | O_TMPFILE)) {                                            \
      va_list more;                                                                 \
      va_start(more, flags);                                                        \
      mode = va_arg(more, mode_t);                                                  \
      va_end(more);                                                                 \
      if (fault_at(CREATE, folder, path)) return -1;                                \
    }                                                                               \
    return REAL(name) call;                                                         \
  }
OPENER(open, (path, flags, mode), (const char *path, int flags, ...), AT_FDCWD)
OPENER(open64, (path, flags, mode), (const char *path, int flags, ...), AT_FDCWD)
OPENER(openat, (at, path, flags, mode), (int at, const char *path, int flags, ...), at)
OPENER(openat64, (at, path, flags, mode), (int at, const char *path, int flags, ...), at)

#define ON_HANDLE(kind, result, name, given, call, handle) \
  result name given { return fault_fd(kind, handle) ? (result)-1 : REAL(name) call; }
ON_HANDLE(WRITE, ssize_t, write, (int fd, const void *from, size_t size), (fd, from, size), fd)
ON_HANDLE(WRITE, ssize_t, pwrite, (int fd, const void *from, size_t size, off_t at), (fd, from, size, at), fd)
ON_HANDLE(WRITE, ssize_t, pwrite64, (int fd, const void *from, size_t size, off64_t at), (fd, from, size, at), fd)
ON_HANDLE(WRITE, ssize_t, writev, (int fd, const struct iovec *from, int count), (fd, from, count), fd)
ON_HANDLE(WRITE, ssize_t, sendfile, (int to, int from, off_t *at, size_t size), (to, from, at, size), to)
ON_HANDLE(WRITE, ssize_t, sendfile64, (int to, int from, off64_t *at, size_t size), (to, from, at, size), to)
ON_HANDLE(WRITE, ssize_t, copy_file_range, (int a, off64_t *i, int b, off64_t *j, size_t size, unsigned f), (a, i, b, j, size, f), b)
ON_HANDLE(READ, ssize_t, read, (int fd, void *to, size_t size), (fd, to, size), fd)
ON_HANDLE(READ, ssize_t, pread, (int fd, void *to, size_t size, off_t at), (fd, to, size, at), fd)
ON_HANDLE(READ, ssize_t, pread64, (int fd, void *to, size_t size, off64_t at), (fd, to, size, at), fd)
ON_HANDLE(SYNC, int, fsync, (int fd), (fd), fd)
ON_HANDLE(SYNC, int, fdatasync, (int fd), (fd), fd)
ON_HANDLE(RESERVE, int, ftruncate, (int fd, off_t size), (fd, size), fd)
ON_HANDLE(RESERVE, int, ftruncate64, (int fd, off64_t size), (fd, size), fd)

size_t fwrite(const void *from, size_t size, size_t count, FILE *file) {
  return fault_fd(WRITE, fileno(file)) ? 0 : REAL(fwrite)(from, size, count, file);
}

int posix_fallocate(int fd, off_t at, off_t size) { return fault_fd(RESERVE, fd) ? errno : REAL(posix_fallocate)(fd, at, size); }
int posix_fallocate64(int fd, off64_t at, off64_t size) { return fault_fd(RESERVE, fd) ? errno : REAL(posix_fallocate64)(fd, at, size); }

int rename(const char *from, const char *to) {
  if (fault_at(RENAME, AT_FDCWD, to)) return -1;
  note("rename", from, to);
  return REAL(rename)(from, to);
}
int renameat(int a, const char *from, int b, const char *to) { return fault_at(RENAME, b, to) ? -1 : REAL(renameat)(a, from, b, to); }
int mkdir(const char *path, mode_t mode) { return fault_at(MKDIR, AT_FDCWD, path) ? -1 : REAL(mkdir)(path, mode); }
int mkdirat(int at, const char *path, mode_t mode) { return fault_at(MKDIR, at, path) ? -1 : REAL(mkdirat)(at, path, mode); }
int unlink(const char *path) { return fault_at(UNLINK, AT_FDCWD, path) ? -1 : REAL(unlink)(path); }
int unlinkat(int at, const char *path, int flags) { return fault_at(UNLINK, at, path) ? -1 : REAL(unlinkat)(at, path, flags); }
int rmdir(const char *path) { return fault_at(UNLINK, AT_FDCWD, path) ? -1 : REAL(rmdir)(path); }

static int64_t jump(void) {
  if (!control || !control->armed || !control->jump_s) return 0;
  if (__sync_add_and_fetch(&control->clock_seen, 1) < control->jump_at) return 0;
  __sync_add_and_fetch(&control->fired, 1);
  return control->jump_s;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int answer = syscall(SYS_clock_gettime, clock, now);
  if (!answer && clock == CLOCK_REALTIME) now->tv_sec += jump();
  return answer;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  int answer = syscall(SYS_gettimeofday, now, zone);
  if (!answer) now->tv_sec += jump();
  return answer;
}

time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}
