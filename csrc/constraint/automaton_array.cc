// Arrays: what each place takes, how many there may be, and what must be among them.
#include <algorithm>
#include <bit>

#include "constraint/automaton.h"
#include "constraint/special.h"

namespace millrace::constraint {

void Automaton::call_items(const Rule& rule, const ArrayRule& array, const Way& way) {
  const uint32_t count = way.seen & 0xffffff;
  const uint32_t bits = way.seen >> 24;
  if (count >= array.maximum) return;
  const uint32_t bound =
      array.maximum != kUnlimited ? array.maximum : std::max(array.minimum, static_cast<uint32_t>(array.places.size()));
  const uint32_t next = std::min(count + 1, bound);
  for (const ArrayRule::Item& item : array.at(count)) {
    const uint32_t now = bits | item.sets;
    const uint32_t left = array.bits & ~now;
    // What is missing must find its place.
    if (array.maximum != kUnlimited && static_cast<uint32_t>(std::popcount(left)) > array.maximum - count - 1) continue;
    bool reachable = true;
    for (uint32_t bit = 0; bit < 8; bit++) {
      if ((left >> bit & 1) != 0 && array.last[bit] <= count + 1 && array.last[bit] != kUnlimited) reachable = false;
    }
    if (reachable) call(item.rule, {rule.special + kArrayAfter, next | now << 24, way.back});
  }
}

void Automaton::step_array(const Rule& rule, uint32_t state, const Way& way, uint8_t byte, Range& range) {
  const ArrayRule& array = program_->arrays[rule.start];
  const uint32_t count = way.seen & 0xffffff;
  const uint32_t bits = way.seen >> 24;
  const auto go = [&](uint32_t to) { seeds_.push_back({rule.special + to, way.seen, way.back}); };
  const bool may_close = count >= array.minimum && (array.bits & ~bits) == 0;
  const auto close = [&] {
    if (!is(byte, ']', range) || !may_close) return;
    for (const Way& back : backs_[way.back]) seeds_.push_back(back);
  };
  const bool more = count < array.maximum && !array.at(count).empty();
  const bool flexible = program_->flexible;
  switch (state) {
    case kArrayBegin:
      if (is(byte, '[', range)) go(kArrayOpen);
      return;
    case kArrayOpen:
      if (space(byte, range)) go(flexible ? kArrayOpen : kArrayOpenSpace);
      close();
      return;
    case kArrayOpenSpace:
      close();
      return;
    case kArrayAfter:
      if (is(byte, ',', range) && more) go(kArrayComma);
      if (space(byte, range)) {
        if (flexible) go(kArrayAfter);
        if (!flexible && may_close) go(kArrayCloseSpace);
      }
      close();
      return;
    case kArrayCloseSpace:
      close();
      return;
    case kArrayComma:
      if (space(byte, range)) go(flexible ? kArrayComma : kArrayCommaSpace);
      return;
    default:
      return;
  }
}

}  // namespace millrace::constraint
