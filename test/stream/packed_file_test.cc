// The file that keeps a model's slabs: the same bytes come back, and whatever is wrong with it is noticed.
#include "stream/packed_file.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>
#include <utility>

#include "check.h"
#include "checkpoint/tiny_model.h"
#include "core/error.h"

using namespace millrace;
using namespace millrace::testing;

namespace {

using Loaded = std::shared_ptr<const HostModel>;

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

bool exists(const std::string& path) {
  return std::filesystem::exists(path);
}

// All that a model's memory holds.
std::string bytes_of(const HostModel& model) {
  std::string out(reinterpret_cast<const char*>(model.embedding()), model.embedding_bytes());
  for (size_t unit = 0; unit < model.units().size(); unit++) {
    out.append(reinterpret_cast<const char*>(model.slab(static_cast<int>(unit))), model.units()[unit].bytes);
  }
  return out;
}

// A checkpoint whose embedding and head take two pieces each, and its packed file.
struct Files {
  TempFolder folder;
  std::vector<std::string> paths;
  DenseSource source;
  std::string packed = folder / "model.packed";
  std::string expected;  // what is repacked from the checkpoint
  size_t packed_bytes = 0;

  Files() {
    TinyModel model(check::seed());
    model.build(tiny_spec(64, 4, 2, 16, 96, 40000), gptq(32), {}, "F16", true);
    paths = {folder / "model.safetensors"};
    model.writer.write(paths[0]);
    source = model.source;
    const Loaded repacked = load(PackedState::absent);
    expected = bytes_of(*repacked);
    packed_bytes = packed_file_bytes(repacked->units(), repacked->embedding_bytes());
  }

  Loaded load(PackedState state, int threads = 2, const std::string& identity = "as it was") {
    PackedOutcome outcome;
    Loaded model = load(outcome, threads, {}, identity);
    CHECK_EQ(std::string(name_of(outcome.state)), name_of(state));
    CHECK_EQ(outcome.reason.empty(), state == PackedState::read || state == PackedState::absent);
    return model;
  }

  Loaded load(PackedOutcome& outcome, int threads, const RepackOptions& options,
              const std::string& identity = "as it was") {
    return HostStore::instance().load(identity, paths, source, threads, options, {}, packed, &outcome);
  }

  // On a thread of its own, as it takes away the thread's priority.
  std::string write(const std::string& path, const std::atomic<bool>* cancelled = nullptr) {
    PackedOutcome outcome;
    const Loaded model = load(outcome, 2, {});
    std::string why;
    std::thread([&] { why = write_packed(path, *model, cancelled); }).join();
    return why;
  }

  // Changes the packed file, loads, and expects what was repacked.
  void check_noticed(const std::string& bytes, PackedState state) {
    write_file(packed, bytes);
    CHECK(bytes_of(*load(state)) == expected);
    CHECK_EQ(exists(packed), state != PackedState::damaged);
  }
};

// write_packed in a process of its own; the limit on the size of files is in bytes.
int write_in_child(const std::string& path, const HostModel& model, rlim_t limit = RLIM_INFINITY) {
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit size{limit, limit};
    ::setrlimit(RLIMIT_FSIZE, &size);
    ::_exit(write_packed(path, model).empty() ? 0 : 1);
  }
  return child;
}

int status_of(int child) {
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

TEST(the_same_bytes_come_back) {
  Files files;
  CHECK_EQ(files.write(files.packed), "");
  CHECK_EQ(std::filesystem::file_size(files.packed), files.packed_bytes);
  CHECK(!exists(files.packed + ".part"));
  for (const int threads : {1, 3}) CHECK(bytes_of(*files.load(PackedState::read, threads)) == files.expected);
}

TEST(reading_tells_progress_and_leaves_a_mark_of_use) {
  Files files;
  CHECK_EQ(files.write(files.packed), "");
  const timespec long_ago[2] = {{1000, 0}, {1000, 0}};
  ::utimensat(AT_FDCWD, files.packed.c_str(), long_ago, 0);
  std::vector<std::pair<size_t, size_t>> seen;
  RepackOptions options;
  options.progress = [&](size_t done, size_t total) { seen.emplace_back(done, total); };
  PackedOutcome outcome;
  files.load(outcome, 2, options);
  CHECK(outcome.state == PackedState::read);
  REQUIRE(!seen.empty());
  CHECK_EQ(seen.back().first, files.expected.size());
  for (const auto& [done, total] : seen) CHECK(done <= total && total == files.expected.size());
  struct stat info;
  CHECK(::stat(files.packed.c_str(), &info) == 0 && info.st_mtime > 1000);
}

TEST(a_model_that_is_in_memory_is_not_read_again) {
  Files files;
  const Loaded first = files.load(PackedState::absent);
  PackedOutcome outcome;
  CHECK(files.load(outcome, 1, {}) == first);
  CHECK(outcome.state == PackedState::unused);
}

TEST(other_files_make_it_stale) {
  Files files;
  CHECK_EQ(files.write(files.packed), "");
  // Another size, time or reading of the files is another identity.
  CHECK(bytes_of(*files.load(PackedState::stale, 2, "another")) == files.expected);
  // Other content under the same identity, at the data's end.
  std::string bytes = read_file(files.paths[0]);
  bytes[bytes.size() - 5] ^= 1;
  write_file(files.paths[0], bytes);
  files.load(PackedState::stale);
  CHECK(exists(files.packed));
}

TEST(other_versions_make_it_stale) {
  Files files;
  CHECK_EQ(files.write(files.packed), "");
  const std::string whole = read_file(files.packed);
  for (const size_t version : {8, 12}) {  // of the file, of the slabs' layout
    std::string bytes = whole;
    bytes[version]++;
    files.check_noticed(bytes, PackedState::stale);
  }
}

TEST(a_torn_file_is_noticed_wherever_it_ends) {
  Files files;
  CHECK_EQ(files.write(files.packed), "");
  const std::string whole = read_file(files.packed);
  auto random = check::random();
  std::vector<size_t> ends = {0, 1, 7, 63, 64, 4095, 4096, whole.size() - 4096, whole.size() - 1};
  for (int i = 0; i < 12; i++) ends.push_back(random() % whole.size());
  for (const size_t end : ends) files.check_noticed(whole.substr(0, end), PackedState::damaged);
  files.check_noticed(whole + "more", PackedState::damaged);
  // Sizes are right, but what was not written yet is zero.
  files.check_noticed(whole.substr(0, whole.size() / 2) + std::string(whole.size() - whole.size() / 2, '\0'),
                      PackedState::damaged);
}

TEST(a_flipped_bit_is_noticed_wherever_it_is) {
  Files files;
  CHECK_EQ(files.write(files.packed), "");
  const std::string whole = read_file(files.packed);
  auto random = check::random();
  std::vector<size_t> places;
  for (size_t place = 0; place < 300; place += 19) places.push_back(place);  // the header
  for (int i = 0; i < 24; i++) places.push_back(random() % whole.size());
  for (const size_t place : places) {
    std::string bytes = whole;
    bytes[place] ^= static_cast<char>(1 << random() % 8);
    write_file(files.packed, bytes);
    PackedOutcome outcome;
    CHECK(bytes_of(*files.load(outcome, 2, {})) == files.expected);
    // Between two parts are bytes that nobody reads.
    if (outcome.state == PackedState::read) CHECK(place >= 4096 && bytes[place - 1] == 0);
  }
}

TEST(a_cancel_ends_reading) {
  Files files;
  CHECK_EQ(files.write(files.packed), "");
  const size_t before = HostModel::all_bytes();
  std::atomic<bool> cancelled{false};
  RepackOptions options;
  options.cancelled = &cancelled;
  options.progress = [&](size_t, size_t) { cancelled = true; };
  PackedOutcome outcome;
  CHECK_THROWS_CODE(files.load(outcome, 1, options), code::kAborted);
  CHECK_EQ(HostModel::all_bytes(), before);
  CHECK(exists(files.packed));
  files.load(PackedState::read);
}

TEST(what_cannot_be_written_is_told_and_leaves_nothing) {
  Files files;
  CHECK(files.write(files.folder / "missing/model.packed") != "");
  CHECK(files.write("/proc/model.packed") != "");
  // A full disk: the limit on a file's size stops the same calls.
  const Loaded model = files.load(PackedState::absent);
  CHECK_EQ(status_of(write_in_child(files.packed, *model, rlim_t{6} << 20)), 1);
  CHECK(!exists(files.packed) && !exists(files.packed + ".part"));
  std::atomic<bool> cancelled{true};
  CHECK(files.write(files.packed, &cancelled) != "");
  CHECK(!exists(files.packed) && !exists(files.packed + ".part"));
  // A model that was loaded without it does not know what it was made from.
  const Loaded bare = HostStore::instance().load("without", files.paths, files.source, 1, {});
  CHECK(write_packed(files.packed, *bare) != "");
}

// In a folder that others write to, too: a file that is not this user's alone is not believed, and a link leads
// nowhere.
TEST(what_others_may_have_written_is_neither_read_nor_followed) {
  Files files;
  CHECK_EQ(files.write(files.packed), std::string());
  ::chmod(files.packed.c_str(), 0666);
  files.load(PackedState::stale);
  ::chmod(files.packed.c_str(), 0600);
  files.load(PackedState::read);
  const std::string precious = files.folder / "precious";
  std::ofstream(precious) << "of somebody else";
  ::symlink(precious.c_str(), (files.packed + ".part").c_str());
  CHECK(!files.write(files.packed).empty());
  CHECK_EQ(read_file(precious), std::string("of somebody else"));
  const std::string elsewhere = files.folder / "elsewhere.packed";
  std::filesystem::rename(files.packed, elsewhere);
  ::symlink(elsewhere.c_str(), files.packed.c_str());
  files.load(PackedState::stale);
}

TEST(what_an_ended_process_left_is_overwritten) {
  Files files;
  write_file(files.packed + ".part", std::string(files.packed_bytes + 5000, 'x'));
  CHECK_EQ(files.write(files.packed), "");
  CHECK(!exists(files.packed + ".part"));
  CHECK(bytes_of(*files.load(PackedState::read)) == files.expected);
}

TEST(processes_that_write_it_at_once_leave_one_sound_file) {
  Files files;
  Loaded model = files.load(PackedState::absent);
  for (int round = 0; round < 3; round++) {
    std::vector<int> children;
    for (int i = 0; i < 3; i++) children.push_back(write_in_child(files.packed, *model));
    int wrote = 0;
    for (const int child : children) {
      const int status = status_of(child);
      CHECK(status == 0 || status == 1);
      wrote += status == 0;
    }
    CHECK(wrote >= 1);
    CHECK(!exists(files.packed + ".part"));
    model.reset();
    model = files.load(PackedState::read);
    CHECK(bytes_of(*model) == files.expected);
  }
}

TEST(a_changed_word_always_changes_the_hash) {
  auto random = check::random();
  for (int round = 0; round < 2000; round++) {
    std::vector<uint64_t> words(1 + random() % 40);
    for (uint64_t& word : words) word = random();
    const size_t bytes = words.size() * 8 - random() % 8;
    const uint64_t before = hash_bytes(words.data(), bytes);
    PieceHash parts;
    const size_t cut = bytes / 64 / 2 * 64;
    parts.add(words.data(), cut);
    parts.add(reinterpret_cast<const char*>(words.data()) + cut, bytes - cut);
    CHECK_EQ(parts.value(), before);
    reinterpret_cast<char*>(words.data())[random() % bytes] ^= static_cast<char>(1 + random() % 255);
    CHECK(hash_bytes(words.data(), bytes) != before);
    CHECK(hash_bytes(words.data(), bytes) != hash_bytes(words.data(), bytes - 1));
  }
}
