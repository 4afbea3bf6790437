#include "cuda/executor.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <mutex>

#include "core/memory.h"
#include "cuda/attention.h"
#include "cuda/check.h"
#include "cuda/device.h"
#include "cuda/elementwise.h"
#include "cuda/embed.h"
#include "cuda/hop.h"
#include "cuda/norm.h"
#include "cuda/plan/refusal.h"
#include "cuda/ranges.h"
#include "cuda/sample.h"
#include "model/rope.h"

namespace millrace::cuda {

namespace {

// Rows of activations start on 16 bytes: kernels load eight halves at a time.
int padded_width(int width) {
  return static_cast<int>(round_up(width, 64));
}

int row_bucket(int rows) {
  return rows <= 8 ? rows : static_cast<int>(std::bit_ceil(static_cast<unsigned>(rows)));
}

int context_bucket(int context, int longest) {
  return std::min(longest, std::max(512, static_cast<int>(std::bit_ceil(static_cast<unsigned>(context)))));
}

}  // namespace

// ---- Events, streams, memory

CudaEvent::CudaEvent(EventUse use) {
  const unsigned flags = use == EventUse::timed    ? cudaEventDefault
                         : use == EventUse::sleeps ? cudaEventDisableTiming | cudaEventBlockingSync
                                                   : cudaEventDisableTiming;
  check(cudaEventCreateWithFlags(&event_, flags), "creating an event");
}
CudaEvent::~CudaEvent() {
  cudaEventDestroy(event_);
}
bool CudaEvent::done() const {
  return cudaEventQuery(event_) != cudaErrorNotReady;
}
double CudaEvent::milliseconds_since(const Event& earlier) const {
  float ms = 0;
  check(cudaEventElapsedTime(&ms, static_cast<const CudaEvent&>(earlier).event_, event_), "reading a time");
  return ms;
}
void CudaEvent::synchronize() {
  check(cudaEventSynchronize(event_), "waiting for a pass");
}

CudaStream::CudaStream(int device) : device_(device) {
  check(cudaSetDevice(device_), "choosing the GPU");
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream");
}

CudaStream::~CudaStream() {
  cudaSetDevice(device_);
  cudaStreamSynchronize(stream_);
  cudaStreamDestroy(stream_);
}

// A thread that has more than one device's streams in hand: what follows is of this one.
void CudaStream::use_device() const {
  int now = -1;
  if (cudaGetDevice(&now) == cudaSuccess && now == device_) return;
  check(cudaSetDevice(device_), "choosing the GPU");
}

void CudaStream::release_held() {
  use_device();
  if (held_ != nullptr) held_->flush(*this);
}

void CudaStream::copy(std::byte* destination, const std::byte* source, size_t bytes) {
  release_held();
  const Range range("copy", static_cast<int64_t>(bytes));
  check(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDefault, stream_), "copying");
}

void CudaStream::fill(std::byte* destination, uint8_t value, size_t bytes) {
  release_held();
  check(cudaMemsetAsync(destination, value, bytes, stream_), "filling");
}

void CudaStream::record(Event& event) {
  release_held();
  check(cudaEventRecord(static_cast<CudaEvent&>(event).get(), stream_), "recording an event");
}

void CudaStream::wait(Event& event) {
  release_held();
  check(cudaStreamWaitEvent(stream_, static_cast<CudaEvent&>(event).get(), 0), "waiting for an event");
}

void CudaStream::synchronize() {
  release_held();
  check(cudaStreamSynchronize(stream_), "waiting for a stream");
}

CudaMemory::CudaMemory(int device, Place place, size_t bytes, const char* what)
    : device_(device), place_(place), bytes_(bytes) {
  if (bytes == 0) return;
  check(cudaSetDevice(device_), "choosing the GPU");
  void* p = nullptr;
  if (place_ == Place::device) {
    const cudaError_t status = cudaMalloc(&p, bytes);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      size_t free = 0, total = 0;
      cudaMemGetInfo(&free, &total);
      throw Error(code::kOutOfMemory,
                  format("%s needs %.1f MiB of GPU memory; %.1f of %.1f MiB are free", what,
                         static_cast<double>(bytes) / (1 << 20), static_cast<double>(free) / (1 << 20),
                         static_cast<double>(total) / (1 << 20)),
                  "stream more layers, lower contextLength or kvTokens, or free GPU memory");
    }
    check(status, what);
  } else {
    check(cudaHostAlloc(&p, bytes, cudaHostAllocPortable | cudaHostAllocMapped), what);
  }
  data_ = static_cast<std::byte*>(p);
}

CudaMemory::~CudaMemory() {
  if (data_ == nullptr) return;
  cudaSetDevice(device_);
  if (place_ == Place::device) {
    cudaFree(data_);
  } else {
    cudaFreeHost(data_);
  }
}

// ---- Registered host memory

namespace {

struct Registration {
  std::mutex mutex;  // held while the system pins, which takes long: others' memory is not to wait for it
  int users = 0;
};

std::mutex registrations_mutex;
std::map<const std::byte*, std::shared_ptr<Registration>>& registrations() {  // never destroyed, like the engine
  static auto* map = new std::map<const std::byte*, std::shared_ptr<Registration>>;
  return *map;
}

}  // namespace

HostRegistration::HostRegistration(const std::byte* data, size_t bytes, const char* what) : data_(data) {
  std::shared_ptr<Registration> registration;
  {
    std::lock_guard lock(registrations_mutex);
    std::shared_ptr<Registration>& slot = registrations()[data];
    if (!slot) slot = std::make_shared<Registration>();
    registration = slot;
  }
  std::lock_guard lock(registration->mutex);
  auto* host = const_cast<std::byte*>(data);
  if (registration->users == 0) {
    check(cudaHostRegister(host, bytes, cudaHostRegisterPortable | cudaHostRegisterMapped), what);
  }
  void* mapped = nullptr;
  const cudaError_t status = cudaHostGetDevicePointer(&mapped, host, 0);
  if (status != cudaSuccess && registration->users == 0) cudaHostUnregister(host);
  check(status, what);
  registration->users++;
  device_address_ = static_cast<const std::byte*>(mapped);
}

HostRegistration::~HostRegistration() {
  std::lock_guard lock(registrations_mutex);
  const auto at = registrations().find(data_);
  const std::shared_ptr<Registration> registration = at->second;
  std::lock_guard own(registration->mutex);
  if (--registration->users > 0) return;
  cudaHostUnregister(const_cast<std::byte*>(data_));
  if (registration.use_count() == 2) registrations().erase(at);  // nobody is about to use it
}

// ---- Executor

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
  inputs.positions = reinterpret_cast<int32_t*>(take(rows * sizeof(int32_t)));
  inputs.sequences = reinterpret_cast<int32_t*>(take(rows * sizeof(int32_t)));
  inputs.logit_rows = reinterpret_cast<int32_t*>(take(logits * sizeof(int32_t)));
  inputs.requests = reinterpret_cast<LogitRequest*>(take(logits * sizeof(LogitRequest)));
  inputs.hops_before = reinterpret_cast<uint64_t*>(take(sizeof(uint64_t)));
  inputs.block_tables = reinterpret_cast<int32_t*>(take(rows * block_table_stride_ * sizeof(int32_t)));
  inputs.bytes = at;
  return inputs;
}

CudaExecutor::CudaExecutor(int device, const ExecutorConfig& config) : device_(device), config_(config) {
  const ModelSpec& spec = config_.spec;
  check(cudaSetDevice(device_), "choosing the GPU");
  block_table_stride_ = (config_.max_context + kKvBlockTokens - 1) / kKvBlockTokens;
  max_padded_rows_ = std::max(row_bucket(std::min(config_.max_rows, kDecodeRows)), config_.max_rows);
  const size_t rows = max_padded_rows_;
  const int logit_rows = row_bucket(std::min(config_.max_logit_rows, kDecodeRows));

  const size_t table_bytes = static_cast<size_t>(spec.vocab) * spec.hidden * element_bytes(config_.embedding.type);
  embedding_ = std::make_unique<HostRegistration>(config_.embedding.rows, table_bytes, "the embedding table");

  unit_table_.assign(config_.units.size(), nullptr);
  early_.assign(config_.units.size(), false);
  device_unit_table_ =
      reinterpret_cast<const std::byte**>(allocate(config_.units.size() * sizeof(std::byte*), "the table of units"));

  const size_t input_bytes = lay_out_inputs(nullptr).bytes;
  host_inputs_ = std::make_unique<CudaMemory>(device_, CudaMemory::Place::host, input_bytes, "the inputs of a step");
  host_ = lay_out_inputs(host_inputs_->data());
  device_inputs_ = lay_out_inputs(allocate(input_bytes, "the inputs of a step"));
  host_outputs_ = std::make_unique<CudaMemory>(
      device_, CudaMemory::Place::host, 2 * static_cast<size_t>(logit_rows) * sizeof(float), "the tokens of a step");
  device_tokens_ =
      reinterpret_cast<int32_t*>(allocate(2 * static_cast<size_t>(logit_rows) * sizeof(float), "the tokens of a step"));
  device_logprobs_ = reinterpret_cast<float*>(device_tokens_ + logit_rows);
  // Both arrays come back in one copy, with the places between them that a step of few rows does not write.
  check(cudaMemset(device_tokens_, 0, 2 * static_cast<size_t>(logit_rows) * sizeof(float)), "clearing tokens");

  const auto floats = [&](size_t count, const char* what) {
    return reinterpret_cast<float*>(allocate(count * sizeof(float), what));
  };
  const auto halves = [&](size_t count, const char* what) {
    return reinterpret_cast<__half*>(allocate(count * sizeof(__half), what));
  };
  residual_ = floats(rows * spec.hidden, "the residual stream");
  normed_ = halves(rows * padded_width(spec.hidden), "activations");
  int wide = spec.qkv_width();
  for (const UnitLayout& unit : config_.units) {
    const bool fused = unit.interleaved && !unit.first.has_bias;  // its activation never leaves the linear
    if (unit.kind == UnitKind::feed_forward && !fused) wide = std::max(wide, unit.first.n);
  }
  wide_ = floats(rows * wide, "activations");
  attended_ = halves(rows * padded_width(spec.query_width()), "activations");
  activated_ = halves(rows * padded_width(spec.intermediate), "activations");
  // Columns of padding are multiplied with weights that are zero: they must be numbers.
  for (const auto& [p, width] :
       {std::pair{normed_, spec.hidden}, {attended_, spec.query_width()}, {activated_, spec.intermediate}}) {
    check(cudaMemset(p, 0, rows * padded_width(width) * sizeof(__half)), "clearing activations");
  }
  logits_ = floats(static_cast<size_t>(logit_rows) * spec.vocab, "logits");

  check(linear_decode_prepare(), "loading the kernels");
  const DeviceFacts* facts = nullptr;
  check(device_facts(&facts), "asking the GPU");
  if (const auto refused = refusal_of(*facts, spec, config_.units)) {
    throw Error(code::kDeviceUnavailable, *refused, "use device: 'cpu', or another GPU");
  }
  kernels_ = std::make_unique<UserKernels>(config_.kernels);
  size_t gathered = 0;
  for (const UnitLayout& unit : config_.units) {
    for (const LinearLayout* linear : {&unit.first, &unit.second}) {
      for (const LinearLayout::Segment& segment : linear->segments) {
        gathered = std::max(gathered, linear_gathered_bytes(segment.matrix, max_padded_rows_));
      }
    }
  }
  gathered_ = reinterpret_cast<__half*>(allocate(gathered, "permuted activations"));

  AttentionArguments attention;
  attention.rows = std::min(max_padded_rows_, kDecodeRows);
  attention.heads = spec.heads;
  attention.kv_heads = spec.kv_heads;
  attention.head_dim = spec.head_dim;
  attention.max_context = config_.max_context;
  attention_partials_ = reinterpret_cast<float*>(allocate(attention_partials_bytes(attention), "partial attention"));
  const size_t attention_counters = cuda::attention_counters(attention);
  attention_counters_ = reinterpret_cast<unsigned*>(allocate(attention_counters * sizeof(unsigned), "counters"));
  check(cudaMemset(attention_counters_, 0, attention_counters * sizeof(unsigned)), "clearing counters");

  hop_counter_ = reinterpret_cast<unsigned*>(allocate(sizeof(unsigned), "a counter"));
  check(cudaMemset(hop_counter_, 0, sizeof(unsigned)), "clearing a counter");
  sample_scratch_ = allocate(sample_scratch_bytes(logit_rows, spec.vocab), "the sampler");

  const std::vector<float> rope = rope_table(spec, 0, config_.max_context);
  rope_ = floats(rope.size(), "the rope table");
  check(cudaMemcpy(rope_, rope.data(), rope.size() * sizeof(float), cudaMemcpyHostToDevice), "copying the rope table");
  // The memsets above are on the legacy stream: wait for it alone, since another model may be capturing a pass.
  check(cudaStreamSynchronize(cudaStreamLegacy), "preparing the executor");
}

CudaExecutor::~CudaExecutor() {
  cudaSetDevice(device_);
  for (const auto& [shape, graph] : graphs_) cudaGraphExecDestroy(graph);
}

Weights CudaExecutor::weights(int unit) const {
  return {device_unit_table_, unit, early_[unit]};
}

void CudaExecutor::set_unit(Stream& stream, int unit, const std::byte* slab, bool permanent) {
  // A kernel that may begin before its predecessor has ended reads the table, too: its entry must be an old one.
  const bool moved = unit_table_[unit] != slab;
  const bool early = permanent && !moved;
  if (!moved && early_[unit] == early) return;
  auto& cuda = static_cast<CudaStream&>(stream);
  cuda.use_device();
  flush(cuda);
  early_[unit] = early;
  if (!moved) return;
  unit_table_[unit] = slab;
  // By a kernel: a copy would queue behind the slabs.
  check(cuda::set_unit(device_unit_table_, unit, slab, cuda.get()), "setting a unit's address");
}

void CudaExecutor::begin(Stream& stream, const Step& step, StepOutput& output) {
  check(cudaSetDevice(device_), "choosing the GPU");
  auto& cuda = static_cast<CudaStream&>(stream);
  if (step.rows < 1 || step.rows > config_.max_rows || step.decode_rows > kDecodeRows ||
      static_cast<int>(step.logits.size()) > std::min(config_.max_logit_rows, kDecodeRows) ||
      step.block_table_stride > block_table_stride_) {
    throw Error(code::kInternal, "a step is larger than its executor", "report this with what led to it");
  }
  step_ = step;
  output_ = &output;
  held_.clear();

  const int prefill = step.rows - step.decode_rows;
  shape_ = {step.decode_rows, prefill, static_cast<int>(step.logits.size()), 0};
  if (prefill == 0) {  // a pass that may be a graph: padded to its bucket
    shape_.decode_rows = row_bucket(step.decode_rows);
    shape_.logit_rows = row_bucket(shape_.logit_rows);
  }
  int longest = 0;
  for (int r = 0; r < step.rows; r++) longest = std::max(longest, step.positions[r] + 1);
  shape_.context = context_bucket(longest, config_.max_context);

  const int padding = shape_.decode_rows - step.decode_rows;
  const auto place = [&](int row) { return row < step.decode_rows ? row : row + padding; };
  for (int r = 0; r < rows(); r++) host_.tokens[r] = host_.positions[r] = -1;
  for (int r = 0; r < rows(); r++) host_.sequences[r] = 0;
  for (int r = 0; r < step.rows; r++) {
    host_.tokens[place(r)] = step.tokens[r];
    host_.positions[place(r)] = step.positions[r];
    host_.sequences[place(r)] = step.sequences[r];
  }
  const int sequences = static_cast<int>(step.block_tables.size()) / std::max(step.block_table_stride, 1);
  for (int s = 0; s < sequences; s++) {
    std::memcpy(host_.block_tables + static_cast<size_t>(s) * block_table_stride_,
                step.block_tables.data() + static_cast<size_t>(s) * step.block_table_stride,
                step.block_table_stride * sizeof(int32_t));
  }
  for (int i = 0; i < shape_.logit_rows; i++) {
    const bool real = i < static_cast<int>(step.logits.size());
    host_.logit_rows[i] = real ? place(step.logits[i].row) : -1;
    host_.requests[i] = real ? step.logits[i] : LogitRequest{};
    host_.requests[i].row = real ? i : -1;
  }
  *host_.hops_before = step.hops_before;
  const auto piece = [&](const auto* first, size_t count) {
    const auto* begin = reinterpret_cast<const std::byte*>(first);
    return HostPieces::Piece{static_cast<uint32_t>(begin - host_.base), static_cast<uint32_t>(count * sizeof(*first))};
  };
  // What is in use of them.
  const HostPieces used{{piece(host_.tokens, rows()), piece(host_.positions, rows()), piece(host_.sequences, rows()),
                         piece(host_.logit_rows, shape_.logit_rows), piece(host_.requests, shape_.logit_rows),
                         piece(host_.hops_before, 1),
                         piece(host_.block_tables, static_cast<size_t>(sequences) * block_table_stride_)}};
  void* mapped = nullptr;
  check(cudaHostGetDevicePointer(&mapped, host_.base, 0), "mapping a step's inputs");
  check(bring(static_cast<const std::byte*>(mapped), device_inputs_.base, used, cuda.get()),
        "bringing a step's inputs");
  cuda.hold(this);
}

void CudaExecutor::hold(Stream&, Held held) {
  held_.push_back(held);
}

void CudaExecutor::send(Stream& stream, const Hop& hop, int, uint64_t ticket) {
  hold(stream, {Operation::send, static_cast<int>(ticket - step_.hops_before), RowKind::decode, hop});
}

void CudaExecutor::receive(Stream& stream, const Hop& hop, int, uint64_t ticket) {
  hold(stream, {Operation::receive, static_cast<int>(ticket - step_.hops_before), RowKind::decode, hop});
}

void CudaExecutor::end(Stream& stream) {
  auto& cuda = static_cast<CudaStream&>(stream);
  cuda.use_device();
  flush(cuda);
  cuda.hold(nullptr);
  if (shape_.logit_rows > 0) {
    const size_t count = step_.logits.size();
    auto* host = reinterpret_cast<int32_t*>(host_outputs_->data());
    const ptrdiff_t logprobs = reinterpret_cast<int32_t*>(device_logprobs_) - device_tokens_;
    check(
        cudaMemcpyAsync(host, device_tokens_, (logprobs + count) * sizeof(int32_t), cudaMemcpyDeviceToHost, cuda.get()),
        "copying a step's tokens");
  }
}

void CudaExecutor::abandon(Stream& stream) {
  held_.clear();
  static_cast<CudaStream&>(stream).hold(nullptr);
}

void CudaExecutor::collect() {
  const size_t count = step_.logits.size();
  const size_t vocab = config_.spec.vocab;
  check(cudaSetDevice(device_), "choosing the GPU");
  const auto* tokens = reinterpret_cast<const int32_t*>(host_outputs_->data());
  const auto* logprobs =
      reinterpret_cast<const float*>(tokens + (reinterpret_cast<int32_t*>(device_logprobs_) - device_tokens_));
  StepOutput& output = *output_;
  output.tokens.assign(tokens, tokens + count);
  output.logprobs.assign(logprobs, logprobs + count);
  output.logits.clear();
  output.top_tokens.clear();
  output.top_logprobs.clear();
  for (size_t i = 0; i < count; i++) {
    const LogitRequest& request = step_.logits[i];
    // The device's sampler knows temperature, top-k, top-p and min-p; rows with the rarer wishes are answered here.
    const bool rare =
        request.adjustments > 0 || request.top_logprobs > 0 || (request.sample && request.typical_p < 1.0f);
    if (!rare && !request.keep_logits) continue;
    row_.resize(vocab);
    check(cudaMemcpy(row_.data(), logits_ + i * vocab, vocab * sizeof(float), cudaMemcpyDeviceToHost),
          "copying logits");
    if (request.keep_logits) output.logits.insert(output.logits.end(), row_.begin(), row_.end());
    if (!rare) continue;
    const size_t top = output.top_tokens.size();
    output.top_tokens.resize(top + request.top_logprobs);
    output.top_logprobs.resize(top + request.top_logprobs);
    const RowAnswer answer = answer_row(request, row_, step_.adjustments, std::span(output.top_tokens).subspan(top),
                                        std::span(output.top_logprobs).subspan(top), row_scratch_);
    output.tokens[i] = answer.token;
    output.logprobs[i] = answer.logprob;
  }
}

void CudaExecutor::flush(CudaStream& stream) {
  if (held_.empty()) return;
  const Range range("pass", rows());
  // A whole pass of decode rows over permanent units is replayed as one graph.
  const bool whole = held_.front().operation == Operation::embed && held_.back().operation == Operation::sample &&
                     held_.size() == config_.units.size() + 2;
  const bool permanent = std::all_of(early_.begin(), early_.end(), [](bool early) { return early; });
  if (whole && permanent && shape_.prefill_rows == 0) {
    for (const Held& held : held_) {
      if (held.operation != Operation::embed && held.operation != Operation::sample) {
        const UnitLayout& layout = config_.units[held.unit];
        for (const LinearLayout* linear : {&layout.first, &layout.second}) {
          for (const auto& segment : linear->segments) counters_.weight_bytes_read += segment.matrix.bytes;
        }
      }
    }
    check(cudaGraphLaunch(graph_of(shape_, stream), stream.get()), "launching a pass");
  } else {
    for (const Held& held : held_) run(held, stream.get());
  }
  held_.clear();
}

cudaGraphExec_t CudaExecutor::graph_of(const Shape& shape, CudaStream& stream) {
  if (const auto it = graphs_.find(shape); it != graphs_.end()) return it->second;
  const ExecutorCounters counted = counters_;
  cudaGraph_t graph = nullptr;
  check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), "capturing a pass");
  try {
    for (const Held& held : held_) run(held, stream.get());
  } catch (...) {
    cudaStreamEndCapture(stream.get(), &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  check(cudaStreamEndCapture(stream.get(), &graph), "capturing a pass");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "preparing a pass");
  counters_ = counted;
  graphs_[shape] = executable;
  return executable;
}

void CudaExecutor::run(const Held& held, cudaStream_t stream) {
  static constexpr const char* kNames[] = {"embed",   "attention", "feed-forward", "head",  "send",
                                           "receive", "hand over", "take over",    "sample"};
  const Range range(kNames[held.operation], held.unit);
  const ModelSpec& spec = config_.spec;
  switch (held.operation) {
    case Operation::embed:
      check(cuda::embed(embedding_->device_address(), config_.embedding.type, device_inputs_.tokens, rows(),
                        spec.hidden, residual_, spec.hidden, stream, false),
            "embed");
      break;
    case Operation::attention:
      run_attention(held.unit, stream);
      break;
    case Operation::feed_forward:
      run_feed_forward(held.unit, held.rows, stream);
      break;
    case Operation::head:
      run_head(held.unit, stream);
      break;
    case Operation::send:
    case Operation::receive:
      run_hop(held, stream);
      break;
    case Operation::hand_over:
    case Operation::take_over:
      run_move(held, stream);
      break;
    case Operation::sample:
      run_sample(stream);
      break;
  }
}

void CudaExecutor::apply(int unit, const LinearLayout& layout, const __half* x, int x_stride, LinearEpilogue epilogue,
                         float* y, int y_stride, __half* act, cudaStream_t stream, const float* norm_x) {
  for (const LinearLayout::Segment& segment : layout.segments) {
    LinearArguments arguments;
    arguments.weights = weights(unit);
    arguments.matrix = segment.matrix;
    arguments.x_stride = x_stride;
    arguments.epilogue = epilogue;
    arguments.y_stride = y_stride;
    arguments.act_stride = padded_width(config_.spec.intermediate);
    arguments.intermediate = config_.spec.intermediate;
    arguments.gathered = gathered_;
    if (norm_x != nullptr) {
      arguments.norm_x = norm_x;
      arguments.norm_offset = config_.units[unit].norm_offset;
      arguments.norm_epsilon = static_cast<float>(config_.spec.rms_epsilon);
    }
    const auto from_row = [&](int row, int count) {
      arguments.rows = count;
      arguments.x = x + static_cast<size_t>(row) * x_stride;
      if (y != nullptr) arguments.y = y + static_cast<size_t>(row) * y_stride + segment.out_begin;
      if (act != nullptr) arguments.act = act + static_cast<size_t>(row) * arguments.act_stride;
    };
    if (shape_.decode_rows > 0) {
      from_row(0, shape_.decode_rows);
      const UserKernel* theirs = kernels_->find(lab::Kind::gemv, segment.matrix.code.type);
      check(theirs ? theirs->launch(arguments, stream) : linear_decode(arguments, stream, true), "a linear (decode)");
      counters_.weight_bytes_read += segment.matrix.bytes;
    }
    if (shape_.prefill_rows > 0) {
      from_row(shape_.decode_rows, shape_.prefill_rows);
      const UserKernel* theirs = kernels_->find(lab::Kind::gemm, segment.matrix.code.type);
      check(theirs ? theirs->launch(arguments, stream) : linear_prefill(arguments, stream, true), "a linear (prefill)");
      counters_.weight_bytes_read += segment.matrix.bytes;
    }
  }
  if (layout.has_bias) {
    check(add_bias(y, y_stride, rows(), layout.n, weights(unit), layout.bias_offset, stream, true), "a bias");
  }
}

void CudaExecutor::apply_normed(int unit, const float* residual, LinearEpilogue epilogue, float* y, int y_stride,
                                __half* act, cudaStream_t stream) {
  const ModelSpec& spec = config_.spec;
  const UnitLayout& layout = config_.units[unit];
  bool fused = shape_.prefill_rows == 0;
  for (const LinearLayout::Segment& segment : layout.first.segments) {
    fused = fused && decode_norms(segment.matrix, shape_.decode_rows) &&
            kernels_->find(lab::Kind::gemv, segment.matrix.code.type) == nullptr;  // theirs take normed rows
  }
  if (!fused) {
    check(rms_norm(residual, spec.hidden, weights(unit), layout.norm_offset, static_cast<float>(spec.rms_epsilon),
                   rows(), spec.hidden, normed_, padded_width(spec.hidden), stream, true),
          "a norm");
  }
  apply(unit, layout.first, normed_, padded_width(spec.hidden), epilogue, y, y_stride, act, stream,
        fused ? residual : nullptr);
}

void CudaExecutor::run_attention(int unit, cudaStream_t stream) {
  const ModelSpec& spec = config_.spec;
  const UnitLayout& layout = config_.units[unit];
  apply_normed(unit, residual_, LinearEpilogue::store, wide_, spec.qkv_width(), nullptr, stream);
  if (spec.qk_norm) {
    check(norm_heads(wide_, spec.qkv_width(), rows(), spec.heads, spec.kv_heads, spec.head_dim, weights(unit),
                     layout.query_norm_offset, layout.key_norm_offset, static_cast<float>(spec.rms_epsilon), stream,
                     true),
          "the norms of heads");
  }

  AttentionArguments arguments;
  arguments.heads = spec.heads;
  arguments.kv_heads = spec.kv_heads;
  arguments.head_dim = spec.head_dim;
  arguments.rope = rope_;
  arguments.block_tables = device_inputs_.block_tables;
  arguments.block_table_stride = block_table_stride_;
  arguments.kv_block_elements = static_cast<int64_t>(kv_block_bytes(spec) / sizeof(__half));
  const int place = config_.kv_layers.empty() ? layout.layer : config_.kv_layers[layout.layer];
  arguments.kv = reinterpret_cast<__half*>(config_.kv) +
                 static_cast<int64_t>(place) * config_.kv_blocks * arguments.kv_block_elements;
  arguments.out_stride = padded_width(spec.query_width());
  arguments.window = spec.sliding_window;
  arguments.max_context = shape_.context;
  arguments.partials = attention_partials_;
  arguments.counters = attention_counters_;
  arguments.early = true;  // a step's inputs are on the device before its first kernel, older keys even longer
  const auto from_row = [&](int row, int count) {
    arguments.rows = count;
    arguments.qkv = wide_ + static_cast<size_t>(row) * spec.qkv_width();
    arguments.positions = device_inputs_.positions + row;
    arguments.sequences = device_inputs_.sequences + row;
    arguments.out = attended_ + static_cast<size_t>(row) * arguments.out_stride;
  };
  if (shape_.decode_rows > 0) {
    from_row(0, shape_.decode_rows);
    check(attention_decode(arguments, stream, true), "attention (decode)");
  }
  if (shape_.prefill_rows > 0) {
    from_row(shape_.decode_rows, shape_.prefill_rows);
    check(attention_prefill(arguments, stream, true), "attention (prefill)");
  }
  apply(unit, layout.second, attended_, padded_width(spec.query_width()), LinearEpilogue::add, residual_, spec.hidden,
        nullptr, stream);
}

void CudaExecutor::run_feed_forward(int unit, RowKind kind, cudaStream_t stream) {
  const ModelSpec& spec = config_.spec;
  const UnitLayout& layout = config_.units[unit];
  // Rows of one kind alone: decode rows come first.
  const Shape shape = shape_;
  const int first = kind == RowKind::prefill ? shape.decode_rows : 0;
  if (kind == RowKind::prefill) shape_.decode_rows = 0;
  if (kind == RowKind::decode) shape_.prefill_rows = 0;
  float* residual = residual_ + static_cast<size_t>(first) * spec.hidden;
  if (layout.interleaved && !layout.first.has_bias) {
    apply_normed(unit, residual, LinearEpilogue::silu_mul, nullptr, 0, activated_, stream);
  } else {
    apply_normed(unit, residual, LinearEpilogue::store, wide_, layout.first.n, nullptr, stream);
    check(silu_mul(wide_, layout.first.n, layout.interleaved, rows(), spec.intermediate, activated_,
                   padded_width(spec.intermediate), stream, true),
          "an activation");
  }
  apply(unit, layout.second, activated_, padded_width(spec.intermediate), LinearEpilogue::add, residual, spec.hidden,
        nullptr, stream);
  shape_ = shape;
}

void CudaExecutor::run_hop(const Held& held, cudaStream_t stream) {
  void* rows = nullptr;
  void* state = nullptr;
  check(cudaHostGetDevicePointer(&rows, held.hop.rows, 0), "mapping rows for the CPU");
  check(cudaHostGetDevicePointer(&state, held.hop.state, 0), "mapping rows for the CPU");
  const int width = config_.spec.hidden;
  const auto offset = static_cast<uint64_t>(held.unit);
  if (held.operation == Operation::send) {
    check(send_rows(residual_, shape_.decode_rows, width, static_cast<float*>(rows), static_cast<HopState*>(state),
                    device_inputs_.hops_before, offset, hop_counter_, stream),
          "sending rows to the CPU");
  } else {
    check(receive_rows(residual_, shape_.decode_rows, width, static_cast<const float*>(rows),
                       static_cast<const HopState*>(state), device_inputs_.hops_before, offset, stream),
          "receiving rows from the CPU");
  }
}

void CudaExecutor::run_move(const Held& held, cudaStream_t stream) {
  auto* there = reinterpret_cast<float*>(held.hop.rows);  // one address on every device, where it is host memory too
  const bool over = held.operation == Operation::hand_over;
  check(move_rows(over ? residual_ : there, rows(), config_.spec.hidden, over ? there : residual_, stream),
        "moving rows between GPUs");
}

size_t CudaExecutor::residual_bytes() const {
  return static_cast<size_t>(max_padded_rows_) * config_.spec.hidden * sizeof(float);
}

void CudaExecutor::run_head(int unit, cudaStream_t stream) {
  const ModelSpec& spec = config_.spec;
  const UnitLayout& layout = config_.units[unit];
  const int hidden = padded_width(spec.hidden);
  if (shape_.logit_rows == 0) return;
  check(rms_norm(residual_, spec.hidden, weights(unit), layout.norm_offset, static_cast<float>(spec.rms_epsilon),
                 shape_.logit_rows, spec.hidden, normed_, hidden, stream, true, device_inputs_.logit_rows),
        "the final norm");
  // Rows that want logits are of one kind here, whatever they were in the layers.
  const Shape shape = shape_;
  shape_.decode_rows = shape.logit_rows;
  shape_.prefill_rows = 0;
  apply(unit, layout.first, normed_, hidden, LinearEpilogue::store, logits_, spec.vocab, nullptr, stream);
  shape_ = shape;
}

void CudaExecutor::run_sample(cudaStream_t stream) {
  if (shape_.logit_rows == 0) return;
  SampleArguments arguments;
  arguments.logits = logits_;
  arguments.vocab = config_.spec.vocab;
  arguments.requests = device_inputs_.requests;
  arguments.count = shape_.logit_rows;
  arguments.tokens = device_tokens_;
  arguments.logprobs = device_logprobs_;
  arguments.scratch = sample_scratch_;
  check(cuda::sample(arguments, stream, true), "sampling");
}

}  // namespace millrace::cuda
