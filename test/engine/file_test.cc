// A model part of which stays in its packed file answers as one that is all in memory, on every path of the twin; and
// what goes wrong with the file costs the requests of that moment alone.
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "checkpoint/writer.h"
#include "engine/engine.h"
#include "harness.h"
#include "stream/packed_file.h"
#include "stream/packed_units.h"

using namespace millrace;

namespace {

constexpr uint64_t kSeed = 5;

// Every second unit of the layers, or all of them.
std::vector<bool> in_file(bool all) {
  const size_t units = tiny_model(kSeed)->units().size();
  std::vector<bool> out(units, false);
  for (size_t unit = 0; unit + 1 < units; unit++) out[unit] = all || unit % 2 == 1;
  return out;
}

std::vector<Result> answers(Engine& engine, const std::shared_ptr<Model>& model,
                            const std::vector<RequestOptions>& requests) {
  engine.add(model);
  const auto sink = std::make_shared<Collector>();
  std::vector<uint64_t> ids;
  for (const RequestOptions& options : requests) ids.push_back(engine.submit(model, options, sink));
  std::vector<Result> results;
  for (const uint64_t id : ids) results.push_back(sink->wait(id));
  return results;
}

std::vector<RequestOptions> some_requests(int count) {
  auto random = check::random(1);
  std::vector<RequestOptions> requests;
  for (int i = 0; i < count; i++) requests.push_back(request(random));
  return requests;
}

PackedUnits& units_of(const HostModel& host) {
  return const_cast<PackedUnits&>(*host.file());
}

RequestOptions tokens(int count) {
  RequestOptions options;
  options.tokens = {3, 1, 4, 1, 5};
  options.max_tokens = count;
  return options;
}

}  // namespace

TEST(in_the_file_in_memory_and_streamed_are_the_same_bits) {
  testing::TempFolder folder;
  Engine engine;
  const std::vector<RequestOptions> requests = some_requests(14);
  const auto whole = make_model(tiny_model(kSeed), {});
  const std::vector<Result> expected = answers(engine, whole, requests);
  close_and_wait(engine, whole);
  for (const bool all : {false, true}) {
    const auto host = tiny_model(kSeed, 0, false, {folder / "tiny.packed", in_file(all)});
    CHECK(host->bytes() < tiny_model(kSeed)->bytes());
    Placement computed, streamed, mixed, ahead, spread;
    streamed.layers = Home::streamed;
    streamed.poison = true;
    mixed.layers = Home::streamed;
    mixed.mixed = true;
    ahead.ahead = StepsAhead::always;
    spread.devices = 2;
    spread.layers = Home::streamed;
    spread.mixed = true;
    for (const Placement& placement : {computed, streamed, mixed, ahead, spread}) {
      const auto model = make_model(host, placement);
      const std::vector<Result> results = answers(engine, model, requests);
      for (size_t i = 0; i < results.size(); i++) check_same(expected[i], results[i]);
      CHECK(model->counters().file_bytes > 0u);
      CHECK_EQ(model->counters().steps_ahead, 0u);  // a pass of rows that turn out useless would cost reads
      close_and_wait(engine, model);
    }
  }
}

TEST(units_of_the_file_move_between_homes_without_another_bit) {
  testing::TempFolder folder;
  Engine engine;
  const std::vector<RequestOptions> requests = some_requests(6);
  const auto whole = make_model(tiny_model(kSeed), {});
  const std::vector<Result> expected = answers(engine, whole, requests);
  close_and_wait(engine, whole);
  const auto host = tiny_model(kSeed, 0, false, {folder / "tiny.packed", in_file(false)});
  const auto model = make_model(host, {});
  std::vector<Result> results = answers(engine, model, requests);
  for (const Home home : {Home::streamed, Home::resident}) {
    std::vector<Home> homes(host->units().size(), home);
    homes.back() = Home::resident;
    std::atomic<bool> moved{false};
    engine.set_homes(
        model, homes, {size_t{1} << 20}, [&](const std::vector<Home>&) { moved = true; },
        [&](const Error& error) {
          CHECK_EQ(std::string(error.what()), "");
          moved = true;
        });
    while (!moved) std::this_thread::yield();
    const auto sink = std::make_shared<Collector>();
    for (size_t i = 0; i < requests.size(); i++) {
      check_same(expected[i], sink->wait(engine.submit(model, requests[i], sink)));
    }
  }
  close_and_wait(engine, model);
}

TEST(a_read_that_fails_ends_the_requests_of_that_moment_and_no_later_one) {
  testing::TempFolder folder;
  Engine engine;
  for (const Home home : {Home::resident, Home::streamed}) {
    const auto host = tiny_model(kSeed, 0, false, {folder / "tiny.packed", in_file(true)});
    Placement placement;
    placement.layers = home;
    std::atomic<bool> broken{false};
    units_of(*host).replace_read([&](int fd, void* to, size_t bytes, off_t at) -> ssize_t {
      if (!broken) return ::pread(fd, to, bytes, at);
      errno = EIO;
      return -1;
    });
    const auto model = make_model(host, placement);
    engine.add(model);
    const auto sink = std::make_shared<Collector>();
    const Result before = sink->wait(engine.submit(model, tokens(12), sink));
    CHECK(before.finish == Finish::length);
    const uint64_t running = engine.submit(model, tokens(120), sink);
    while (sink->tokens_of(running) < 3) std::this_thread::yield();
    broken = true;
    const Result failed = sink->wait(running);
    CHECK(failed.finish == Finish::error);
    CHECK_EQ(failed.error_code, "READ_FAILED");
    CHECK(failed.error_message.find("Input/output error") != std::string::npos);
    CHECK(!failed.error_remedy.empty());
    broken = false;
    const Result after = sink->wait(engine.submit(model, tokens(12), sink));
    check_same(before, after);
    close_and_wait(engine, model);
  }
}

TEST(requests_are_cancelled_and_models_closed_while_the_file_is_read) {
  testing::TempFolder folder;
  Engine engine;
  const auto host = tiny_model(kSeed, 0, false, {folder / "tiny.packed", in_file(true)});
  units_of(*host).replace_read([](int fd, void* to, size_t bytes, off_t at) {
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    return ::pread(fd, to, bytes, at);
  });
  for (const Home home : {Home::resident, Home::streamed}) {
    Placement placement;
    placement.layers = home;
    const auto model = make_model(host, placement);
    engine.add(model);
    const auto sink = std::make_shared<Collector>();
    const uint64_t first = engine.submit(model, tokens(120), sink);
    const uint64_t second = engine.submit(model, tokens(120), sink);
    while (sink->tokens_of(first) < 2) std::this_thread::yield();
    engine.cancel(model, first);
    CHECK(sink->wait(first).finish == Finish::abort);
    close_and_wait(engine, model, false);
    CHECK(sink->wait(second).finish != Finish::none);
  }
}

TEST(the_file_is_written_once_and_a_damaged_one_anew) {
  testing::TempFolder folder;
  const std::string path = folder / "tiny.packed";
  const auto load = [&] { return tiny_model(kSeed, 0, false, {path, in_file(true)}); };
  load();
  const auto inode = [&] {
    struct stat info;
    CHECK_EQ(::stat(path.c_str(), &info), 0);
    return info.st_ino;
  };
  const auto first = inode();
  load();
  CHECK_EQ(inode(), first);
  const auto bytes = std::filesystem::file_size(path);
  std::filesystem::resize_file(path, bytes - 4096);
  const auto host = load();
  CHECK_EQ(std::filesystem::file_size(path), bytes);
  Engine engine;
  const auto model = make_model(host, {});
  CHECK(answers(engine, model, {tokens(4)}).front().finish == Finish::length);
  close_and_wait(engine, model);
}

TEST(a_head_or_a_place_on_the_cpu_is_refused_in_the_file) {
  testing::TempFolder folder;
  std::vector<bool> head(in_file(false).size(), false);
  head.back() = true;
  const auto refused = [&](const std::vector<bool>& units, const Placement& placement) {
    try {
      make_model(tiny_model(kSeed, 0, false, {folder / "tiny.packed", units}), placement);
    } catch (const Error& error) {
      return std::string(error.code());
    }
    return std::string();
  };
  CHECK_EQ(refused(head, {}), "INVALID_ARGUMENT");
  Placement beside;
  beside.cpu_feed_forwards = true;
  CHECK_EQ(refused(in_file(true), beside), "INVALID_ARGUMENT");
}
