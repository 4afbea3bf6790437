// Loads of one checkpoint from several environments: one copy, turns that can be given up, nothing left behind.
#include "stream/host_store.h"

#include <future>
#include <utility>

#include "check.h"
#include "checkpoint/tiny_model.h"
#include "core/error.h"

using namespace millrace;
using namespace millrace::testing;

namespace {

using Loaded = std::shared_ptr<const HostModel>;

struct Files {
  TempFolder folder;
  std::vector<std::string> paths;
  DenseSource source;

  Files() {
    TinyModel model(check::seed());
    model.build(tiny_spec(64, 4, 2, 16, 96, 96), gptq(32));
    paths = {folder / "model.safetensors"};
    model.writer.write(paths[0]);
    source = model.source;
  }
};

// A load on a thread of its own that stops at its first report until it is let go.
class HeldLoad {
 public:
  HeldLoad(const Files& files, const std::string& identity) {
    options_.cancelled = &cancelled_;
    options_.progress = [this, told = false, gate = released_.get_future().share()](size_t, size_t) mutable {
      if (!std::exchange(told, true)) began_.set_value();
      gate.wait();
    };
    result_ = std::async(std::launch::async, [this, &files, identity] {
      return HostStore::instance().load(identity, files.paths, files.source, 1, options_);
    });
    if (began_.get_future().wait_for(std::chrono::seconds(60)) != std::future_status::ready) result_.get();
  }
  void cancel() { cancelled_ = true; }
  void release() { released_.set_value(); }
  Loaded result() { return result_.get(); }

 private:
  std::atomic<bool> cancelled_{false};
  RepackOptions options_;
  std::promise<void> began_, released_;
  std::future<Loaded> result_;
};

struct WaitingLoad {
  std::atomic<bool> cancelled{false};
  std::future<Loaded> result;

  WaitingLoad(const Files& files, const std::string& identity) {
    result = std::async(std::launch::async, [this, &files, identity] {
      RepackOptions options;
      options.cancelled = &cancelled;
      return HostStore::instance().load(identity, files.paths, files.source, 1, options);
    });
  }
};

}  // namespace

TEST(a_load_that_waits_for_another_hears_its_cancel) {
  const Files files;
  CHECK(!HostStore::instance().holds("cancelled while waiting"));
  HeldLoad first(files, "cancelled while waiting");
  CHECK(HostStore::instance().holds("cancelled while waiting"));
  WaitingLoad patient(files, "cancelled while waiting"), impatient(files, "cancelled while waiting");
  CHECK(impatient.result.wait_for(std::chrono::milliseconds(100)) == std::future_status::timeout);
  impatient.cancelled = true;
  CHECK_THROWS_CODE(impatient.result.get(), code::kAborted);  // the first still holds its turn
  CHECK(patient.result.wait_for(std::chrono::milliseconds(0)) == std::future_status::timeout);
  first.release();
  const Loaded model = first.result();
  CHECK(patient.result.get() == model);
  CHECK(HostStore::instance().holds("cancelled while waiting"));
}

TEST(who_waits_loads_itself_when_the_first_gives_up) {
  const Files files;
  const size_t before = HostModel::all_bytes();
  {
    HeldLoad first(files, "the first gives up");
    WaitingLoad second(files, "the first gives up");
    first.cancel();
    first.release();
    CHECK_THROWS_CODE(first.result(), code::kAborted);
    const Loaded model = second.result.get();
    CHECK(model != nullptr);
    CHECK_EQ(HostModel::all_bytes(), before + model->bytes());
  }
  CHECK_EQ(HostModel::all_bytes(), before);
}

TEST(a_checkpoint_is_loaded_once_and_freed_with_its_last_user) {
  const Files files;
  const size_t before = HostModel::all_bytes();
  WaitingLoad a(files, "once"), b(files, "once"), other(files, "another");
  Loaded first = a.result.get(), second = b.result.get();
  const Loaded third = other.result.get();
  CHECK(first == second);
  CHECK(first != third);
  CHECK_EQ(HostModel::all_bytes(), before + first->bytes() + third->bytes());
  first.reset();
  CHECK_EQ(HostModel::all_bytes(), before + second->bytes() + third->bytes());
  second.reset();
  CHECK(!HostStore::instance().holds("once"));
  CHECK(HostStore::instance().holds("another"));
  CHECK_EQ(HostModel::all_bytes(), before + third->bytes());
}
