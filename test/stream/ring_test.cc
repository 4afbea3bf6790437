#include "stream/ring.h"

#include <deque>
#include <vector>

#include "check.h"

using millrace::Ring;

// Bytes that a live slot holds are never given out again before it is released, whatever the sizes.
TEST(live_slots_never_overlap) {
  auto random = check::random();
  for (int round = 0; round < 200; round++) {
    const size_t bytes = 64 + random() % 1000;
    Ring ring(bytes);
    std::vector<int> owner(bytes, -1);
    std::deque<Ring::Slot> live;
    size_t reserved = 0;
    for (int i = 0; i < 400; i++) {
      if (random() % 2 == 0 || live.empty()) {
        const auto slot = ring.reserve(1 + random() % (bytes / 2));
        if (!slot) {
          CHECK(!live.empty());  // an empty ring takes anything that fits at all
          continue;
        }
        CHECK(slot->offset + slot->bytes <= bytes);
        for (size_t b = slot->offset; b < slot->offset + slot->bytes; b++) {
          CHECK_EQ(owner[b], -1);
          owner[b] = static_cast<int>(slot->sequence);
        }
        live.push_back(*slot);
        reserved += slot->bytes;
      } else {
        const Ring::Slot slot = ring.release();
        CHECK_EQ(slot.sequence, live.front().sequence);
        for (size_t b = slot.offset; b < slot.offset + slot.bytes; b++) owner[b] = -1;
        reserved -= slot.bytes;
        live.pop_front();
      }
      CHECK_EQ(ring.reserved_bytes(), reserved);
    }
  }
}

// `after` covers every earlier user of the bytes: one with a higher sequence than the last wait must be named.
TEST(after_names_the_newest_earlier_user) {
  auto random = check::random(1);
  for (int round = 0; round < 200; round++) {
    const size_t bytes = 64 + random() % 500;
    Ring ring(bytes);
    std::vector<int64_t> last_user(bytes, -1);
    int64_t waited = -1;
    int live = 0;
    for (int i = 0; i < 300; i++) {
      if (random() % 2 == 0 || live == 0) {
        const auto slot = ring.reserve(1 + random() % (bytes / 2));
        if (!slot) continue;
        live++;
        int64_t newest = -1;
        for (size_t b = slot->offset; b < slot->offset + slot->bytes; b++) {
          newest = std::max(newest, last_user[b]);
          last_user[b] = static_cast<int64_t>(slot->sequence);
        }
        if (newest > waited) {
          CHECK(slot->after.has_value());
          if (slot->after) CHECK_EQ(static_cast<int64_t>(*slot->after), newest);
          waited = newest;
        } else {
          CHECK(!slot->after.has_value());
        }
      } else {
        ring.release();
        live--;
      }
    }
  }
}

TEST(what_cannot_fit_is_refused) {
  Ring ring(100);
  CHECK(!ring.reserve(101).has_value());
  CHECK(ring.reserve(100).has_value());
  CHECK(!ring.reserve(1).has_value());
}
