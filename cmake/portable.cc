// What glibc has only since 2.32 or later, for addons that are to load on older ones (MillracePortable.cmake).
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

#define MILLRACE_HIDDEN extern "C" __attribute__((visibility("hidden")))

// libstdc++ asks it whether a count needs an atomic instruction: it always does.
MILLRACE_HIDDEN char __libc_single_threaded;
char __libc_single_threaded = 0;

static int stat_at(int folder, const char* path, struct stat* out, int flags) {
  return static_cast<int>(syscall(SYS_newfstatat, folder, path, out, flags));
}

MILLRACE_HIDDEN int __wrap_stat(const char* path, struct stat* out) { return stat_at(AT_FDCWD, path, out, 0); }
MILLRACE_HIDDEN int __wrap_lstat(const char* path, struct stat* out) {
  return stat_at(AT_FDCWD, path, out, AT_SYMLINK_NOFOLLOW);
}
MILLRACE_HIDDEN int __wrap_fstat(int file, struct stat* out) { return static_cast<int>(syscall(SYS_fstat, file, out)); }
MILLRACE_HIDDEN int __wrap_fstatat(int folder, const char* path, struct stat* out, int flags) {
  return stat_at(folder, path, out, flags);
}
// On 64-bit systems they are the same.
MILLRACE_HIDDEN int __wrap_stat64(const char* path, struct stat* out) { return __wrap_stat(path, out); }
MILLRACE_HIDDEN int __wrap_lstat64(const char* path, struct stat* out) { return __wrap_lstat(path, out); }
MILLRACE_HIDDEN int __wrap_fstat64(int file, struct stat* out) { return __wrap_fstat(file, out); }
MILLRACE_HIDDEN int __wrap_fstatat64(int folder, const char* path, struct stat* out, int flags) {
  return stat_at(folder, path, out, flags);
}

// std::random_device.
MILLRACE_HIDDEN uint32_t __wrap_arc4random() {
  uint32_t value = 0;
  while (getrandom(&value, sizeof(value), 0) != sizeof(value)) {
  }
  return value;
}
