#pragma once
// The states of objects and arrays that are no automaton's: what may come next between the parts of JSON.
#include <cstdint>

namespace millrace::constraint {

enum ObjectState : uint32_t {
  kObjectBegin,       // {
  kObjectOpen,        // a name, or }
  kObjectOpenSpace,   // the same, a space behind
  kObjectAfter,       // a comma, or }
  kObjectCloseSpace,  // }
  kObjectComma,       // a name
  kObjectCommaSpace,
  kObjectStates,
};

// Of each member.
enum MemberState : uint32_t {
  kMemberColon,  // :
  kMemberValue,  // the value
  kMemberValueSpace,
  kMemberStates,
};

enum ArrayState : uint32_t {
  kArrayBegin,  // [
  kArrayOpen,   // an item, or ]
  kArrayOpenSpace,
  kArrayAfter,  // a comma, or ]
  kArrayCloseSpace,
  kArrayComma,  // an item
  kArrayCommaSpace,
  kArrayStates,
};

}  // namespace millrace::constraint
