// What the host believes of a device's table of addresses, whatever of its launches fails.
#include "backend/unit_table.h"

#include "check.h"
#include "core/error.h"

using namespace millrace;

namespace {

const std::byte* address(int i) {
  return reinterpret_cast<const std::byte*>(static_cast<uintptr_t>(4096) * (i + 1));
}

struct Device {
  std::vector<const std::byte*> entries;
  int launches = 0;
  bool fails = false;

  void set(UnitTable& table, int unit, const std::byte* slab, bool permanent) {
    table.set(unit, slab, permanent, [&] {
      if (fails) throw Error(code::kInternal, "a launch that failed", "none");
      launches++;
      entries[unit] = slab;
    });
  }
};

}  // namespace

TEST(an_address_is_published_once_and_read_early_from_the_second_time_on) {
  UnitTable table(2);
  Device device{{nullptr, nullptr}};
  CHECK(table.changes(0, address(0), true));
  device.set(table, 0, address(0), true);
  CHECK(!table.early(0));
  CHECK(table.changes(0, address(0), true));
  device.set(table, 0, address(0), true);
  CHECK(table.early(0));
  CHECK(!table.changes(0, address(0), true));
  CHECK_EQ(device.launches, 1);
  CHECK(table.all_early());  // the other one is on another device
  device.set(table, 1, address(1), true);
  CHECK(!table.all_early());
  device.set(table, 1, address(1), true);
  CHECK(table.all_early());
  device.set(table, 1, address(1), false);  // a slot that happens to be the same one again
  CHECK(!table.early(1));
  CHECK_EQ(device.launches, 2);
}

TEST(an_address_whose_launch_failed_is_published_again) {
  UnitTable table(1);
  Device device{{nullptr}};
  // The next pass asks for the same address again, for the one before, or for another one.
  for (const int next : {1, 0, 2}) {
    device.set(table, 0, address(0), true);
    device.set(table, 0, address(0), true);
    CHECK(table.early(0));
    device.fails = true;
    CHECK_THROWS_CODE(device.set(table, 0, address(1), true), code::kInternal);
    device.fails = false;
    CHECK(!table.early(0));
    CHECK(table.changes(0, address(next), false));
    device.set(table, 0, address(next), true);
    CHECK(device.entries[0] == address(next));
    CHECK(!table.early(0));
  }
}

// At random, with failures: kernels find what they were told, and nothing is read ahead that is not there.
TEST(the_host_never_believes_what_the_device_was_not_told) {
  auto random = check::random();
  UnitTable table(4);
  Device device{std::vector<const std::byte*>(4, nullptr)};
  for (int step = 0; step < 5000; step++) {
    const int unit = static_cast<int>(random() % 4);
    const std::byte* slab = address(static_cast<int>(random() % 3));
    const std::byte* before = device.entries[unit];
    device.fails = random() % 3 == 0;
    try {
      device.set(table, unit, slab, random() % 2 == 0);
      CHECK(device.entries[unit] == slab);
      if (table.early(unit)) CHECK(before == slab);
    } catch (const Error&) {
      CHECK(!table.early(unit));
    }
  }
}
