#include "core/reclaimer.h"

#include <atomic>
#include <stdexcept>
#include <vector>

#include "check.h"

using namespace millrace;

TEST(work_runs_in_order_on_a_thread_of_its_own) {
  std::vector<int> order;
  std::atomic<bool> elsewhere{true};
  {
    Reclaimer reclaimer;
    reclaimer.wait();
    CHECK(reclaimer.idle());
    for (int i = 0; i < 100; i++) {
      reclaimer.post([&, i, caller = std::this_thread::get_id()] {
        if (std::this_thread::get_id() == caller) elsewhere = false;
        order.push_back(i);
      });
    }
    reclaimer.post([] { throw std::runtime_error("nobody's"); });
    reclaimer.post([&] { reclaimer.wait(); });  // of itself: waits for nothing
    reclaimer.wait();
    CHECK(reclaimer.idle());
    CHECK_EQ(order.size(), 100u);
    reclaimer.post([&] { order.push_back(100); });
  }
  CHECK_EQ(order.size(), 101u);  // its end runs what was posted
  for (int i = 0; i < 101; i++) CHECK_EQ(order[i], i);
  CHECK(elsewhere.load());
}

TEST(objects_are_destroyed_there_and_nowhere_else) {
  struct Tell {
    std::thread::id* where;
    ~Tell() { *where = std::this_thread::get_id(); }
  };
  std::thread::id reclaiming, destroyed;
  Reclaimer reclaimer;
  reclaimer.post([&] { reclaiming = std::this_thread::get_id(); });
  for (int i = 0; i < 200; i++) {
    destroyed = {};
    reclaimer.destroy(std::make_unique<Tell>(&destroyed));
    reclaimer.wait();
    CHECK(destroyed == reclaiming);
  }
}
