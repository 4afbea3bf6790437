#pragma once
// The whole C++ test framework: an executable a file, without Node and without dependencies.
//
//   #include "check.h"
//   TEST(halves_round_to_even) { CHECK_EQ(float_to_half(1.0f), 0x3c00); }
//
// `name_test [filter] [--seed N]` runs the tests whose name contains `filter`, prints `N passed, M failed[, K skipped]`
// and exits with 1 if any failed or none matched. A test that cannot run here calls SKIP(reason), which is printed and
// counted. Randomised tests take their numbers from check::random(), whose seed is printed with every failure.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <random>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

// ThreadSanitizer watches: tests that leave a wait out, and so make the race that it reports, call SKIP.
#if defined(__SANITIZE_THREAD__)
inline constexpr bool kRaceDetector = true;
#else
inline constexpr bool kRaceDetector = false;
#endif

namespace check {

struct Case {
  const char* name;
  void (*body)();
};

struct Skipped {
  std::string reason;
};

// Thrown by the REQUIRE macros to leave a test whose later lines would be meaningless.
struct Abandoned {};

struct Registry {
  std::vector<Case> cases;
  std::mutex mutex;  // checks may fail on any thread
  const char* current = "";
  int failures = 0;  // of the current test
  uint64_t seed = 1;
};

inline Registry& registry() {
  static Registry instance;
  return instance;
}

inline uint64_t seed() {
  return registry().seed;
}

// A generator of the run's seed, mixed with `stream` so that tests can have several.
inline std::mt19937_64 random(uint64_t stream = 0) {
  return std::mt19937_64(registry().seed * 0x9e3779b97f4a7c15ull + stream);
}

struct Register {
  Register(const char* name, void (*body)()) { registry().cases.push_back({name, body}); }
};

inline void fail(const char* file, int line, const std::string& message) {
  Registry& r = registry();
  std::lock_guard lock(r.mutex);
  // A loop of checks that fails everywhere must not bury the first failure.
  if (++r.failures <= 10) {
    std::fprintf(stderr, "%s:%d: in %s: %s (seed %llu)\n", file, line, r.current, message.c_str(),
                 static_cast<unsigned long long>(r.seed));
  }
}

template <typename T>
std::string show(const T& value) {
  if constexpr (std::is_same_v<T, bool>) {
    return value ? "true" : "false";
  } else if constexpr (std::is_enum_v<T>) {
    return std::to_string(static_cast<long long>(value));
  } else if constexpr (std::is_same_v<T, char> || std::is_same_v<T, signed char> || std::is_same_v<T, unsigned char>) {
    return std::to_string(static_cast<int>(value));
  } else if constexpr (requires(std::ostringstream & out) { out << value; }) {
    std::ostringstream out;
    out.precision(9);
    out << value;
    return out.str();
  } else {
    return "(value)";
  }
}

template <typename A, typename B>
bool equal(const A& a, const B& b) {
  // Integers compare by value: a literal 0 against a size_t is no sign error, and -1 is never equal to a large
  // unsigned.
  constexpr bool integers = std::is_integral_v<A> && std::is_integral_v<B>;
  constexpr bool plain = !std::is_same_v<A, bool> && !std::is_same_v<B, bool>;
  if constexpr (integers && plain) {
    if constexpr (std::is_signed_v<A> && std::is_unsigned_v<B>) {
      return a >= 0 && static_cast<std::make_unsigned_t<A>>(a) == b;
    } else if constexpr (std::is_unsigned_v<A> && std::is_signed_v<B>) {
      return b >= 0 && a == static_cast<std::make_unsigned_t<B>>(b);
    } else {
      return a == b;
    }
  } else {
    return a == b;
  }
}

template <typename A, typename B>
bool check_equal(const char* file, int line, const char* text, const A& a, const B& b) {
  if (equal(a, b)) return true;
  fail(file, line, std::string("CHECK_EQ(") + text + "): " + show(a) + " != " + show(b));
  return false;
}

inline bool check_near(const char* file, int line, const char* text, double a, double b, double tolerance) {
  if (std::abs(a - b) <= tolerance || a == b) return true;  // NaN is near nothing, equal infinities are near
  std::ostringstream out;
  out.precision(9);
  out << "CHECK_NEAR(" << text << "): " << a << " and " << b << " differ by " << std::abs(a - b) << " > " << tolerance;
  fail(file, line, out.str());
  return false;
}

inline int run(int argc, char** argv) {
  Registry& r = registry();
  std::string_view filter;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
      r.seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (argv[i][0] == '-') {
      std::fprintf(stderr, "usage: %s [filter] [--seed N]\n", argv[0]);
      return 2;
    } else {
      filter = argv[i];
    }
  }
  int passed = 0, failed = 0, skipped = 0;
  for (const Case& test : r.cases) {
    if (std::string_view(test.name).find(filter) == std::string_view::npos) continue;
    r.current = test.name;
    r.failures = 0;
    try {
      test.body();
    } catch (const Skipped& skip) {
      if (r.failures == 0) {
        std::printf("skipped %s: %s\n", test.name, skip.reason.c_str());
        ++skipped;
        continue;
      }
    } catch (const Abandoned&) {
    } catch (const std::exception& error) {
      fail(__FILE__, __LINE__, std::string("unexpected exception: ") + error.what());
    } catch (...) {
      fail(__FILE__, __LINE__, "unexpected exception of unknown type");
    }
    if (r.failures > 10) std::fprintf(stderr, "%s: %d failed checks in all\n", test.name, r.failures);
    if (r.failures == 0) {
      ++passed;
    } else {
      std::printf("FAILED %s\n", test.name);
      ++failed;
    }
    std::fflush(stdout);
  }
  std::printf("%d passed, %d failed", passed, failed);
  if (skipped > 0) std::printf(", %d skipped", skipped);
  std::printf("\n");
  if (passed + failed + skipped == 0) {
    std::fprintf(stderr, "no test matches \"%s\"\n", std::string(filter).c_str());
    return 1;
  }
  return failed == 0 ? 0 : 1;
}

}  // namespace check

#define TEST(name)                                                              \
  static void check_test_##name();                                              \
  static const check::Register check_register_##name(#name, check_test_##name); \
  static void check_test_##name()

#define CHECK(condition)                                                               \
  do {                                                                                 \
    if (!(condition)) check::fail(__FILE__, __LINE__, "CHECK(" #condition ") failed"); \
  } while (false)

#define CHECK_EQ(a, b) static_cast<void>(check::check_equal(__FILE__, __LINE__, #a ", " #b, (a), (b)))

#define CHECK_NEAR(a, b, tolerance)                                                                                   \
  static_cast<void>(check::check_near(__FILE__, __LINE__, #a ", " #b, static_cast<double>(a), static_cast<double>(b), \
                                      static_cast<double>(tolerance)))

// Like CHECK, and leaves the test if it fails.
#define REQUIRE(condition)                                               \
  do {                                                                   \
    if (!(condition)) {                                                  \
      check::fail(__FILE__, __LINE__, "REQUIRE(" #condition ") failed"); \
      throw check::Abandoned{};                                          \
    }                                                                    \
  } while (false)

// The expression throws a millrace::Error of this code (include "core/error.h" before use).
#define CHECK_THROWS_CODE(expression, expected_code)                                                                \
  do {                                                                                                              \
    bool check_thrown = false;                                                                                      \
    try {                                                                                                           \
      static_cast<void>(expression);                                                                                \
    } catch (const ::millrace::Error& check_error) {                                                                \
      check_thrown = true;                                                                                          \
      if (std::strcmp(check_error.code(), (expected_code)) != 0) {                                                  \
        check::fail(__FILE__, __LINE__,                                                                             \
                    std::string(#expression " threw ") + check_error.code() + " instead of " + (expected_code) +    \
                        ": " + check_error.what());                                                                 \
      }                                                                                                             \
    }                                                                                                               \
    if (!check_thrown) check::fail(__FILE__, __LINE__, #expression " did not throw " + std::string(expected_code)); \
  } while (false)

#define SKIP(reason) \
  throw check::Skipped { reason }

int main(int argc, char** argv) {
  return check::run(argc, argv);
}
