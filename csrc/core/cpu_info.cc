#include "core/cpu_info.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string_view>
#include <thread>

#include "core/memory.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace millrace {
namespace {

constexpr const char* kFeatures[] = {
    "avx",      "avx2",        "fma",      "f16c",     "avx512f",  "avx512bw",    "avx512vl",
    "avx512dq", "avx512_vnni", "avx_vnni", "amx_int8", "amx_tile", "avx512_bf16", "asimd",
    "asimdhp",  "asimddp",     "i8mm",     "bf16",     "sve",      "sve2",
};

std::string read_text(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return file ? text.str() : std::string();
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const size_t end = text.find(separator);
    parts.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return parts;
}

std::string trim(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

// The value behind "key" and its separator on the first line that starts with it, or "".
std::string line_value(const std::string& text, std::string_view key, char separator) {
  for (const std::string& line : split(text, '\n')) {
    const size_t at = line.find(separator);
    if (at != std::string::npos && trim(line.substr(0, at)) == key) return trim(line.substr(at + 1));
  }
  return "";
}

std::optional<uint64_t> number(const std::string& text) {
  const std::string value = trim(text);
  if (value.empty() || value.find_first_not_of("0123456789") != std::string::npos) return std::nullopt;
  return std::strtoull(value.c_str(), nullptr, 10);
}

uint64_t meminfo_bytes(const std::string& meminfo, std::string_view key) {
  return std::strtoull(line_value(meminfo, key, ':').c_str(), nullptr, 10) * 1024;
}

bool contains(const std::string& list, std::string_view item) {
  const std::vector<std::string> items = split(list, ',');
  return std::find(items.begin(), items.end(), item) != items.end();
}

// The folders that govern this process for one controller, its own group first, then each parent within the mount.
// Version 2 has one hierarchy for all controllers, version 1 one for each.
struct CgroupFolders {
  int version = 0;  // 0: none
  std::vector<std::string> folders;
};

CgroupFolders cgroup_folders(const std::string& root, std::string_view controller) {
  struct Group {
    int version;
    std::string path;
  };
  std::vector<Group> groups;  // version 1 first: in hybrid set-ups it has the controllers and version 2 none
  for (const std::string& line : split(read_text(root + "/proc/self/cgroup"), '\n')) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first == std::string::npos ? first : first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (controllers.empty()) {
      groups.push_back({2, line.substr(second + 1)});
    } else if (contains(controllers, controller)) {
      groups.insert(groups.begin(), {1, line.substr(second + 1)});
    }
  }
  const std::vector<std::string> mounts = split(read_text(root + "/proc/self/mountinfo"), '\n');
  for (const Group& group : groups) {
    for (const std::string& line : mounts) {
      // id parent device root mountpoint options [tags] - type source super-options (proc(5))
      const size_t dash = line.find(" - ");
      if (dash == std::string::npos) continue;
      const std::vector<std::string> head = split(line.substr(0, dash), ' ');
      const std::vector<std::string> tail = split(line.substr(dash + 3), ' ');
      if (head.size() < 5 || tail.size() < 3) continue;
      if (group.version == 2 ? tail[0] != "cgroup2" : (tail[0] != "cgroup" || !contains(tail[2], controller))) continue;
      CgroupFolders found{group.version, {}};
      const std::string mount = root + head[4];
      // In a container the group's path may be the host's, with only a part of the tree mounted.
      std::string path = group.path;
      if (head[3] != "/" && path.rfind(head[3], 0) == 0) path = path.substr(head[3].size());
      if (path.find("..") != std::string::npos) path.clear();
      while (path.size() > 1) {
        if (::access((mount + path).c_str(), F_OK) == 0) found.folders.push_back(mount + path);
        path = path.substr(0, path.rfind('/'));
      }
      found.folders.push_back(mount);
      return found;
    }
  }
  return {};
}

// Cores that the tightest quota grants, or infinity.
double cgroup_cpu_quota(const std::string& root) {
  double cores = std::numeric_limits<double>::infinity();
  const CgroupFolders groups = cgroup_folders(root, "cpu");
  for (const std::string& folder : groups.folders) {
    std::optional<uint64_t> quota, period;  // microseconds; "max" and "-1" are no numbers
    if (groups.version == 2) {
      const std::vector<std::string> words = split(trim(read_text(folder + "/cpu.max")), ' ');
      if (words.size() == 2) quota = number(words[0]), period = number(words[1]);
    } else {
      quota = number(read_text(folder + "/cpu.cfs_quota_us"));
      period = number(read_text(folder + "/cpu.cfs_period_us"));
    }
    if (quota && period && *period > 0)
      cores = std::min(cores, static_cast<double>(*quota) / static_cast<double>(*period));
  }
  return cores;
}

struct MemoryLimit {
  uint64_t limit = std::numeric_limits<uint64_t>::max();
  uint64_t available = std::numeric_limits<uint64_t>::max();
};

MemoryLimit cgroup_memory(const std::string& root) {
  MemoryLimit result;
  const CgroupFolders groups = cgroup_folders(root, "memory");
  const bool v2 = groups.version == 2;
  for (const std::string& folder : groups.folders) {
    const std::optional<uint64_t> limit = number(read_text(folder + (v2 ? "/memory.max" : "/memory.limit_in_bytes")));
    if (!limit) continue;
    const uint64_t used = number(read_text(folder + (v2 ? "/memory.current" : "/memory.usage_in_bytes"))).value_or(0);
    // Page cache counts as used and is given back when memory is asked for; shared memory counts as cache and is not.
    const std::string stat = read_text(folder + "/memory.stat");
    const uint64_t cache = number(line_value(stat, v2 ? "file" : "total_cache", ' ')).value_or(0);
    const uint64_t shared = number(line_value(stat, v2 ? "shmem" : "total_shmem", ' ')).value_or(0);
    const uint64_t held = used - std::min(used, cache - std::min(cache, shared));
    result.limit = std::min(result.limit, *limit);
    result.available = std::min(result.available, *limit - std::min(*limit, held));
  }
  return result;
}

int affinity_cores() {
  // Machines with more than 1024 logical processors need a larger set than cpu_set_t.
  for (int count = 1024; count <= 1 << 16; count *= 4) {
    cpu_set_t* set = CPU_ALLOC(count);
    if (set == nullptr) break;
    const size_t size = CPU_ALLOC_SIZE(count);
    const int cores = ::sched_getaffinity(0, size, set) == 0 ? CPU_COUNT_S(size, set) : 0;
    CPU_FREE(set);
    if (cores > 0) return cores;
  }
  return 1;
}

std::string cpu_model(const std::string& cpuinfo) {
  if (std::string name = line_value(cpuinfo, "model name", ':'); !name.empty()) return name;
  // arm64 kernels name the implementer and part numbers only.
  const std::string implementer = line_value(cpuinfo, "CPU implementer", ':');
  const std::string part = line_value(cpuinfo, "CPU part", ':');
  if (!implementer.empty()) return "implementer " + implementer + ", part " + part;
  return "unknown";
}

// One pass over `bytes` (a multiple of 256) that the compiler cannot leave out. Wide loads in several chains: a core's
// read bandwidth is limited by the lines in flight, not by the additions.
uint64_t read_plain(const std::byte* data, size_t bytes) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i < bytes; i += sizeof sums) {
    uint64_t words[8];
    std::memcpy(words, data + i, sizeof words);
    for (int lane = 0; lane < 8; ++lane) sums[lane] += words[lane];
  }
  uint64_t sum = 0;
  for (uint64_t part : sums) sum += part;
  return sum;
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) uint64_t read_avx2(const std::byte* data, size_t bytes) {
  __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
  for (size_t i = 0; i < bytes; i += 128) {
    const __m256i* line = reinterpret_cast<const __m256i*>(data + i);
    a = _mm256_add_epi64(a, _mm256_load_si256(line));
    b = _mm256_add_epi64(b, _mm256_load_si256(line + 1));
    c = _mm256_add_epi64(c, _mm256_load_si256(line + 2));
    d = _mm256_add_epi64(d, _mm256_load_si256(line + 3));
  }
  const __m256i sum = _mm256_add_epi64(_mm256_add_epi64(a, b), _mm256_add_epi64(c, d));
  alignas(32) uint64_t words[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(words), sum);
  return words[0] + words[1] + words[2] + words[3];
}
#endif

uint64_t read_pass(const std::byte* data, size_t bytes) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return read_avx2(data, bytes);
#endif
  return read_plain(data, bytes);
}

}  // namespace

CpuInfo cpu_info(const std::string& root) {
  CpuInfo info;
#if defined(__x86_64__)
  info.arch = "x64";
#elif defined(__aarch64__)
  info.arch = "arm64";
#else
  info.arch = "other";
#endif
  const std::string cpuinfo = read_text(root + "/proc/cpuinfo");
  info.model = cpu_model(cpuinfo);
  std::string flags = line_value(cpuinfo, "flags", ':');
  if (flags.empty()) flags = line_value(cpuinfo, "Features", ':');
  const std::vector<std::string> words = split(flags, ' ');
  for (const char* feature : kFeatures) {
    if (std::find(words.begin(), words.end(), feature) != words.end()) info.features.emplace_back(feature);
  }

  info.cores_online = std::max(1, static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN)));
  const double quota = std::ceil(cgroup_cpu_quota(root));
  info.cores = std::max(1, static_cast<int>(std::min(static_cast<double>(affinity_cores()), quota)));

  const std::string meminfo = read_text(root + "/proc/meminfo");
  info.memory_bytes = meminfo_bytes(meminfo, "MemTotal");
  const MemoryLimit limit = cgroup_memory(root);
  info.memory_limit_bytes = std::min(info.memory_bytes, limit.limit);
  info.memory_available_bytes = std::min(meminfo_bytes(meminfo, "MemAvailable"), limit.available);
  return info;
}

size_t dram_buffer_bytes(const CpuInfo& info) {
  constexpr uint64_t kEnough = uint64_t{1} << 30, kLeast = uint64_t{16} << 20;
  return static_cast<size_t>(std::max(kLeast, std::min(kEnough, info.memory_available_bytes / 4)));
}

double measure_dram_bandwidth(int threads, size_t bytes) {
  constexpr int kPasses = 3;
  using Clock = std::chrono::steady_clock;
  threads = std::max(threads, 1);
  const size_t count = static_cast<size_t>(threads);
  const size_t share = round_up(bytes / count + 1, 4096);
  HostMemory memory(share * count, "the memory bandwidth measurement");
  struct alignas(64) Reader {
    std::thread thread;
    Clock::time_point begin[kPasses], end[kPasses];
    uint64_t sum = 0;
  };
  std::vector<Reader> readers(count);
  std::barrier together(threads);
  for (size_t t = 0; t < count; ++t) {
    readers[t].thread = std::thread([&, t] {
      Reader& reader = readers[t];
      std::byte* data = memory.data() + t * share;
      std::memset(data, 1, share);  // pages that were never written are all one and the same page
      for (int pass = 0; pass < kPasses; ++pass) {
        together.arrive_and_wait();
        reader.begin[pass] = Clock::now();
        reader.sum += read_pass(data, share);
        reader.end[pass] = Clock::now();
      }
    });
  }
  for (Reader& reader : readers) reader.thread.join();
  double best = std::numeric_limits<double>::infinity();
  for (int pass = 0; pass < kPasses; ++pass) {
    Clock::time_point begin = readers[0].begin[pass], end = readers[0].end[pass];
    for (const Reader& reader : readers) {
      begin = std::min(begin, reader.begin[pass]);
      end = std::max(end, reader.end[pass]);
      // The sums must be used, or the passes could be left out: each byte is 1.
      if (reader.sum != kPasses * (share / 8) * 0x0101010101010101ull) std::abort();
    }
    best = std::min(best, std::chrono::duration<double>(end - begin).count());
  }
  return static_cast<double>(memory.size()) / best;
}

}  // namespace millrace
