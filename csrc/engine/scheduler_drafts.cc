// The scheduler's drafts: whose, how many, and what they are worth.
#include <algorithm>

#include "engine/scheduler.h"

namespace millrace {

namespace {

// Steps from one look at what the draft model is worth to the next, where it is not: four times as many each time that
// it was not again. And how many drafts are looked at: what a pass of the model costs shows from the second on, whose
// rows are no others' but the sequences' own.
constexpr uint64_t kProbing = 64, kMostProbing = 1024;
// Where no draft came, since the model is still behind with a long text, it goes on with that after so many steps.
constexpr uint64_t kBehind = 16;
constexpr int kProbed = 2;

}  // namespace

void keep_drafts(Sequence& sequence, int count) {
  sequence.tokens.resize(sequence.tokens.size() - static_cast<size_t>(sequence.drafted - count));
  sequence.drafted = count;
}

bool Scheduler::has_room_for_drafts(const Sequence& sequence) const {
  for (int c = 0; c < kv_.classes(); c++) {
    if (kv_.of(c).state()) continue;  // there are most_drafts()
    const int missing = wanted_blocks(sequence, c) - static_cast<int>(sequence.blocks[c].size());
    // As for one that is admitted: no draft pushes out what runs.
    if (missing > 0 && kv_.of(c).available() < missing + running()) return false;
  }
  return true;
}

int Scheduler::most_drafts() const {
  return std::min(std::min(config_.max_rows, config_.max_logit_rows) - running(), kv_.free_states());
}

void Scheduler::find_drafts(Sequence& sequence, int count, std::vector<int32_t>& drafts) {
  const std::vector<int32_t>& foreseen = sequence.options.foreseen;
  if (config_.draft) {
    config_.draft(sequence, count, drafts);
  } else if (!foreseen.empty()) {
    const auto left = std::span(foreseen).subspan(std::min<size_t>(sequence.generated(), foreseen.size()));
    const auto next = left.first(std::min<size_t>(count, left.size()));
    drafts.insert(drafts.end(), next.begin(), next.end());
  } else {
    sequence.drafter.learn(sequence.tokens);
    sequence.drafter.draft(sequence.tokens, count, drafts);
  }
}

bool Scheduler::asks_model(const Sequence& sequence) const {
  const RequestOptions& options = sequence.options;
  if (config_.draft_model == nullptr || config_.draft) return false;
  return options.drafts == DraftMethod::automatic || options.drafts == DraftMethod::model;
}

int Scheduler::worthwhile_depth(std::span<const Asking> asking, int rows, int left) const {
  constexpr double kLeastGain = 1.01;
  double tokens = rows, best = kLeastGain * tokens / config_.pass_costs.of(rows);
  const double pass = config_.draft_model->pass_seconds(static_cast<int>(asking.size()));
  std::vector<double> gains(asking.size(), 1);
  int depth = 0, used = 0;
  for (int next = 1;; next++) {
    const int before = used;
    for (size_t i = 0; i < asking.size() && used < left; i++) {
      if (asking[i].count < next) continue;
      tokens += gains[i] *= asking[i].sequence->acceptance.rate();
      used++;
    }
    if (used == before) return depth;
    const double rate = tokens / (config_.pass_costs.of(rows + used) + next * pass);
    if (rate > best) best = rate, depth = next;
  }
}

void Scheduler::draft_by_model(std::span<Asking> asking, int& rows, int& left) {
  std::vector<Asking> choosing;
  bool probed = false;
  const uint64_t before = probing_;
  for (const Asking& one : asking) {
    if (one.sequence->options.drafts == DraftMethod::automatic) choosing.push_back(one);
  }
  if (!choosing.empty()) {
    depth_ = worthwhile_depth(choosing, rows, left);
    if (depth_ > 0) probing_ = kProbing, probe_at_ = step_ + kProbing;
    if (depth_ == 0 && step_ >= probe_at_) {
      probed = true;
      depth_ = kProbed;
      probing_ = std::min(4 * probing_, kMostProbing);
      probe_at_ = step_ + probing_;
    }
  }
  std::vector<DraftRequest> requests;
  std::vector<Sequence*> sequences;
  int free = left;
  for (const Asking& one : asking) {
    const RequestOptions& options = one.sequence->options;
    const int most = options.drafts == DraftMethod::automatic ? std::min(one.count, depth_) : one.count;
    const int count = std::min(most, free);
    if (count <= 0) continue;
    free -= count;
    DraftRequest& request = requests.emplace_back();
    request.tokens = one.sequence->tokens;
    request.state = &one.sequence->draft_state;
    request.count = count;
    copy_sampling_options(options, request.choice);
    request.choice.seed = options.seed;
    request.choice.counter = static_cast<uint64_t>(one.sequence->generated());
    request.adjustments = one.sequence->adjustments;
    sequences.push_back(one.sequence);
  }
  if (requests.empty()) return;
  config_.draft_model->draft(requests);
  const bool none = std::ranges::all_of(requests, [](const DraftRequest& one) { return one.drafts.empty(); });
  if (none && probed) probing_ = before, probe_at_ = step_ + kBehind;
  for (size_t i = 0; i < requests.size(); i++) {
    Sequence& sequence = *sequences[i];
    std::vector<int32_t>& drafts = requests[i].drafts;
    if (!sequence.options.foreseen.empty()) {  // for its passes' time alone
      const int count = static_cast<int>(drafts.size());
      drafts.clear();
      find_drafts(sequence, count, drafts);
    }
    sequence.tokens.insert(sequence.tokens.end(), drafts.begin(), drafts.end());
    sequence.drafted = static_cast<int>(drafts.size());
    rows += sequence.drafted;
    left -= sequence.drafted;
  }
}

void Scheduler::meet_draft_model(Sequence& sequence) {
  if (!asks_model(sequence)) return;
  sequence.acceptance = Acceptance(model_acceptance_.rate());
  probing_ = kProbing, probe_at_ = std::min(probe_at_, step_ + kProbing);
}

void Scheduler::forget_drafts(Sequence& sequence) {
  if (config_.draft_model != nullptr) config_.draft_model->forget(sequence.draft_state);
}

bool Scheduler::would_ask_model() const {
  for (const Sequences* list : {&running_, &preempted_, &waiting_}) {
    if (std::ranges::any_of(*list, [&](const auto& sequence) { return asks_model(*sequence); })) return true;
  }
  return false;
}

void Scheduler::foresee(Sequence& sequence) {
  if (sequence.options.drafts != DraftMethod::automatic || asks_model(sequence)) return;
  std::vector<int32_t> found;
  find_drafts(sequence, 1, found);
  sequence.expected = found.empty() ? -1 : found.front();
}

bool Scheduler::wants_drafts(const Sequence& sequence, int rows) const {
  if (sequence.options.drafts == DraftMethod::off) return false;
  // Where there is no room none is made, whatever it were worth.
  if (most_drafts() <= 0) return false;
  if (sequence.options.drafts != DraftMethod::automatic) return true;
  if (asks_model(sequence)) return !draft_model_rests_ && (depth_ > 0 || step_ + 1 >= probe_at_);
  if (!sequence.followed) return false;  // what has begun to repeat itself goes on, as a rule
  std::vector<double> gains;
  double gain = 1;
  for (int i = 0; i < sequence.options.draft_tokens; i++) gains.push_back(gain *= sequence.acceptance.rate());
  return config_.pass_costs.worthwhile(rows, gains) > 0;
}

void Scheduler::draft(int decoding) {
  if (decoding == 0) return;
  struct Drafted {
    Sequence* sequence;
    int kept = 0;
  };
  struct Gain {
    double value;
    size_t of;
  };
  std::vector<Drafted> choosing;  // for themselves how many
  std::vector<Gain> gains;
  std::vector<Asking> asking;  // the draft model
  std::vector<int32_t> found;
  // Every sequence that runs keeps its row and its logits.
  int left = most_drafts();
  int rows = decoding;
  for (const auto& pointer : running_) {
    Sequence& sequence = *pointer;
    const RequestOptions& options = sequence.options;
    if (options.drafts == DraftMethod::off || !sequence.decoding() || sequence.arriving) continue;
    const int count = std::min({options.draft_tokens, options.max_tokens - sequence.generated() - 1, left});
    if (count <= 0) continue;
    if (asks_model(sequence)) {
      asking.push_back({&sequence, count});
      continue;
    }
    if (options.drafts == DraftMethod::model && !config_.draft) continue;
    found.clear();
    find_drafts(sequence, count, found);
    sequence.tokens.insert(sequence.tokens.end(), found.begin(), found.end());
    sequence.drafted = static_cast<int>(found.size());
    if (sequence.drafted == 0) continue;
    if (options.drafts != DraftMethod::automatic) {
      left -= sequence.drafted;
      rows += sequence.drafted;
    } else {
      double gain = 1;
      for (int i = 0; i < sequence.drafted; i++) {
        gains.push_back({gain *= sequence.acceptance.rate(), choosing.size()});
      }
      choosing.push_back({&sequence});
    }
  }
  if (!asking.empty() && !draft_model_rests_) draft_by_model(asking, rows, left);

  // The best of them all; of one sequence the first are worth most.
  std::ranges::stable_sort(gains, std::ranges::greater{}, &Gain::value);
  std::vector<double> values;
  for (size_t i = 0; i < gains.size() && static_cast<int>(i) < left; i++) values.push_back(gains[i].value);
  const int worth = config_.pass_costs.worthwhile(rows, values);
  for (int i = 0; i < worth; i++) choosing[gains[i].of].kept++;
  left -= worth;
  for (auto& [sequence, kept] : choosing) {
    sequence->expected = kept == 0 ? sequence->tokens[sequence->tokens.size() - sequence->drafted] : -1;
    keep_drafts(*sequence, kept);
  }
  for (const auto& sequence : running_) {
    if (sequence->drafted == 0 || (has_room_for_drafts(*sequence) && grow(*sequence))) continue;
    keep_drafts(*sequence, 0);
    kv_.choose_states(sequence->blocks, 0);
  }
}

}  // namespace millrace
