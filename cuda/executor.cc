#include "cuda/executor.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "cuda/attention.h"
#include "cuda/check.h"
#include "cuda/device.h"
#include "cuda/embed.h"
#include "cuda/hop.h"
#include "cuda/plan/refusal.h"
#include "cuda/ranges.h"
#include "cuda/runtime/free_gate.h"
#include "model/rope.h"

namespace millrace::cuda {

namespace {

int row_bucket(int rows) {
  return rows <= 8 ? rows : static_cast<int>(std::bit_ceil(static_cast<unsigned>(rows)));
}

int context_bucket(int context, int longest) {
  return std::min(longest, std::max(512, static_cast<int>(std::bit_ceil(static_cast<unsigned>(context)))));
}

}  // namespace

std::byte* CudaExecutor::allocate(size_t bytes, const char* what) {
  memory_.push_back(
      std::make_unique<CudaMemory>(device_, CudaMemory::Place::device, std::max<size_t>(bytes, 256), what));
  workspace_bytes_ += bytes;
  return memory_.back()->data();
}

CudaExecutor::Inputs CudaExecutor::lay_out_inputs(std::byte* base) const {
  Inputs inputs;
  inputs.base = base;
  size_t at = 0;
  const auto take = [&](size_t bytes) {
    std::byte* p = base + at;
    at = round_up(at + bytes, 256);
    return p;
  };
  const size_t rows = max_padded_rows_;
  const size_t logits = max_padded_rows_;
  inputs.tokens = reinterpret_cast<int32_t*>(take(rows * sizeof(int32_t)));
  inputs.token_from = reinterpret_cast<int32_t*>(take(rows * sizeof(int32_t)));
  inputs.positions = reinterpret_cast<int32_t*>(take(rows * sizeof(int32_t)));
  inputs.sequences = reinterpret_cast<int32_t*>(take(rows * sizeof(int32_t)));
  inputs.logit_rows = reinterpret_cast<int32_t*>(take(logits * sizeof(int32_t)));
  inputs.requests = reinterpret_cast<LogitRequest*>(take(logits * sizeof(LogitRequest)));
  inputs.logits = reinterpret_cast<LogitInputs*>(take(sizeof(LogitInputs)));
  inputs.hops_before = reinterpret_cast<uint64_t*>(take(sizeof(uint64_t)));
  const size_t classes = std::max<size_t>(1, config_.kv.size());
  inputs.block_tables =
      reinterpret_cast<int32_t*>(take(classes * table_sequences_ * block_table_stride_ * sizeof(int32_t)));
  inputs.bytes = at;
  return inputs;
}

CudaExecutor::CudaExecutor(int device, const ExecutorConfig& config)
    : device_(device),
      config_(config),
      embed_(lower(config.program.embed)),
      numbers_(mixtures_of(config.program)),
      own_(device),
      unit_table_(config.units.size()),
      carried_(config.program.carried()) {
  const Program& program = config_.program;
  for (const ProgramUnit& unit : program.units) units_.push_back(lower(unit.ops));
  check(cudaSetDevice(device_), "choosing the GPU");
  const DeviceFacts* facts = nullptr;
  check(device_facts(&facts), "asking the GPU");
  facts_ = *facts;
  block_table_stride_ = (config_.max_context + kKvBlockTokens - 1) / kKvBlockTokens;
  if (program.has_state()) block_table_stride_ = std::max(block_table_stride_, std::min(config_.max_rows, kDecodeRows));
  max_padded_rows_ = std::max(row_bucket(std::min(config_.max_rows, kDecodeRows)), config_.max_rows);
  table_sequences_ = static_cast<int>(round_up(max_padded_rows_, 4));  // of each class on 16 bytes
  const size_t rows = max_padded_rows_;
  const int logit_rows = row_bucket(std::min(config_.max_logit_rows, kDecodeRows));

  // The tables are parts of one allocation, and two may share a page: registered whole.
  const std::byte *begin = nullptr, *end = nullptr;
  for (size_t i = 0; i < program.tables.size(); i++) {
    const EmbeddingTable& table = config_.tables[i];
    const size_t bytes = static_cast<size_t>(program.vocab) * program.tables[i] * element_bytes(table.type);
    if (i == 0 || table.rows < begin) begin = table.rows;
    if (i == 0 || table.rows + bytes > end) end = table.rows + bytes;
  }
  embedding_ = std::make_unique<HostRegistration>(begin, static_cast<size_t>(end - begin), "the embedding table");
  for (const EmbeddingTable& table : config_.tables) {
    tables_.push_back(embedding_->device_address() + (table.rows - begin));
  }

  device_unit_table_ =
      reinterpret_cast<const std::byte**>(allocate(config_.units.size() * sizeof(std::byte*), "the table of units"));

  const size_t input_bytes = lay_out_inputs(nullptr).bytes;
  const size_t output_bytes = 2 * static_cast<size_t>(logit_rows) * sizeof(float);
  for (Pass& pass : passes_) {
    const auto pinned = [&](size_t bytes, const char* what) {
      return std::make_unique<CudaMemory>(device_, CudaMemory::Place::host, bytes, what);
    };
    pass.inputs_memory = pinned(input_bytes, "the inputs of a step");
    pass.outputs_memory = pinned(output_bytes, "the tokens of a step");
    pass.inputs = lay_out_inputs(pass.inputs_memory->data());
  }
  device_inputs_ = lay_out_inputs(allocate(input_bytes, "the inputs of a step"));
  device_tokens_ = reinterpret_cast<int32_t*>(allocate(output_bytes, "the tokens of a step"));
  device_logprobs_ = reinterpret_cast<float*>(device_tokens_ + logit_rows);
  // Both arrays come back in one copy, with the places between them that a step of few rows does not write.
  const auto clear = [&](void* data, size_t bytes) { own_.fill(static_cast<std::byte*>(data), 0, bytes); };
  clear(device_tokens_, output_bytes);

  const auto floats = [&](size_t count, const char* what) {
    return reinterpret_cast<float*>(allocate(count * sizeof(float), what));
  };
  const auto halves = [&](size_t count, const char* what) {
    return reinterpret_cast<__half*>(allocate(count * sizeof(__half), what));
  };
  const std::vector<bool> half = half_values(program);
  for (size_t value = 0; value < program.values.size(); value++) {
    const int width = program.values[value];
    const bool logits = static_cast<int>(value) == program.logits;
    float_values_.push_back(half[value] ? nullptr
                            : logits    ? floats(static_cast<size_t>(logit_rows) * width, "logits")
                                        : floats(rows * width, "activations"));
    half_values_.push_back(half[value] ? halves(rows * padded_width(width), "activations") : nullptr);
    // Columns of padding are multiplied with weights that are zero: they must be numbers.
    if (half[value]) clear(half_values_.back(), rows * padded_width(width) * sizeof(__half));
  }
  size_t gate_up = 0, converted = 0;
  for (size_t unit = 0; unit < program.units.size(); unit++) {
    for (const Op& op : program.units[unit].ops) {
      const auto* glu = std::get_if<GluOp>(&op);
      const auto* linear = std::get_if<LinearOp>(&op);
      if (glu != nullptr) {
        const LinearLayout& layout = config_.units[unit].linears[glu->linear];
        if (!fused_glu(*glu, layout) || !half[glu->out]) gate_up = std::max(gate_up, static_cast<size_t>(layout.n));
      }
      const auto* experts = std::get_if<ExpertsOp>(&op);
      const int in = glu != nullptr       ? glu->in
                     : linear != nullptr  ? linear->in
                     : experts != nullptr ? experts->in
                                          : kNone;
      if (in != kNone && !half[in]) {
        converted = std::max(converted, static_cast<size_t>(padded_width(program.values[in])));
      }
    }
  }
  gate_up_ = floats(rows * gate_up, "activations");
  converted_ = halves(rows * converted, "activations");
  clear(converted_, rows * converted * sizeof(__half));

  check(linear_decode_prepare(), "loading the kernels");
  if (const auto refused = refusal_of(facts_, program, config_.units)) {
    throw Error(code::kDeviceUnavailable, *refused, "use device: 'cpu', or another GPU");
  }
  kernels_ = std::make_unique<UserKernels>(config_.kernels);
  make_room_for_experts();
  size_t gathered = 0;
  for (size_t unit = 0; unit < config_.units.size(); unit++) {
    const ExpertsOp* experts = mixtures_[unit].op;
    const std::vector<LinearLayout>& linears = config_.units[unit].linears;
    for (int i = 0; i < static_cast<int>(linears.size()); i++) {
      if (experts != nullptr && experts->has(i)) continue;
      for (const LinearLayout::Segment& segment : linears[i].segments) {
        gathered = std::max(gathered, linear_gathered_bytes(segment.matrix, max_padded_rows_));
      }
    }
  }
  gathered_ = reinterpret_cast<__half*>(allocate(gathered, "permuted activations"));

  make_room_for_attention();

  hop_counter_ = reinterpret_cast<unsigned*>(allocate(sizeof(unsigned), "a counter"));
  clear(hop_counter_, sizeof(unsigned));
  stage_ = std::make_unique<LogitStage>(device_, config_.max_logit_rows, logit_rows, program.vocab, own_);
  workspace_bytes_ += stage_->bytes();

  for (const RopeSpec& spec : program.ropes) {
    const std::vector<float> rope = rope_table(spec.of_context(config_.max_context), 0, config_.max_context);
    ropes_.push_back(floats(rope.size(), "the rope table"));
    own_.copy(reinterpret_cast<std::byte*>(ropes_.back()), reinterpret_cast<const std::byte*>(rope.data()),
              rope.size() * sizeof(float));
    own_.synchronize();  // the host's copy goes
  }
  own_.synchronize();
}

void CudaExecutor::make_room_for_attention() {
  size_t partials = 0, counters = 0, queries = 0;
  const int decode_rows = std::min(max_padded_rows_, kDecodeRows);
  for (const ProgramUnit& unit : config_.program.units) {
    for (const Op& op : unit.ops) {
      if (const auto* attend = std::get_if<AttendOp>(&op)) {
        AttentionArguments attention;
        attention.rows = decode_rows;
        attention.heads = attend->heads;
        attention.kv_heads = attend->kv_heads;
        attention.head_dim = attend->head_dim;
        attention.kv_type = config_.program.kv[attend->kv_class].type;
        attention.max_context = config_.max_context;
        partials = std::max(partials, attention_partials_bytes(attention));
        counters = std::max(counters, attention_counters(attention));
      }
      if (const auto* latent = std::get_if<LatentOp>(&op)) {
        const LatentShape shape{latent->heads, latent->rank, latent->nope, latent->rotary, latent->value_dim};
        partials = std::max(partials, latent_partial_bytes(shape, decode_rows, config_.max_context));
        queries = std::max(queries, latent_query_bytes(shape, max_padded_rows_));
      }
    }
  }
  attention_partials_ = reinterpret_cast<float*>(allocate(partials, "partial attention"));
  latent_queries_ = reinterpret_cast<__half*>(allocate(queries, "queries of latents"));
  attention_counters_ = reinterpret_cast<unsigned*>(allocate(counters * sizeof(unsigned), "counters"));
  own_.fill(reinterpret_cast<std::byte*>(attention_counters_), 0, counters * sizeof(unsigned));
}

void CudaExecutor::make_room_for_experts() {
  const Program& program = config_.program;
  mixtures_.resize(program.units.size());
  size_t results = 0, act = 0, gate_up = 0;
  int places = 0, few = 0, many = 0;
  for (size_t unit = 0; unit < program.units.size(); unit++) {
    for (const Op& op : program.units[unit].ops) {
      const auto* experts = std::get_if<ExpertsOp>(&op);
      if (experts == nullptr) continue;
      Mixture& mixture = mixtures_[unit];
      mixture.op = experts;
      mixture.layout = *experts_layout(*experts, config_.units[unit]);  // there is one: refusal_of()
      const LinearLayout& first = mixture.layout.gate_up;
      const LinearLayout& second = mixture.layout.down;
      mixture.expert_bytes = matrix_bytes(first) + matrix_bytes(second);
      if (unit < config_.experts_apart.size() && config_.experts_apart[unit]) {
        mixture.first_apart = experts_apart_;
        experts_apart_ += experts->experts;
      }
      mixture.top_k = program.values[experts->routes] / 2;
      const int hidden = program.values[experts->out];
      mixture.rows = expert_rows(max_padded_rows_, mixture.top_k, hidden);
      const int most = mixture.rows * mixture.top_k;
      const auto rows = static_cast<size_t>(most);
      places = std::max(places, most);
      few = std::max(few, few_tiles(most, experts->experts));
      expert_list_.many_rows = std::min(expert_list_.many_rows, many_rows(facts_, mixture.layout));
      many = std::max(many, many_tiles(most, experts->experts, kFewRows));
      results = std::max(results, rows * hidden * sizeof(float));
      mixture.prompts = computes_prompts(facts_, mixture.layout);
      if (mixture.prompts) {
        many = std::max(many, prompt_tiles(most, experts->experts, 64));
        results = std::max(results, rows * padded_width(first.k) * sizeof(__half));  // x, gathered, before them
      }
      act = std::max(act, rows * padded_width(second.k));
      if (!fused_expert_glu(first)) gate_up = std::max(gate_up, rows * first.n);
    }
  }
  if (places == 0) return;
  const auto take = [&](size_t bytes) { return allocate(bytes, "experts"); };
  expert_list_.counts = reinterpret_cast<int32_t*>(take(3 * sizeof(int32_t)));
  expert_list_.few = reinterpret_cast<int4*>(take(few * sizeof(int4)));
  expert_list_.many = reinterpret_cast<int4*>(take(many * sizeof(int4)));
  expert_list_.places = reinterpret_cast<int32_t*>(take(places * sizeof(int32_t)));
  expert_results_ = reinterpret_cast<float*>(take(results));
  expert_act_ = reinterpret_cast<__half*>(take(act * sizeof(__half)));
  expert_gate_up_ = reinterpret_cast<float*>(take(gate_up * sizeof(float)));
  if (config_.drawn) {
    check_routes(*config_.drawn, program);
    const std::vector<uint16_t>& drawn = config_.drawn->experts;
    device_drawn_ = reinterpret_cast<uint16_t*>(take(drawn.size() * sizeof(uint16_t)));
    own_.copy(reinterpret_cast<std::byte*>(device_drawn_), reinterpret_cast<const std::byte*>(drawn.data()),
              drawn.size() * sizeof(uint16_t));
    own_.synchronize();
  }
  if (experts_apart_ == 0) return;
  frame_log_at_ = round_up(experts_apart_ * sizeof(uint16_t), 16);
  expert_log_bytes_ = frame_log_at_ + sizeof(FrameLog);
  device_expert_table_ = reinterpret_cast<const std::byte**>(take(experts_apart_ * sizeof(std::byte*)));
  device_in_ram_ = reinterpret_cast<uint8_t*>(take(static_cast<size_t>(experts_apart_)));
  device_offers_ = reinterpret_cast<FrameOffers*>(take(sizeof(FrameOffers)));
  own_.fill(reinterpret_cast<std::byte*>(device_offers_), 0, sizeof(FrameOffers));
  std::byte* log = take(expert_log_bytes_);
  own_.fill(log, 0, expert_log_bytes_);
  device_expert_rows_ = reinterpret_cast<uint16_t*>(log);
  device_frame_log_ = reinterpret_cast<FrameLog*>(log + frame_log_at_);
  expert_list_.fills = reinterpret_cast<ExpertFill*>(take(kMostFills * sizeof(ExpertFill)));
  own_.synchronize();
  for (Pass& pass : passes_) {
    pass.expert_rows =
        std::make_unique<CudaMemory>(device_, CudaMemory::Place::host, expert_log_bytes_, "rows of experts");
  }
  make_room_for_answers();
}

void CudaExecutor::make_room_for_answers() {
  const ExpertMail* mail = config_.mail.get();
  if (mail == nullptr) return;
  const auto take = [&](size_t bytes) { return allocate(bytes, "experts that the CPU answers"); };
  std::vector<uint16_t> splits;
  for (size_t unit = 0; unit < mail->split.size(); unit++) {
    if (mail->split[unit].empty()) continue;
    mixtures_[unit].split = static_cast<int>(splits.size());
    splits.insert(splits.end(), mail->split[unit].begin(), mail->split[unit].end());
  }
  device_splits_ = reinterpret_cast<uint16_t*>(take(splits.size() * sizeof(uint16_t)));
  own_.copy(reinterpret_cast<std::byte*>(device_splits_), reinterpret_cast<const std::byte*>(splits.data()),
            splits.size() * sizeof(uint16_t));
  answers_.state = reinterpret_cast<AnswerState*>(take(sizeof(AnswerState)));
  own_.fill(reinterpret_cast<std::byte*>(answers_.state), 0, sizeof(AnswerState));
  answers_.places = reinterpret_cast<int32_t*>(take(static_cast<size_t>(mail->most_places) * sizeof(int32_t)));
  const auto mapped = [](auto* host) {
    void* device = nullptr;
    check(cudaHostGetDevicePointer(&device, host, 0), "mapping what goes to the CPU");
    return static_cast<decltype(host)>(device);
  };
  answers_.mail_state = mapped(mail->state);
  answers_.task = mapped(mail->task);
  answers_.entries = mapped(mail->entries);
  answers_.mail_places = mapped(mail->places);
  answers_.mail_x = mapped(mail->x);
  answers_.mail_y = mapped(mail->y);
  answers_.width = mail->width;
  own_.synchronize();
}

// Before a pass is captured that logs what its rows choose: room for that.
void CudaExecutor::log_routes() {
  const size_t bytes = static_cast<size_t>(max_padded_rows_) * numbers_.routed() * sizeof(uint16_t);
  if (device_chosen_ == nullptr) device_chosen_ = reinterpret_cast<uint16_t*>(allocate(bytes, "a log of routes"));
  for (Pass& pass : passes_) {
    if (pass.routes) continue;
    pass.routes = std::make_unique<CudaMemory>(device_, CudaMemory::Place::host, bytes, "a log of routes");
  }
}

// Without the rows of padding.
void CudaExecutor::collect_routes(const Pass& pass) {
  std::vector<uint16_t>& out = pass.output->routes;
  out.clear();
  if (!pass.step.logs_routes) return;
  const auto* rows = reinterpret_cast<const uint16_t*>(pass.routes->data());
  const size_t routed = numbers_.routed(), decode = pass.step.decode_rows * routed;
  out.assign(rows, rows + decode);
  rows += decode + pass.row_padding * routed;
  out.insert(out.end(), rows, rows + (pass.step.rows - pass.step.decode_rows) * routed);
}

CudaExecutor::~CudaExecutor() {
  cudaSetDevice(device_);  // of what its members free
}

void CudaExecutor::set_unit(Stream& stream, int unit, const std::byte* slab, bool permanent) {
  mixtures_[unit].apart = permanent && mixtures_[unit].first_apart != kNone;
  if (!unit_table_.changes(unit, slab, permanent)) return;
  auto& cuda = static_cast<CudaStream&>(stream);
  cuda.use_device();
  flush(cuda);
  const ExecutorHooks& hooks = config_.hooks;
  bool force_early = false;
  unit_table_.set(unit, slab, permanent, [&] {
    // By a kernel: a copy would queue behind the slabs.
    check(cuda::set_unit(device_unit_table_, unit, slab, cuda.get(), hooks.late_publish_us),
          "setting a unit's address");
    force_early = static_cast<int64_t>(counters_.published_addresses++) == hooks.early_publish;
  });
  if (force_early) unit_table_.force_early(unit);
}

void CudaExecutor::set_experts(Stream& stream, std::span<const ExpertAddress> experts) {
  auto& cuda = static_cast<CudaStream&>(stream);
  cuda.use_device();
  flush(cuda);
  ExpertChanges changes;
  const auto send = [&] {
    if (changes.count > 0) {
      check(cuda::set_experts(device_expert_table_, device_in_ram_, changes, cuda.get()), "setting experts' addresses");
    }
    changes.count = 0;
  };
  for (const ExpertAddress& one : experts) {
    changes.entries[changes.count] = mixtures_[one.unit].first_apart + one.expert;
    changes.in_ram[changes.count] = one.in_ram ? 1 : 0;
    changes.addresses[changes.count++] = one.address;
    if (changes.count == ExpertChanges::kMost) send();
  }
  send();
}

static_assert(FrameOffers::kRing >= kMostOfferedFrames);

void CudaExecutor::offer_frames(Stream& stream, std::span<std::byte* const> frames, bool anew) {
  auto& cuda = static_cast<CudaStream&>(stream);
  cuda.use_device();
  flush(cuda);
  if (anew) frames_told_ = 0;
  OfferedFrames some;
  some.anew = anew;
  for (size_t i = 0; i < frames.size() || some.anew; i += static_cast<size_t>(some.count)) {
    some.count = static_cast<int>(std::min<size_t>(OfferedFrames::kMost, frames.size() - i));
    std::copy_n(frames.begin() + static_cast<ptrdiff_t>(i), some.count, some.frames);
    check(cuda::offer_frames(device_offers_, device_frame_log_, some, cuda.get()), "offering frames for experts");
    some.anew = false;
  }
}

void CudaExecutor::begin(Stream& stream, const Step& step, StepOutput& output) {
  check(cudaSetDevice(device_), "choosing the GPU");
  auto& cuda = static_cast<CudaStream&>(stream);
  if (step.rows < 1 || step.rows > config_.max_rows || step.decode_rows > kDecodeRows ||
      static_cast<int>(step.logits.size()) > std::min(config_.max_logit_rows, kDecodeRows) ||
      step.block_table_stride > block_table_stride_) {
    throw Error(code::kInternal, "a step is larger than its executor", "report this with what led to it");
  }
  pass_ = pass_ == passes_.data() ? &passes_[1] : passes_.data();
  pass_->step = step;
  pass_->output = &output;
  pass_->keeps_hidden = false;
  held_.clear();

  const int prefill = step.rows - step.decode_rows;
  shape_ = {step.decode_rows, prefill, static_cast<int>(step.logits.size()), 0, {}};
  if (prefill == 0) {  // a pass that may be a graph: padded to its bucket
    shape_.decode_rows = row_bucket(step.decode_rows);
    shape_.logit_rows = row_bucket(shape_.logit_rows);
  }
  int longest = 0;
  for (int r = 0; r < step.rows; r++) longest = std::max(longest, step.positions[r] + 1);
  shape_.context = context_bucket(longest, config_.max_context);
  shape_.logs_routes = step.logs_routes && numbers_.count > 0;
  pass_->step.logs_routes = shape_.logs_routes;
  if (shape_.logs_routes) log_routes();

  const int padding = pass_->row_padding = shape_.decode_rows - step.decode_rows;
  const Inputs& host = pass_->inputs;
  const auto place = [&](int row) { return row < step.decode_rows ? row : row + padding; };
  const bool fed = !step.token_from.empty();
  for (int r = 0; r < rows(); r++) host.tokens[r] = host.token_from[r] = host.positions[r] = -1;
  for (int r = 0; r < rows(); r++) host.sequences[r] = 0;
  for (int r = 0; r < step.rows; r++) {
    if (fed) host.token_from[place(r)] = step.token_from[r];
    host.tokens[place(r)] = step.tokens[r];
    host.positions[place(r)] = step.positions[r];
    host.sequences[place(r)] = step.sequences[r];
  }
  const int classes = std::max(1, static_cast<int>(config_.kv.size()));
  const int sequences = static_cast<int>(step.block_tables.size()) / std::max(step.block_table_stride, 1) / classes;
  const auto table_of = [&](int kv_class) {
    return host.block_tables + static_cast<size_t>(kv_class) * table_sequences_ * block_table_stride_;
  };
  for (int c = 0; c < classes; c++) {
    for (int s = 0; s < sequences; s++) {
      std::memcpy(table_of(c) + static_cast<size_t>(s) * block_table_stride_,
                  step.block_tables.data() + static_cast<size_t>(c * sequences + s) * step.block_table_stride,
                  step.block_table_stride * sizeof(int32_t));
    }
  }
  for (int i = 0; i < shape_.logit_rows; i++) {
    const bool real = i < static_cast<int>(step.logits.size());
    host.logit_rows[i] = real ? place(step.logits[i].row) : -1;
    host.requests[i] = real ? step.logits[i] : LogitRequest{};
    host.requests[i].row = real ? i : -1;
  }
  const auto real_requests = std::span(host.requests, step.logits.size());
  *host.logits = stage_->begin(static_cast<int>(pass_ - passes_.data()), step, real_requests, cuda);
  shape_.wants = stage_->wants();
  *host.hops_before = step.hops_before;
  const auto piece = [&](const auto* first, size_t count) {
    const auto* begin = reinterpret_cast<const std::byte*>(first);
    return HostPieces::Piece{static_cast<uint32_t>(begin - host.base), static_cast<uint32_t>(count * sizeof(*first))};
  };
  // What is in use of them.
  HostPieces used{{piece(host.tokens, rows()), piece(host.positions, rows()), piece(host.sequences, rows()),
                   piece(host.logit_rows, shape_.logit_rows), piece(host.requests, shape_.logit_rows),
                   piece(host.hops_before, 1), piece(host.token_from, fed ? rows() : 0), piece(host.logits, 1)},
                  8 + classes};
  for (int c = 0; c < classes; c++) {
    used.pieces[8 + c] = piece(table_of(c), static_cast<size_t>(sequences) * block_table_stride_);
  }
  void* mapped = nullptr;
  check(cudaHostGetDevicePointer(&mapped, host.base, 0), "mapping a step's inputs");
  check(bring(static_cast<const std::byte*>(mapped), device_inputs_.base, used, cuda.get()),
        "bringing a step's inputs");
  if (experts_apart_ > 0) {
    check(cudaMemsetAsync(device_expert_rows_, 0, experts_apart_ * sizeof(uint16_t), cuda.get()), "clearing a log");
  }
  if (fed) {
    void* chosen = device_tokens_;
    if (step.chosen != nullptr) {
      check(cudaHostGetDevicePointer(&chosen, const_cast<int32_t*>(step.chosen), 0), "the tokens of the step before");
    }
    check(feed_tokens(device_inputs_.token_from, static_cast<const int32_t*>(chosen), rows(), device_inputs_.tokens,
                      cuda.get()),
          "the tokens of the step before");
  }
  cuda.hold(this);
}

void CudaExecutor::hold(Stream&, Held held) {
  held_.push_back(held);
}

void CudaExecutor::send(Stream& stream, const Hop& hop, int, uint64_t ticket) {
  hold(stream, {Operation::send, static_cast<int>(ticket - pass_->step.hops_before), RowKind::decode, hop});
}

void CudaExecutor::receive(Stream& stream, const Hop& hop, int, uint64_t ticket) {
  hold(stream, {Operation::receive, static_cast<int>(ticket - pass_->step.hops_before), RowKind::decode, hop});
}

void CudaExecutor::end(Stream& stream) {
  auto& cuda = static_cast<CudaStream&>(stream);
  cuda.use_device();
  flush(cuda);
  cuda.hold(nullptr);
  if (experts_apart_ > 0) {
    check(cudaMemcpyAsync(pass_->expert_rows->data(), device_expert_rows_, expert_log_bytes_, cudaMemcpyDeviceToHost,
                          cuda.get()),
          "copying the rows of experts");
  }
  if (shape_.logs_routes) {
    check(cudaMemcpyAsync(pass_->routes->data(), device_chosen_, rows() * numbers_.routed() * sizeof(uint16_t),
                          cudaMemcpyDeviceToHost, cuda.get()),
          "copying a log of routes");
  }
  if (shape_.logit_rows > 0) {
    const size_t count = pass_->step.logits.size();
    auto* host = reinterpret_cast<int32_t*>(pass_->outputs_memory->data());
    const ptrdiff_t logprobs = reinterpret_cast<int32_t*>(device_logprobs_) - device_tokens_;
    check(
        cudaMemcpyAsync(host, device_tokens_, (logprobs + count) * sizeof(int32_t), cudaMemcpyDeviceToHost, cuda.get()),
        "copying a step's tokens");
    stage_->end(static_cast<int>(pass_ - passes_.data()), cuda);
  }
}

void CudaExecutor::abandon(Stream& stream) {
  held_.clear();
  static_cast<CudaStream&>(stream).hold(nullptr);
  stage_->abandon();
}

// Rows that lie side by side in one copy: of a mean over a prompt that is one.
void CudaExecutor::collect_hidden(const Pass& pass) {
  const auto hidden = static_cast<size_t>(config_.program.hidden());
  const std::span<const int32_t> rows = pass.step.hidden_rows;
  std::vector<float>& out = pass.output->hidden;
  out.resize(rows.size() * hidden);
  for (size_t begin = 0, end = 0; begin < rows.size(); begin = end) {
    while (end < rows.size() && rows[end] - rows[begin] == static_cast<int32_t>(end - begin)) end++;
    own_.copy(reinterpret_cast<std::byte*>(out.data() + begin * hidden),
              reinterpret_cast<const std::byte*>(float_values_[kResidual] + (rows[begin] + pass.row_padding) * hidden),
              (end - begin) * hidden * sizeof(float));
  }
  own_.synchronize();
}

bool CudaExecutor::may_follow(const Step& step) const {
  return step.hidden_rows.empty() && (step.masks.empty() || !FreeGate::process().wanted()) &&
         std::none_of(step.logits.begin(), step.logits.end(), [](const auto& request) { return request.keep_logits; });
}

void CudaExecutor::collect(StepOutput& output) {
  const int number = pass_number(output);
  const Pass& pass = passes_[number];
  const size_t count = pass.step.logits.size();
  const size_t vocab = config_.program.vocab;
  check(cudaSetDevice(device_), "choosing the GPU");
  if (pass.keeps_hidden) collect_hidden(pass);
  if (experts_apart_ > 0) {
    const auto* rows = reinterpret_cast<const uint16_t*>(pass.expert_rows->data());
    output.expert_rows.assign(rows, rows + experts_apart_);
    const auto* log = reinterpret_cast<const FrameLog*>(pass.expert_rows->data() + frame_log_at_);
    output.filled.clear();
    for (; frames_told_ != log->taken; frames_told_++) {
      output.filled.push_back(log->experts[frames_told_ % FrameOffers::kRing]);
    }
  }
  collect_routes(pass);
  const auto* tokens = reinterpret_cast<const int32_t*>(pass.outputs_memory->data());
  const auto* logprobs =
      reinterpret_cast<const float*>(tokens + (reinterpret_cast<int32_t*>(device_logprobs_) - device_tokens_));
  output.tokens.assign(tokens, tokens + count);
  output.logprobs.assign(logprobs, logprobs + count);
  stage_->collect(number, output);
  output.logits.clear();
  for (size_t i = 0; i < count; i++) {
    if (!pass.step.logits[i].keep_logits) continue;
    row_.resize(vocab);
    own_.copy(reinterpret_cast<std::byte*>(row_.data()),
              reinterpret_cast<const std::byte*>(float_values_[config_.program.logits] + i * vocab),
              vocab * sizeof(float));
    own_.synchronize();
    output.logits.insert(output.logits.end(), row_.begin(), row_.end());
  }
}

bool CudaExecutor::replayable() const {
  const Held &first = held_.front(), &last = held_.back();
  const bool begins = first.operation == Operation::embed || first.operation == Operation::take_over;
  const bool ends = last.operation == Operation::sample || last.operation == Operation::hand_over;
  if (held_.size() < 3 || !begins || !ends || shape_.prefill_rows > 0 || !unit_table_.all_early()) return false;
  for (size_t i = 1; i + 1 < held_.size(); i++) {
    const bool beside = held_[i].number == held_[1].number + static_cast<int>(i) - 1;
    if (held_[i].operation != Operation::unit || held_[i].rows != RowKind::all || !beside) return false;
  }
  return true;
}

CudaExecutor::Segment CudaExecutor::held_segment() const {
  return {shape_, held_[1].number, held_[held_.size() - 2].number, held_.front().hop.rows, held_.back().hop.rows};
}

void CudaExecutor::flush(CudaStream& stream) {
  if (held_.empty()) return;
  const Range range("pass", rows());
  // Decode rows over units that stay where they are: replayed as one graph.
  if (cudaGraphExec_t graph = replayable() ? graph_of_held(stream) : nullptr; graph != nullptr) {
    for (const Held& held : held_) {
      if (held.operation == Operation::unit) counters_.weight_bytes_read += weight_bytes(held.number);
    }
    check(cudaGraphLaunch(graph, stream.get()), "launching a pass");
  } else {
    for (const Held& held : held_) launch(held, stream.get());
  }
  held_.clear();
}

cudaGraphExec_t CudaExecutor::graph_of_held(CudaStream& stream) {
  const Segment segment = held_segment();
  if (const auto it = graphs_.find(segment); it != graphs_.end()) return it->second.get();
  const ExecutorCounters counted = counters_;
  Graph graph = capture(stream.get(), "capturing a pass", [&] {
    for (const Held& held : held_) launch(held, stream.get());
  });
  counters_ = counted;
  if (graph == nullptr) return nullptr;
  return (graphs_[segment] = std::move(graph)).get();
}

}  // namespace millrace::cuda
