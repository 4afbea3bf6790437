#include "core/cpu_info.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "check.h"

using namespace millrace;
namespace fs = std::filesystem;

namespace {

// A /proc and /sys of the test's own.
class FakeRoot {
 public:
  FakeRoot() {
    path_ = fs::temp_directory_path() / ("millrace-cpu-info-" + std::to_string(::getpid()));
    fs::remove_all(path_);
    write("/proc/meminfo", "MemTotal:        8000000 kB\nMemFree:  1000000 kB\nMemAvailable:    6000000 kB\n");
    write("/proc/cpuinfo",
          "processor\t: 0\nmodel name\t: Test CPU 9000\nflags\t\t: fpu avx avx2 fma avx512_vnni made_up\n\n"
          "processor\t: 1\nmodel name\t: Another\nflags\t\t: fpu\n");
  }
  ~FakeRoot() { fs::remove_all(path_); }

  void write(const std::string& file, const std::string& text) {
    const fs::path full = path_.string() + file;
    fs::create_directories(full.parent_path());
    std::ofstream(full) << text;
  }
  CpuInfo info() const { return cpu_info(path_.string()); }

 private:
  fs::path path_;
};

int affinity() {
  cpu_set_t set;
  CPU_ZERO(&set);
  ::sched_getaffinity(0, sizeof set, &set);
  return CPU_COUNT(&set);
}

constexpr uint64_t kKilo = 1024;

}  // namespace

TEST(model_features_and_memory_come_from_proc) {
  FakeRoot root;
  const CpuInfo info = root.info();
  CHECK_EQ(info.model, std::string("Test CPU 9000"));
  CHECK(info.features == (std::vector<std::string>{"avx", "avx2", "fma", "avx512_vnni"}));
  CHECK_EQ(info.memory_bytes, 8000000 * kKilo);
  CHECK_EQ(info.memory_limit_bytes, 8000000 * kKilo);
  CHECK_EQ(info.memory_available_bytes, 6000000 * kKilo);
  CHECK_EQ(info.cores, affinity());
}

TEST(an_arm_processor_is_named_by_its_numbers) {
  FakeRoot root;
  root.write("/proc/cpuinfo",
             "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n");
  const CpuInfo info = root.info();
  CHECK_EQ(info.model, std::string("implementer 0x41, part 0xd40"));
  CHECK(info.features == (std::vector<std::string>{"asimd", "asimddp", "i8mm"}));
}

TEST(version_2_limits_hold_from_any_ancestor) {
  FakeRoot root;
  root.write("/proc/self/cgroup", "0::/pod/box\n");
  root.write("/proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n");
  root.write("/sys/fs/cgroup/pod/cpu.max", "50000 100000\n");
  root.write("/sys/fs/cgroup/pod/box/cpu.max", "max 100000\n");
  root.write("/sys/fs/cgroup/pod/memory.max", "max\n");
  root.write("/sys/fs/cgroup/pod/box/memory.max", "2000000000\n");
  root.write("/sys/fs/cgroup/pod/box/memory.current", "1500000000\n");
  root.write("/sys/fs/cgroup/pod/box/memory.stat", "anon 500000000\nfile 1000000000\nshmem 300000000\n");
  const CpuInfo info = root.info();
  CHECK_EQ(info.cores, 1);  // half a core, rounded up
  CHECK_EQ(info.memory_limit_bytes, 2000000000);
  // Of 1.5 GB used, 0.7 GB is page cache that shared memory does not hold.
  CHECK_EQ(info.memory_available_bytes, 2000000000 - 800000000);
}

TEST(in_a_namespace_the_mount_itself_holds_the_limits) {
  FakeRoot root;
  root.write("/proc/self/cgroup", "0::/../../elsewhere\n");
  root.write("/proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
  root.write("/sys/fs/cgroup/cpu.max", "100000 100000\n");
  root.write("/sys/fs/cgroup/memory.max", "1000000\n");
  CHECK_EQ(root.info().cores, 1);
  CHECK_EQ(root.info().memory_limit_bytes, 1000000);
  CHECK_EQ(root.info().memory_available_bytes, 1000000);
}

TEST(version_1_has_a_mount_for_each_controller) {
  FakeRoot root;
  root.write("/proc/self/cgroup", "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/\n");
  root.write("/proc/self/mountinfo",
             "33 31 0:30 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
             "35 31 0:32 / /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
             "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
  root.write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "80000\n");
  root.write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  root.write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  root.write("/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "3000000000\n");
  root.write("/sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes", "1000000000\n");
  const CpuInfo info = root.info();
  CHECK_EQ(info.cores, 1);
  CHECK_EQ(info.memory_limit_bytes, 3000000000);
  CHECK_EQ(info.memory_available_bytes, 2000000000);
}

TEST(no_quota_leaves_the_affinity) {
  FakeRoot root;
  root.write("/proc/self/cgroup", "2:cpu:/\n");
  root.write("/proc/self/mountinfo", "33 31 0:30 / /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n");
  root.write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
  root.write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  CHECK_EQ(root.info().cores, affinity());
}

TEST(a_machine_without_proc_still_has_a_core) {
  const CpuInfo info = cpu_info("/nonexistent");
  CHECK(info.cores >= 1);
  CHECK_EQ(info.model, std::string("unknown"));
  CHECK_EQ(info.memory_bytes, 0);
}

TEST(this_machine_is_described) {
  const CpuInfo info = cpu_info();
  CHECK(info.cores >= 1 && info.cores <= info.cores_online);
  CHECK(info.memory_available_bytes > 0);
  CHECK(info.memory_available_bytes <= info.memory_limit_bytes);
  CHECK(info.memory_limit_bytes <= info.memory_bytes);
  const size_t buffer = dram_buffer_bytes(info);
  CHECK(buffer <= size_t{1} << 30);
}

TEST(the_bandwidth_pass_reads_every_byte_on_each_thread) {
  // It checks its own sums and aborts if a pass was left out or wrong; the figure itself is the machine's affair.
  for (int threads : {1, 3}) {
    const double rate = measure_dram_bandwidth(threads, 8 << 20);
    CHECK(rate > 0 && std::isfinite(rate));
  }
}
