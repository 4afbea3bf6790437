#pragma once
// Vocabularies and constraints as JavaScript holds them.
#include <napi.h>

#include <memory>

#include "constraint/matcher.h"

namespace millrace {

void register_constraint(Napi::Env env, Napi::Object exports);
// Of a constraint's handle; null of undefined. Throws INVALID_ARGUMENT.
std::shared_ptr<constraint::Constraint> constraint_of(const Napi::Value& value);

}  // namespace millrace
