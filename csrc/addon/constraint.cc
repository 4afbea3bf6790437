#include "addon/constraint.h"

#include <cstring>
#include <ctime>
#include <vector>

#include "addon/environment.h"

namespace millrace {

namespace {

using constraint::Constraint;
using constraint::Matcher;
using constraint::Program;
using constraint::Vocabulary;

Error misuse(const char* expected) {
  return Error(code::kInvalidArgument, format("native call: expected %s", expected),
               "call through the package's own API");
}

// What a typed array holds, copied: JavaScript may change it while another thread reads.
std::vector<uint32_t> words_of(const Napi::Value& value) {
  if (!value.IsTypedArray()) throw misuse("a typed array");
  const auto array = value.As<Napi::Uint8Array>();
  std::vector<uint32_t> words((array.ByteLength() + 3) / 4, 0);
  if (array.ByteLength() > 0) std::memcpy(words.data(), array.Data(), array.ByteLength());
  return words;
}

// Of this thread alone: what others do meanwhile is none of it.
double thread_us() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) * 1e-3;
}

class VocabularyHandle : public Napi::ObjectWrap<VocabularyHandle> {
 public:
  static Napi::Function define(Napi::Env env) { return DefineClass(env, "NativeVocabulary", {}); }
  explicit VocabularyHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<VocabularyHandle>(info) {
    if (info.Length() != 1 || !info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "use createVocabulary()");
    vocabulary_ = *info[0].As<Napi::External<std::shared_ptr<const Vocabulary>>>().Data();
  }
  const std::shared_ptr<const Vocabulary>& get() const { return vocabulary_; }

 private:
  std::shared_ptr<const Vocabulary> vocabulary_;
};

class ConstraintHandle : public Napi::ObjectWrap<ConstraintHandle> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "NativeConstraint",
        {InstanceMethod<&ConstraintHandle::accepts>("accepts"), InstanceMethod<&ConstraintHandle::trace>("trace"),
         InstanceAccessor<&ConstraintHandle::bytes>("bytes")});
  }
  explicit ConstraintHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ConstraintHandle>(info) {
    if (info.Length() != 1 || !info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "use createConstraint()");
    constraint_ = *info[0].As<Napi::External<std::shared_ptr<Constraint>>>().Data();
  }
  const std::shared_ptr<Constraint>& get() const { return constraint_; }

 private:
  // accepts(utf8) -> whether it is a whole text of the constraint
  Napi::Value accepts(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      if (!info[0].IsTypedArray()) throw misuse("bytes");
      const auto text = info[0].As<Napi::Uint8Array>();
      return Napi::Boolean::New(info.Env(), constraint_->accepts({text.Data(), text.ByteLength()}));
    });
  }

  // trace(tokens) -> { taken, accepts, masks: [taken + 1], us: [taken + 1] }: the masks before each token that may come
  // and behind the last of them, and the processor's time that they took.
  Napi::Value trace(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    return guarded(env, [&]() -> Napi::Value {
      if (constraint_->vocabulary() == nullptr || !info[0].IsTypedArray()) throw misuse("tokens of a vocabulary");
      const auto tokens = info[0].As<Napi::Int32Array>();
      Matcher matcher(constraint_);
      Napi::Array masks = Napi::Array::New(env);
      std::vector<double> us;
      size_t taken = 0;
      for (;; taken++) {
        const double began = thread_us();
        const std::shared_ptr<const constraint::MaskWords> mask = matcher.mask();
        us.push_back(thread_us() - began);
        Napi::Uint32Array words = Napi::Uint32Array::New(env, mask->size());
        std::memcpy(words.Data(), mask->data(), mask->size() * sizeof(uint32_t));
        masks[static_cast<uint32_t>(taken)] = words;
        if (taken == tokens.ElementLength() || !matcher.take(tokens[taken])) break;
      }
      Napi::Object out = Napi::Object::New(env);
      out["taken"] = Napi::Number::New(env, static_cast<double>(taken));
      out["accepts"] = Napi::Boolean::New(env, matcher.accepts());
      out["masks"] = masks;
      Napi::Float64Array times = Napi::Float64Array::New(env, us.size());
      std::memcpy(times.Data(), us.data(), us.size() * sizeof(double));
      out["us"] = times;
      return out;
    });
  }

  Napi::Value bytes(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(constraint_->bytes()));
  }

  std::shared_ptr<Constraint> constraint_;
};

// createVocabulary(table) -> promise of a vocabulary, put together on a thread of its own
Napi::Value create_vocabulary(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    using Made = std::shared_ptr<const Vocabulary>;
    std::function<Made()> work = [words = words_of(info[0])] { return std::make_shared<const Vocabulary>(words); };
    std::function<Napi::Value(Napi::Env, Made&)> settle = [](Napi::Env at, Made& made) -> Napi::Value {
      return Environment::of(at).vocabulary_class.New({Napi::External<Made>::New(at, &made)});
    };
    return run_async<Made>(info.Env(), std::move(work), std::move(settle));
  });
}

// createConstraint(program, vocabulary)
Napi::Value create_constraint(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Environment& environment = Environment::of(info.Env());
    if (!info[1].IsObject() || !info[1].As<Napi::Object>().InstanceOf(environment.vocabulary_class.Value())) {
      throw misuse("a vocabulary");
    }
    const std::shared_ptr<const Vocabulary>& vocabulary = VocabularyHandle::Unwrap(info[1].As<Napi::Object>())->get();
    auto made = std::make_shared<Constraint>(std::make_shared<const Program>(words_of(info[0])), vocabulary);
    return environment.constraint_class.New({Napi::External<std::shared_ptr<Constraint>>::New(info.Env(), &made)});
  });
}

}  // namespace

std::shared_ptr<Constraint> constraint_of(const Napi::Value& value) {
  if (value.IsUndefined()) return nullptr;
  Environment& environment = Environment::of(value.Env());
  if (!value.IsObject() || !value.As<Napi::Object>().InstanceOf(environment.constraint_class.Value())) {
    throw misuse("a constraint");
  }
  return ConstraintHandle::Unwrap(value.As<Napi::Object>())->get();
}

void register_constraint(Napi::Env env, Napi::Object exports) {
  Environment::of(env).vocabulary_class = Napi::Persistent(VocabularyHandle::define(env));
  Environment::of(env).constraint_class = Napi::Persistent(ConstraintHandle::define(env));
  exports["createVocabulary"] = Napi::Function::New(env, create_vocabulary, "createVocabulary");
  exports["createConstraint"] = Napi::Function::New(env, create_constraint, "createConstraint");
}

}  // namespace millrace
