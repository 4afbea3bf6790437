// The CPU's answers to experts that a device has left out: a thread polls for tasks, a pool computes them.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>

#include "backend/cpu/expert_computer.h"
#include "backend/cpu_answers.h"
#include "backend/expert_mail.h"
#include "core/error.h"
#include "core/relax.h"

namespace millrace {

std::vector<uint16_t> split_of_misses(int experts, size_t bytes, const AnswerRates& rates) {
  std::vector<uint16_t> split(static_cast<size_t>(experts) + 1);
  const auto own = static_cast<double>(bytes);
  for (int missed = 0; missed <= experts; missed++) {
    double best = missed * own / rates.link;
    for (int answered = 1; answered <= missed; answered++) {
      const double seconds = std::max((missed - answered) * own / rates.link, rates.hop + answered * own / rates.cpu);
      if (seconds >= best) continue;
      best = seconds;
      split[static_cast<size_t>(missed)] = static_cast<uint16_t>(answered);
    }
  }
  return split;
}

bool cpu_answers(const ExpertsLayout& experts) {
  return has_expert_arithmetic(experts.gate_up, experts.down);
}

namespace {

class CpuAnswers final : public ExpertAnswers {
 public:
  CpuAnswers(std::shared_ptr<const ExpertMail> mail, std::vector<AnsweredUnit> units, int threads, AnswerHooks hooks)
      : mail_(std::move(mail)), units_(std::move(units)), hooks_(hooks), computer_(threads) {
    last_ = mail_->state->sent.load(std::memory_order_relaxed);
    thread_ = std::thread([this] { run(); });
  }
  ~CpuAnswers() override {
    stop_.store(true, std::memory_order_relaxed);
    begin_pass();
    thread_.join();
  }

  void begin_pass() override {
    passes_.fetch_add(1, std::memory_order_release);
    passes_.notify_one();
  }
  void end_pass() override { passes_.fetch_sub(1, std::memory_order_relaxed); }
  void check() override {
    if (!failed_.load(std::memory_order_acquire)) return;  // a task may be under way, of the pass behind
    std::lock_guard lock(mutex_);
    if (failure_) std::rethrow_exception(failure_);
  }
  void give_up() override { mail_->state->given_up.store(1, std::memory_order_release); }
  void restart() override {
    std::lock_guard lock(mutex_);  // no task is being computed
    failure_ = nullptr;
    failed_.store(false, std::memory_order_relaxed);
    last_ = mail_->state->sent.load(std::memory_order_acquire);
    passes_.store(0, std::memory_order_relaxed);
    mail_->state->answered.store(last_, std::memory_order_relaxed);
    mail_->state->given_up.store(0, std::memory_order_release);
  }
  uint64_t answered_experts() const override { return experts_.load(std::memory_order_relaxed); }
  uint64_t answered_bytes() const override { return bytes_.load(std::memory_order_relaxed); }

 private:
  void run() {
    while (!stop_.load(std::memory_order_relaxed)) {
      passes_.wait(0, std::memory_order_acquire);
      while (passes_.load(std::memory_order_relaxed) > 0 && !stop_.load(std::memory_order_relaxed)) {
        bool came = false;
        for (int i = 0; i < 1000 && !came; i++) {
          came = mail_->state->sent.load(std::memory_order_acquire) != seen_;
          if (!came) cpu_relax();
        }
        if (came) answer();
      }
    }
  }

  void answer() {
    std::lock_guard lock(mutex_);
    ExpertMailState& state = *mail_->state;
    seen_ = state.sent.load(std::memory_order_acquire);
    if (seen_ == last_ || failure_ || state.given_up.load(std::memory_order_acquire) != 0) return;
    last_ = seen_;
    try {
      compute();
      state.answered.store(last_, std::memory_order_release);
    } catch (...) {
      failure_ = std::current_exception();
      failed_.store(true, std::memory_order_release);
      state.given_up.store(1, std::memory_order_release);
    }
  }

  void compute() {
    const ExpertMailTask& task = *mail_->task;
    if (tasks_++ == hooks_.fail_at) {
      throw Error(code::kInternal, "an answer of the CPU has failed", "a test asked for it");
    }
    if (hooks_.delay_us > 0) std::this_thread::sleep_for(std::chrono::microseconds(hooks_.delay_us));
    for (const AnsweredUnit& unit : units_) {
      if (unit.unit != task.unit) continue;
      computer_.compute({unit.op, &unit.layout, unit.first}, {mail_->entries, static_cast<size_t>(task.experts)},
                        mail_->places, task.top_k, mail_->x, mail_->width, mail_->y, mail_->width);
      experts_.fetch_add(static_cast<uint64_t>(task.experts), std::memory_order_relaxed);
      bytes_.fetch_add(static_cast<uint64_t>(task.experts) * unit.layout.stride, std::memory_order_relaxed);
      return;
    }
    throw Error(code::kInternal, "experts of an unknown unit were sent to the CPU", "report this as a bug");
  }

  const std::shared_ptr<const ExpertMail> mail_;
  const std::vector<AnsweredUnit> units_;
  const AnswerHooks hooks_;
  ExpertComputer computer_;
  std::mutex mutex_;  // held while a task is computed
  std::atomic<bool> stop_{false}, failed_{false};
  std::atomic<int> passes_{0};  // under way
  uint64_t last_ = 0;           // ticket that was taken last
  uint64_t seen_ = 0;           // the thread's own: ticket that it has looked at
  int64_t tasks_ = 0;
  std::exception_ptr failure_;
  std::atomic<uint64_t> experts_{0}, bytes_{0};
  std::thread thread_;
};

}  // namespace

std::unique_ptr<ExpertAnswers> create_expert_answers(std::shared_ptr<const ExpertMail> mail,
                                                     std::vector<AnsweredUnit> units, int threads,
                                                     const AnswerHooks& hooks) {
  return std::make_unique<CpuAnswers>(std::move(mail), std::move(units), threads, hooks);
}

}  // namespace millrace
