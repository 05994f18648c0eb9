/* Stands between a program and the kernel, and makes what happens to files below one directory fail.
 *
 * Preloaded by tests/survive. Every call that changes something durable below FAULTS_ROOT is one step, in one order
 * (a lock is held from the count to the end of the call). What happens at a step is told by the environment:
 *
 *   FAULTS_ROOT    directory, absolute and without links
 *   FAULTS_KILL    number of the step before which the process dies by SIGKILL
 *   FAULTS_TORN    set: where that step is a write, its first half (in 512 bytes) is done before
 *   FAULTS_FAIL    number of the step that fails instead of being done
 *   FAULTS_ERRNO   with this error; 0 makes a write short instead, and does nothing to other steps
 *   FAULTS_STICKY  set: and so do all steps after it that write, create or sync
 *   FAULTS_LOG     file that gets every step that was done, with its data: see log_step
 *   FAULTS_COUNT   file that gets a line a step: number, kind, path
 *   FAULTS_HOLD    number of the step before which the process waits
 *   FAULTS_READ    number of the read of a package before which it waits
 *   FAULTS_HELD    file that it makes then; it goes on when somebody has removed it
 *   FAULTS_BAD     file anywhere, absolute and without links: reads of the bytes FAULTS_BAD_FROM up to FAULTS_BAD_TO (not
 *                  with it) fail with EIO, as on bad sectors; only the first FAULTS_BAD_TIMES, if that is set
 *
 * Reading is not disturbed otherwise. Memory maps are not seen: the programs under test do not write through any.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { CREATE = 1, WRITE, SYNC, TRUNCATE, RENAME, UNLINK, MKDIR, RMDIR, LINK, ALLOCATE, PUNCH, EXCHANGE };
static const char *const names[] = {"", "create", "write", "sync", "truncate", "rename", "unlink", "mkdir", "rmdir", "link", "allocate", "punch", "exchange"};

static char root[PATH_MAX];
static size_t root_len;
static long step, kill_at, fail_at, hold_at, hold_read, reads;
static int fail_with, torn, sticky, log_fd = -1, count_fd = -1;
static char bad[PATH_MAX];
static long bad_from, bad_to, bad_times;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static long number(const char *name) {
  const char *text = getenv(name);
  return text ? atol(text) : 0;
}

static int output(const char *name) {
  const char *path = getenv(name);
  /* Far from the numbers that programs get, so that closing all of the low ones does no harm. */
  int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
  return fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 900);
}

__attribute__((constructor)) static void begin(void) {
  const char *bad_path = getenv("FAULTS_BAD");
  if (bad_path) snprintf(bad, sizeof bad, "%s", bad_path);
  bad_from = number("FAULTS_BAD_FROM");
  bad_to = number("FAULTS_BAD_TO");
  bad_times = getenv("FAULTS_BAD_TIMES") ? number("FAULTS_BAD_TIMES") : LONG_MAX;
  const char *text = getenv("FAULTS_ROOT");
  if (!text) return;
  snprintf(root, sizeof root, "%s", text);
  root_len = strlen(root);
  kill_at = number("FAULTS_KILL");
  fail_at = number("FAULTS_FAIL");
  fail_with = (int)number("FAULTS_ERRNO");
  hold_at = number("FAULTS_HOLD");
  hold_read = number("FAULTS_READ");
  torn = getenv("FAULTS_TORN") != NULL;
  sticky = getenv("FAULTS_STICKY") != NULL;
  log_fd = output("FAULTS_LOG");
  count_fd = output("FAULTS_COUNT");
}

static int below(const char *path) {
  return root_len && strncmp(path, root, root_len) == 0 && (path[root_len] == '/' || path[root_len] == 0);
}

/* The name an open file has now, if it is below the root and still has one. */
static int path_of(int fd, char *out) {
  if (!root_len) return 0;
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  long n = syscall(SYS_readlinkat, AT_FDCWD, link, out, PATH_MAX - 1);
  if (n <= 0) return 0;
  out[n] = 0;
  const char gone[] = " (deleted)";
  size_t tail = sizeof gone - 1;
  if ((size_t)n > tail && strcmp(out + n - tail, gone) == 0) return 0;
  return below(out);
}

/* The absolute name of a path given to a system call. */
static int path_at(int dir, const char *path, char *out) {
  if (!root_len || !path) return 0;
  if (path[0] == '/') {
    snprintf(out, PATH_MAX, "%s", path);
    return below(out);
  }
  char base[PATH_MAX];
  if (dir == AT_FDCWD) {
    if (syscall(SYS_getcwd, base, sizeof base) < 0) return 0;
  } else if (!path_of(dir, base)) {
    return 0;
  }
  if (snprintf(out, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return 0;
  return below(out);
}

static void put(int fd, const void *bytes, size_t len) {
  for (const char *at = bytes; len;) {
    long n = syscall(SYS_write, fd, at, len);
    if (n <= 0) _exit(99);
    at += n;
    len -= (size_t)n;
  }
}

/* One record: kind u8, length of a name and the name twice (u16 each; the second is empty but for RENAME, LINK and EXCHANGE),
 * offset u64, length u64, and for WRITE the bytes. Native byte order. */
static void log_step(enum kind kind, const char *path, const char *other, uint64_t offset, uint64_t len, const void *data) {
  if (log_fd < 0) return;
  uint8_t k = (uint8_t)kind;
  const char *two[2] = {path, other ? other : ""};
  put(log_fd, &k, 1);
  for (int i = 0; i < 2; i++) {
    uint16_t n = (uint16_t)strlen(two[i]);
    put(log_fd, &n, 2);
    put(log_fd, two[i], n);
  }
  put(log_fd, &offset, 8);
  put(log_fd, &len, 8);
  if (kind == WRITE) put(log_fd, data, len);
}

/* Waits until somebody removes the file. */
static void hold(void) {
  const char *path = getenv("FAULTS_HELD");
  int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;
  if (fd < 0) _exit(98);
  syscall(SYS_close, fd);
  while (syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0) usleep(1000);
}

/* Counts a step. 1: it is to fail, errno says how. 2: only a part of it is to be done. The lock is held afterwards. */
static int enter(enum kind kind, const char *path) {
  pthread_mutex_lock(&lock);
  step++;
  if (count_fd >= 0) {
    char line[PATH_MAX + 64];
    int n = snprintf(line, sizeof line, "%ld %s %s\n", step, names[kind], path + root_len);
    put(count_fd, line, (size_t)n);
  }
  if (hold_at && step == hold_at) hold();
  if (kill_at && step == kill_at) {
    if (torn && kind == WRITE) return 2;
    syscall(SYS_kill, (int)syscall(SYS_getpid), SIGKILL);
    for (;;) pause();
  }
  int frees = kind == UNLINK || kind == RMDIR || kind == PUNCH || kind == RENAME || kind == EXCHANGE;
  if (fail_at && (step == fail_at || (sticky && step > fail_at && !frees))) {
    if (fail_with == 0) return kind == WRITE ? 2 : 0;
    errno = fail_with;
    return 1;
  }
  return 0;
}

static long leave(long result) {
  int error = errno;
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}

static long real(long result) { return result; }

/* A write of several parts to a tracked file. `at` is -1 for the file's own position. */
static long write_parts(int fd, const char *path, const struct iovec *parts, int n, off_t at) {
  size_t len = 0;
  for (int i = 0; i < n; i++) len += parts[i].iov_len;
  char *joined = malloc(len ? len : 1);
  if (!joined) { errno = ENOMEM; return -1; }
  size_t used = 0;
  for (int i = 0; i < n; i++) {
    memcpy(joined + used, parts[i].iov_base, parts[i].iov_len);
    used += parts[i].iov_len;
  }
  int fate = enter(WRITE, path);
  long done = -1;
  if (fate != 1) {
    size_t want = fate == 2 ? len / 2 / 512 * 512 : len;
    /* A short write is a write of something, or a program that goes on where it ended would never end. */
    if (want == 0) want = len / 2 ? len / 2 : len;
    off_t offset = at;
    if (at < 0) {
      struct stat st;
      int append = (fcntl(fd, F_GETFL) & O_APPEND) != 0;
      offset = append && fstat(fd, &st) == 0 ? st.st_size : (off_t)syscall(SYS_lseek, fd, 0, SEEK_CUR);
    }
    done = at < 0 ? syscall(SYS_write, fd, joined, want) : syscall(SYS_pwrite64, fd, joined, want, at);
    if (done > 0) log_step(WRITE, path, NULL, (uint64_t)offset, (uint64_t)done, joined);
    if (fate == 2 && kill_at) {
      syscall(SYS_kill, (int)syscall(SYS_getpid), SIGKILL);
      for (;;) pause();
    }
  }
  leave(0);
  int error = errno;
  free(joined);
  errno = error;
  return done;
}

ssize_t write(int fd, const void *bytes, size_t len) {
  char path[PATH_MAX];
  if (!path_of(fd, path)) return syscall(SYS_write, fd, bytes, len);
  struct iovec one = {(void *)bytes, len};
  return write_parts(fd, path, &one, 1, -1);
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
  char path[PATH_MAX];
  if (!path_of(fd, path)) return syscall(SYS_writev, fd, parts, n);
  return write_parts(fd, path, parts, n, -1);
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t at) {
  char path[PATH_MAX];
  if (!path_of(fd, path)) return syscall(SYS_pwrite64, fd, bytes, len, at);
  struct iovec one = {(void *)bytes, len};
  return write_parts(fd, path, &one, 1, at);
}
ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at) { return pwrite64(fd, bytes, len, at); }

/* Whether a read meets a bad sector. */
static int is_bad(int fd, size_t len, off64_t at) {
  if (!bad[0] || at >= bad_to || at + (off64_t)len <= bad_from) return 0;
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  long n = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
  if (n <= 0) return 0;
  path[n] = 0;
  return strcmp(path, bad) == 0 && __atomic_fetch_sub(&bad_times, 1, __ATOMIC_SEQ_CST) > 0;
}

ssize_t pread64(int fd, void *bytes, size_t len, off64_t at) {
  char path[PATH_MAX];
  if (is_bad(fd, len, at)) {
    errno = EIO;
    return -1;
  }
  if (hold_read && path_of(fd, path)) {
    size_t n = strlen(path);
    if (n > 4 && strcmp(path + n - 4, ".pkg") == 0 && __atomic_add_fetch(&reads, 1, __ATOMIC_SEQ_CST) == hold_read) hold();
  }
  return syscall(SYS_pread64, fd, bytes, len, at);
}
ssize_t pread(int fd, void *bytes, size_t len, off_t at) { return pread64(fd, bytes, len, at); }

ssize_t preadv64v2(int fd, const struct iovec *parts, int n, off64_t at, int flags) {
  size_t len = 0;
  for (int i = 0; i < n; i++) len += parts[i].iov_len;
  if (is_bad(fd, len, at)) {
    errno = EIO;
    return -1;
  }
  return syscall(SYS_preadv2, fd, parts, n, (long)at, 0L, (long)flags);
}
ssize_t preadv2(int fd, const struct iovec *parts, int n, off_t at, int flags) { return preadv64v2(fd, parts, n, at, flags); }

static int sync_file(int fd, long call) {
  char path[PATH_MAX];
  if (!path_of(fd, path)) return (int)syscall(call, fd);
  if (enter(SYNC, path) == 1) return (int)leave(-1);
  long result = syscall(call, fd);
  if (result == 0) log_step(SYNC, path, NULL, 0, 0, NULL);
  return (int)leave(result);
}
int fsync(int fd) { return sync_file(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_file(fd, SYS_fdatasync); }

int ftruncate64(int fd, off64_t len) {
  char path[PATH_MAX];
  if (!path_of(fd, path)) return (int)syscall(SYS_ftruncate, fd, len);
  if (enter(TRUNCATE, path) == 1) return (int)leave(-1);
  long result = syscall(SYS_ftruncate, fd, len);
  if (result == 0) log_step(TRUNCATE, path, NULL, 0, (uint64_t)len, NULL);
  return (int)leave(result);
}
int ftruncate(int fd, off_t len) { return ftruncate64(fd, len); }

int fallocate64(int fd, int mode, off64_t at, off64_t len) {
  char path[PATH_MAX];
  if (!path_of(fd, path)) return (int)syscall(SYS_fallocate, fd, mode, at, len);
  enum kind kind = mode & 2 /* FALLOC_FL_PUNCH_HOLE */ ? PUNCH : ALLOCATE;
  if (enter(kind, path) == 1) return (int)leave(-1);
  long result = syscall(SYS_fallocate, fd, mode, at, len);
  if (result == 0 && (kind == PUNCH || !(mode & 1 /* FALLOC_FL_KEEP_SIZE */))) log_step(kind, path, NULL, (uint64_t)at, (uint64_t)len, NULL);
  return (int)leave(result);
}
int fallocate(int fd, int mode, off_t at, off_t len) { return fallocate64(fd, mode, at, len); }

static int open_file(int dir, const char *name, int flags, mode_t mode) {
  char path[PATH_MAX];
  struct stat st;
  if (!(flags & (O_CREAT | O_TRUNC)) || !path_at(dir, name, path)) return (int)syscall(SYS_openat, dir, name, flags, mode);
  int there = syscall(SYS_newfstatat, AT_FDCWD, path, &st, 0) == 0;
  if (there && !(flags & O_TRUNC)) return (int)syscall(SYS_openat, dir, name, flags, mode);
  enum kind kind = there ? TRUNCATE : CREATE;
  if (enter(kind, path) == 1) return (int)leave(-1);
  long fd = syscall(SYS_openat, dir, name, flags, mode);
  if (fd >= 0) log_step(kind, path, NULL, 0, 0, NULL);
  return (int)leave(fd);
}

#define MODE(flags)                                       \
  mode_t mode = 0;                                        \
  if ((flags) & (O_CREAT | O_TMPFILE)) {                  \
    va_list rest;                                         \
    va_start(rest, flags);                                \
    mode = va_arg(rest, mode_t);                          \
    va_end(rest);                                         \
  }
int open64(const char *path, int flags, ...) { MODE(flags) return open_file(AT_FDCWD, path, flags, mode); }
int open(const char *path, int flags, ...) { MODE(flags) return open_file(AT_FDCWD, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE(flags) return open_file(dir, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE(flags) return open_file(dir, path, flags, mode); }

/* A step with one or two names; `call` does it. */
#define NAMED(kind, a_dir, a, b_dir, b, call)                                     \
  char path[PATH_MAX], other[PATH_MAX];                                           \
  const char *second = b;                                                         \
  int seen = path_at(a_dir, a, path);                                             \
  if (second && !path_at(b_dir, second, other)) seen = 0;                         \
  if (!seen) return (int)real(call);                                              \
  if (enter(kind, path) == 1) return (int)leave(-1);                              \
  long result = call;                                                             \
  if (result == 0) log_step(kind, path, second ? other : NULL, 0, 0, NULL);       \
  return (int)leave(result);

int renameat(int from_dir, const char *from, int to_dir, const char *to) { NAMED(RENAME, from_dir, from, to_dir, to, syscall(SYS_renameat, from_dir, from, to_dir, to)) }
int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }
int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) { NAMED((flags & 2 /* RENAME_EXCHANGE */ ? EXCHANGE : RENAME), from_dir, from, to_dir, to, syscall(SYS_renameat2, from_dir, from, to_dir, to, flags)) }
int unlinkat(int dir, const char *name, int flags) { NAMED((flags & AT_REMOVEDIR ? RMDIR : UNLINK), dir, name, 0, NULL, syscall(SYS_unlinkat, dir, name, flags)) }
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }
int mkdirat(int dir, const char *name, mode_t mode) { NAMED(MKDIR, dir, name, 0, NULL, syscall(SYS_mkdirat, dir, name, mode)) }
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }
int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) { NAMED(LINK, from_dir, from, to_dir, to, syscall(SYS_linkat, from_dir, from, to_dir, to, flags)) }
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }
