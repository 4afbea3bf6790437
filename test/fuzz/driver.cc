// Runs a LLVMFuzzerTestOneInput where there is no libFuzzer (GCC): replays seeds, then mutates them for a while. Under
// a sanitizer; an input that ends the process is written beside the log line that names it.
//   fuzz_x <seed file or folder ...> [--seconds 30] [--seed n] [--runs n]
// The sequence of inputs depends on the seeds' bytes and on --seed alone, not on time. A target may define
// LLVMFuzzerCustomMutator, as for libFuzzer.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" {
int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
__attribute__((weak)) size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t capacity, unsigned seed);
__attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());
size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t capacity);
}

namespace {

using Input = std::vector<uint8_t>;

constexpr size_t kLongest = 1 << 16;

std::mt19937_64 generator;
std::vector<Input> corpus;
const Input* running = nullptr;
std::string crash_file;

uint64_t below(uint64_t n) {
  return generator() % n;
}

void save_running() {
  if (running == nullptr) return;
  if (FILE* file = std::fopen(crash_file.c_str(), "wb")) {
    std::fwrite(running->data(), 1, running->size(), file);
    std::fclose(file);
    std::fprintf(stderr, "the input is in %s\n", crash_file.c_str());
  }
  running = nullptr;
}

void on_signal(int signal) {
  save_running();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void run(const Input& input) {
  // A copy of exactly its size, so that a read past the end is one past the allocation.
  const Input exact(input);
  running = &exact;
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
  running = nullptr;
}

// One change. Numbers in text are changed as text: headers are mostly that.
void mutate_once(Input& x) {
  static constexpr int64_t kNumbers[] = {0,
                                         1,
                                         -1,
                                         2,
                                         7,
                                         8,
                                         127,
                                         128,
                                         255,
                                         256,
                                         65535,
                                         65536,
                                         1 << 20,
                                         2147483647,
                                         4294967295,
                                         100000000,
                                         9007199254740993};
  const auto any_number = [] { return kNumbers[below(std::size(kNumbers))]; };
  if (x.empty()) {
    x.push_back(static_cast<uint8_t>(below(256)));
    return;
  }
  const size_t at = below(x.size());
  switch (below(9)) {
    case 0:
      x[at] ^= static_cast<uint8_t>(1u << below(8));
      break;
    case 1:
      x[at] = static_cast<uint8_t>(below(256));
      break;
    case 2: {  // an integer, little-endian
      const int64_t value = any_number();
      const size_t bytes = std::min<size_t>(size_t{1} << below(4), x.size() - at);
      std::memcpy(x.data() + at, &value, bytes);
      break;
    }
    case 3: {  // a run is taken out
      const size_t count = std::min<size_t>(1 + below(below(4) == 0 ? 64 : 4), x.size() - at);
      x.erase(x.begin() + at, x.begin() + at + count);
      break;
    }
    case 4: {  // a run is doubled
      const size_t count = std::min<size_t>(1 + below(64), x.size() - at);
      const Input part(x.begin() + at, x.begin() + at + count);
      x.insert(x.begin() + below(x.size() + 1), part.begin(), part.end());
      break;
    }
    case 5: {  // a part of another seed
      const Input& other = corpus[below(corpus.size())];
      if (other.empty()) break;
      const size_t from = below(other.size()), count = std::min<size_t>(1 + below(64), other.size() - from);
      x.insert(x.begin() + at, other.begin() + from, other.begin() + from + count);
      break;
    }
    case 6: {  // two runs of equal length change places
      const size_t other = below(x.size());
      const size_t count = std::min({size_t{1} + below(16), x.size() - at, x.size() - other});
      std::swap_ranges(x.begin() + at, x.begin() + at + count, x.begin() + other);
      break;
    }
    case 7: {  // the next decimal number becomes another
      auto begin = std::find_if(x.begin() + at, x.end(), [](uint8_t c) { return c >= '0' && c <= '9'; });
      auto end = std::find_if(begin, x.end(), [](uint8_t c) { return c < '0' || c > '9'; });
      if (begin == end || end - begin > 18) break;
      const int64_t old = std::stoll(std::string(begin, end));
      const std::string text = std::to_string(below(2) == 0 ? any_number() : old + static_cast<int64_t>(below(17)) - 8);
      const auto place = begin - x.begin();
      x.erase(begin, end);
      x.insert(x.begin() + place, text.begin(), text.end());
      break;
    }
    default:
      x.resize(below(8) == 0 ? below(x.size() + 1) : x.size());
      x[at % std::max<size_t>(1, x.size())] += static_cast<uint8_t>(below(2) == 0 ? 1 : 255);
      break;
  }
  if (x.size() > kLongest) x.resize(kLongest);
}

Input mutated() {
  Input x = corpus[below(corpus.size())];
  for (uint64_t rounds = 1 + below(4); rounds > 0; rounds--) {
    if (LLVMFuzzerCustomMutator != nullptr) {
      const size_t size = x.size();
      x.resize(kLongest);
      x.resize(LLVMFuzzerCustomMutator(x.data(), size, kLongest, static_cast<unsigned>(generator())));
    } else {
      mutate_once(x);
    }
  }
  return x;
}

void add_seeds(const std::filesystem::path& path) {
  std::vector<std::filesystem::path> files;
  if (std::filesystem::is_directory(path)) {
    for (const auto& entry : std::filesystem::directory_iterator(path)) files.push_back(entry.path());
  } else {
    files.push_back(path);
  }
  std::sort(files.begin(), files.end());
  for (const auto& file : files) {
    std::ifstream in(file, std::ios::binary);
    if (!in) {
      std::fprintf(stderr, "%s: cannot be read\n", file.c_str());
      std::exit(2);
    }
    corpus.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }
}

}  // namespace

size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t capacity) {
  Input x(data, data + size);
  mutate_once(x);
  x.resize(std::min(x.size(), capacity));
  std::copy(x.begin(), x.end(), data);
  return x.size();
}

int main(int argc, char** argv) {
  double seconds = 0;
  uint64_t seed = static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count()) % 1000000007;
  uint64_t runs = UINT64_MAX;
  for (int i = 1; i < argc; i++) {
    const std::string argument = argv[i];
    const bool option = argument == "--seconds" || argument == "--seed" || argument == "--runs";
    if (option && i + 1 == argc) {
      std::fprintf(stderr, "%s needs a number\n", argv[i]);
      return 2;
    }
    if (argument == "--seconds") {
      seconds = std::atof(argv[++i]);
    } else if (argument == "--seed") {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (argument == "--runs") {
      runs = std::strtoull(argv[++i], nullptr, 10);
      seconds = seconds == 0 ? 1e9 : seconds;
    } else {
      add_seeds(argument);
    }
  }
  if (corpus.empty()) {
    std::fprintf(stderr, "usage: %s <seed file or folder ...> [--seconds s] [--seed n] [--runs n]\n", argv[0]);
    return 2;
  }
  generator.seed(seed);
  crash_file = "crash-" + std::filesystem::path(argv[0]).filename().string() + "-" + std::to_string(seed);
  if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(save_running);
  for (const int signal : {SIGABRT, SIGFPE, SIGILL}) std::signal(signal, on_signal);
  std::printf("%zu seeds, mutated with --seed %llu\n", corpus.size(), static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  for (const Input& input : corpus) run(input);
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  uint64_t done = 0;
  while (done < runs && elapsed() < seconds) {
    run(mutated());
    done++;
  }
  std::printf("%llu inputs in %.1f s\n", static_cast<unsigned long long>(done), elapsed());
  return 0;
}
