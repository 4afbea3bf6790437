// Repacking: unit after unit, so that no more than two units' file pages are mapped in at a time; within a unit, jobs
// of a few row blocks in parallel. A row block's 64 output features are contiguous in a row of GPTQ's [k/8, n] words,
// so a job takes several row blocks and walks down k with all of them together: each page it opens is used whole.
#include "checkpoint/repack.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <mutex>

#include "checkpoint/linear_reader.h"
#include "checkpoint/messages.h"
#include "checkpoint/packed.h"
#include "checkpoint/plain.h"
#include "checkpoint/rows.h"
#include "core/error.h"
#include "core/memory.h"

namespace millrace {

namespace {

// Row blocks a job walks together: 16 are a page of GPTQ words; a permuted job holds all k of its row blocks at once
// and takes fewer.
constexpr int kJobBlocks = 16;
constexpr int kPermutedJobBlocks = 4;
constexpr size_t kFloatJobBytes = size_t{2} << 20;
// Slices encoded from one buffer of words, 8 KB.
constexpr int kChunkSlices = 16;
// Slices of a float row block written together, so that their tiles stay in the L2 cache.
constexpr int kFloatChunkSlices = kElementsStep / kTileK;
constexpr uint32_t kZeroWord = 0x88888888u;  // eight times q = 8

// Packs one 64 x 16 tile from words: nibble i of low[n] is feature i of output feature n, of high[n] feature 8 + i.
// The same bytes as encode_q4_tile: a lane's nibbles are the transposed bytes of four words whose nibbles alternate
// between the two halves of 16 output features.
void encode_q4_words(const uint32_t* low, const uint32_t* high, std::byte* tile) {
  constexpr uint32_t kEven = 0x0f0f0f0fu, kOdd = 0xf0f0f0f0u, kBytes = 0x00ff00ffu;
  uint32_t words[4][4][8];  // [t][j][g]
  for (int j = 0; j < 4; j++) {
    for (int g = 0; g < 8; g++) {
      const uint32_t l0 = low[16 * j + g], l1 = low[16 * j + 8 + g];
      const uint32_t h0 = high[16 * j + g], h1 = high[16 * j + 8 + g];
      // Byte t of each: features 2t and 2t + 8, then 2t + 1 and 2t + 9; half 0 in the low nibble, half 1 in the high.
      const uint32_t a = (l0 & kEven) | ((l1 & kEven) << 4);
      const uint32_t b = (h0 & kEven) | ((h1 & kEven) << 4);
      const uint32_t c = ((l0 >> 4) & kEven) | (l1 & kOdd);
      const uint32_t d = ((h0 >> 4) & kEven) | (h1 & kOdd);
      const uint32_t ab0 = (a & kBytes) | ((b & kBytes) << 8), ab1 = ((a >> 8) & kBytes) | (b & ~kBytes);
      const uint32_t cd0 = (c & kBytes) | ((d & kBytes) << 8), cd1 = ((c >> 8) & kBytes) | (d & ~kBytes);
      words[0][j][g] = (ab0 & 0xffffu) | (cd0 << 16);
      words[1][j][g] = (ab1 & 0xffffu) | (cd1 << 16);
      words[2][j][g] = (ab0 >> 16) | (cd0 & 0xffff0000u);
      words[3][j][g] = (ab1 >> 16) | (cd1 & 0xffff0000u);
    }
  }
  uint32_t lanes[8][4][4];  // [g][t][j]
  for (int g = 0; g < 8; g++) {
    for (int t = 0; t < 4; t++) {
      for (int j = 0; j < 4; j++) lanes[g][t][j] = words[t][j][g];
    }
  }
  std::memcpy(tile, lanes, sizeof(lanes));
}

// Nibble i of out[n] is the lowest nibble of from[i][n] >> down[i].
void gather_words(const uint32_t* const from[8], const int down[8], uint32_t out[kTileN]) {
  for (int n = 0; n < kTileN; n++) {
    uint32_t word = 0;
    for (int i = 0; i < 8; i++) word |= ((from[i][n] >> down[i]) & 15u) << (4 * i);
    out[n] = word;
  }
}

// Two neighbouring elements of a float type as one word, and what finds an exponent of all ones in either half:
// (word & mask) + one carries into the sign's bit.
struct PairF16 {
  using Word = uint32_t;
  static constexpr Word kExponents = 0x7c007c00u, kOne = 0x04000400u, kCarry = 0x80008000u;
};
struct PairBf16 {
  using Word = uint32_t;
  static constexpr Word kExponents = 0x7f807f80u, kOne = 0x00800080u, kCarry = 0x80008000u;
};
struct PairF32 {
  using Word = uint64_t;
  static constexpr Word kExponents = 0x7f8000007f800000u, kOne = 0x0080000000800000u, kCarry = 0x8000000080000000u;
};

// Writes so many slices of a row block from 64 rows of k elements (nullptr: zero). Returns false if any is not
// finite. Two rows at a time fill whole cache lines of one tile after the other.
template <typename Pair>
bool encode_float_rows(const std::byte* const rows[kTileN], int k, int slices, std::byte* out) {
  using Word = typename Pair::Word;
  constexpr size_t kRowBytes = 8 * sizeof(Word);  // of one slice
  constexpr size_t kTileBytes = kTileN * kRowBytes;
  static constexpr std::byte kZeros[kRowBytes] = {};
  Word bad = 0;
  for (int pair = 0; pair < 32; pair++) {
    const int j = pair / 8, g = pair % 8;
    const std::byte* source[2] = {rows[16 * j + g], rows[16 * j + 8 + g]};
    std::byte* to = out + static_cast<size_t>(j * 32 + 4 * g) * 4 * sizeof(Word);
    for (int s = 0; s < slices; s++, to += kTileBytes) {
      const std::byte* from[2];
      std::byte tail[2][kRowBytes];
      for (int h = 0; h < 2; h++) {
        from[h] = source[h] == nullptr ? kZeros : source[h] + s * kRowBytes;
        if (source[h] != nullptr && (s + 1) * kTileK > k) {
          std::memset(tail[h], 0, kRowBytes);
          std::memcpy(tail[h], from[h], static_cast<size_t>(k - s * kTileK) * (sizeof(Word) / 2));
          from[h] = tail[h];
        }
      }
      Word line[4][4];
      for (int t = 0; t < 4; t++) {
        line[t][0] = load_element<Word>(from[0], t);
        line[t][1] = load_element<Word>(from[1], t);
        line[t][2] = load_element<Word>(from[0], t + 4);
        line[t][3] = load_element<Word>(from[1], t + 4);
      }
      for (int t = 0; t < 4; t++) {
        for (int i = 0; i < 4; i++) bad |= (line[t][i] & Pair::kExponents) + Pair::kOne;
      }
      std::memcpy(to, line, sizeof(line));
    }
  }
  return (bad & Pair::kCarry) == 0;
}

bool encode_float_rows(WeightType type, const std::byte* const rows[kTileN], int k, int slices, std::byte* out) {
  switch (type) {
    case WeightType::f16:
      return encode_float_rows<PairF16>(rows, k, slices, out);
    case WeightType::bf16:
      return encode_float_rows<PairBf16>(rows, k, slices, out);
    default:
      return encode_float_rows<PairF32>(rows, k, slices, out);
  }
}

template <typename Pair>
bool copy_finite(const std::byte* from, std::byte* to, size_t bytes) {
  using Word = typename Pair::Word;
  Word bad = 0;
  const size_t words = bytes / sizeof(Word);
  for (size_t i = 0; i < words; i++) {
    const Word word = load_element<Word>(from, i);
    bad |= (word & Pair::kExponents) + Pair::kOne;
    std::memcpy(to + i * sizeof(Word), &word, sizeof(Word));
  }
  if (words * sizeof(Word) < bytes) {
    Word word = 0;
    std::memcpy(&word, from + words * sizeof(Word), bytes - words * sizeof(Word));
    bad |= (word & Pair::kExponents) + Pair::kOne;
    std::memcpy(to + words * sizeof(Word), &word, bytes - words * sizeof(Word));
  }
  return (bad & Pair::kCarry) == 0;
}

// One matrix of a slab and the linears it is made of.
struct MatrixTask {
  const MatrixLayout* layout = nullptr;
  std::byte* slab = nullptr;
  std::vector<const LinearReader*> parts;
  bool interleaved = false;

  bool q4() const { return layout->code.type == WeightType::q4; }
  bool grouped() const { return layout->grouped(); }
  // The stored order of input features is not the model's, whoever puts x in it.
  bool permuted() const { return !parts[0]->permutation().empty(); }
  std::byte* data() const { return slab + layout->offset; }

  // Calls body(reader, column, count, row) for the runs of a row block: its rows [row, row + count) are the reader's
  // output features from `column` on. Rows of no run are padding.
  template <typename Body>
  void for_runs(int block, Body&& body) const {
    if (interleaved) {
      for (int row = 0; row < kTileN; row += 8) {
        const int stored = block * kTileN + row;
        const LinearReader* reader = parts[(stored / 8) % 2];
        const int column = stored / 16 * 8;
        if (column < reader->n()) body(*reader, column, std::min(8, reader->n() - column), row);
      }
      return;
    }
    int first = 0;
    for (const LinearReader* reader : parts) {
      const int begin = std::max(first, block * kTileN), end = std::min(first + reader->n(), (block + 1) * kTileN);
      if (begin < end) body(*reader, begin - first, end - begin, begin - block * kTileN);
      first += reader->n();
    }
  }
};

struct Job {
  const MatrixTask* task;
  int begin, end;  // row blocks
};

// A unit with its linears opened, ready to be written.
struct UnitWork {
  const UnitSource* source = nullptr;
  std::vector<const Tensor*> vectors;
  std::vector<LinearReaders> linears;  // the parts of each
};

class Repacker {
 public:
  Repacker(const Checkpoint& checkpoint, const SlabPlan& plan, ThreadPool& pool, const RepackOptions& options)
      : checkpoint_(checkpoint), plan_(plan), pool_(pool), options_(options), panels_(pool.threads()) {}

  RepackReport run(const RepackPlace& place, const RepackDone& done) {
    RepackReport result;
    ErrorSums head{}, layers{};
    for (const TableLayout& table : plan_.tables) total_ += table.bytes;
    for (size_t u = 0; u < plan_.units.size(); u++) {
      total_ += source_bytes(open(u));
      checkpoint_.drop_all();
    }
    UnitWork work = open(0);
    for (size_t t = 0; t < plan_.tables.size(); t++) write_table(t, place(-1), work);
    done(-1);
    for (size_t u = 0; u < plan_.units.size(); u++) {
      UnitWork next;
      if (u + 1 < plan_.units.size()) next = open(u + 1);
      const int unit = static_cast<int>(u);
      write_unit(u, work, place(unit), next);
      done(unit);
      report();
      ErrorSums& sums = plan_.source.program.units[u].head ? head : layers;
      for (const LinearReaders& readers : work.linears) {
        for (const auto& reader : readers) {
          const ErrorSums more = reader->errors();
          for (size_t i = 0; i < sums.size(); i++) sums[i] += more[i];
        }
      }
      work = std::move(next);
    }
    result.head = error_of(head);
    result.layers = error_of(layers);
    return result;
  }

 private:
  // ---- Running jobs.

  // parallel_for whose bodies may throw: the first exception ends the others and comes back to the caller.
  template <typename Body>
  void parallel(int64_t count, Body&& body) {
    pool_.parallel_for(count, [&](int64_t i, int thread) {
      if (failed_.load(std::memory_order_relaxed)) return;
      try {
        poll();
        body(i, thread);
        if (thread == 0) report();  // the caller's own thread: a callback need not be thread-safe
      } catch (...) {
        std::lock_guard lock(mutex_);
        if (!failed_.exchange(true)) failure_ = std::current_exception();
      }
    });
    if (failure_ != nullptr) std::rethrow_exception(failure_);
  }

  // Called every few hundred kilobytes of work.
  void poll() const {
    if (options_.cancelled != nullptr && options_.cancelled->load(std::memory_order_relaxed)) {
      throw Error(code::kAborted, "loading was cancelled", "call load again if that was not meant");
    }
  }

  void count(size_t bytes) { done_.fetch_add(bytes, std::memory_order_relaxed); }
  void report() const {
    if (options_.progress) options_.progress(done_.load(std::memory_order_relaxed), total_);
  }

  // ---- What a unit is made of.

  UnitWork open(size_t u) const {
    const ModelSource& source = plan_.source;
    UnitWork work;
    work.source = &source.units[u];
    for (const VectorSource& vector : work.source->vectors) work.vectors.push_back(&checkpoint_.require(vector.tensor));
    for (size_t i = 0; i < work.source->linears.size(); i++) {
      work.linears.push_back(open_parts(checkpoint_, source, static_cast<int>(u), static_cast<int>(i)));
    }
    return work;
  }

  template <typename Body>
  void for_tensors(const UnitWork& work, Body&& body) const {
    for (const Tensor* vector : work.vectors) body(*vector);
    for (const LinearReaders& readers : work.linears) {
      for (const auto& reader : readers) {
        for (const Tensor* tensor : reader->tensors()) body(*tensor);
      }
    }
    if (work.source == nullptr) return;
    for (const std::vector<LinearSource>& parts : work.source->linears) {
      for (const LinearSource& part : parts) {
        if (!part.bias.empty()) body(checkpoint_.require(part.bias));
      }
    }
  }

  size_t source_bytes(const UnitWork& work) const {
    size_t bytes = 0;
    for_tensors(work, [&](const Tensor& tensor) { bytes += tensor.bytes; });
    return bytes;
  }

  // The matrices of a linear; its segments' parts follow from where they begin. The checkpoint was read once for the
  // plan and again now: had it changed between, the slab's sizes would be wrong.
  void add_tasks(const LinearLayout& linear, const LinearReaders& readers, std::byte* slab,
                 std::vector<MatrixTask>& tasks) const {
    size_t next = 0;
    for (const LinearLayout::Segment& segment : linear.segments) {
      MatrixTask task{&segment.matrix, slab, {}, linear.interleaved};
      int n = 0;
      for (; next < readers.size() && n < segment.matrix.n; next++) {
        const LinearReader& reader = *readers[next];
        MatrixCode code = reader.code();
        code.zeros = code.zeros || segment.matrix.code.zeros;
        if (!(code == segment.matrix.code) || reader.k_stored() != segment.matrix.k_stored ||
            (!task.parts.empty() && reader.permutation() != task.parts[0]->permutation())) {
          changed(reader);
        }
        n += linear.interleaved ? static_cast<int>(round_up(static_cast<size_t>(reader.n()), 8)) : reader.n();
        task.parts.push_back(&reader);
      }
      if (n != segment.matrix.n) changed(*readers[0]);
      tasks.push_back(std::move(task));
    }
    if (next != readers.size()) changed(*readers[next]);
  }

  [[noreturn]] void changed(const LinearReader& reader) const {
    throw_invalid(describe(checkpoint_, *reader.tensors()[0]) + ": the file changed while it was being loaded");
  }

  // ---- Writing.

  void write_unit(size_t u, const UnitWork& work, std::byte* slab, const UnitWork& next) {
    poll();
    const UnitLayout& unit = plan_.units[u];
    std::vector<MatrixTask> tasks;
    for (size_t i = 0; i < unit.linears.size(); i++) add_tasks(unit.linears[i], work.linears[i], slab, tasks);
    fill_gaps(u, tasks, slab);

    for (size_t i = 0; i < unit.vectors.size(); i++) {
      write_vector(*work.vectors[i], work.source->vectors[i], plan_.source.program.units[u].vectors[i],
                   slab + unit.vectors[i]);
    }
    for (size_t i = 0; i < unit.linears.size(); i++) {
      write_bias(unit.linears[i], work.linears[i], work.source->linears[i], slab);
    }

    std::vector<Job> jobs;
    for (const MatrixTask& task : tasks) {
      const MatrixLayout& m = *task.layout;
      if (m.code.permuted) {
        std::memcpy(slab + m.permutation_offset, task.parts[0]->permutation().data(),
                    static_cast<size_t>(m.k_stored) * sizeof(int32_t));
      }
      int most = task.permuted() ? kPermutedJobBlocks : kJobBlocks;
      if (!task.grouped())
        most = static_cast<int>(std::max<size_t>(1, kFloatJobBytes / std::max<size_t>(1, m.row_block_bytes())));
      const int fair = m.n_blocks() / (4 * pool_.threads());
      const int step = std::clamp(fair, 1, std::max(1, most));
      for (int b = 0; b < m.n_blocks(); b += step) jobs.push_back({&task, b, std::min(b + step, m.n_blocks())});
    }
    // The first job asks for the next unit's pages, so that the disk works while the processor does.
    parallel(static_cast<int64_t>(jobs.size()) + 1, [&](int64_t i, int thread) {
      if (i == 0) {
        for_tensors(next, [&](const Tensor& tensor) { checkpoint_.prefetch(tensor); });
      } else {
        write_blocks(jobs[i - 1], thread);
      }
    });
    checkpoint_.drop_all();
  }

  void write_vector(const Tensor& tensor, const VectorSource& source, int width, std::byte* to) {
    auto* floats = reinterpret_cast<float*>(to);
    read_floats(checkpoint_, tensor, floats);
    if (source.heads.head_dim != 0) {
      LinearSource order;
      order.heads = source.heads;
      const std::vector<float> stored(floats, floats + width);
      for (int i = 0; i < width; i++) floats[i] = stored[static_cast<size_t>(row_of(order, i))];
    }
    if (source.plus_one) {
      for (int i = 0; i < width; i++) floats[i] += 1.0f;
    }
    if (source.negated) {
      for (int i = 0; i < width; i++) floats[i] = -floats[i];
    }
    if (source.exponential) {
      for (int i = 0; i < width; i++) floats[i] = static_cast<float>(std::exp(static_cast<double>(floats[i])));
    }
    count(tensor.bytes);
  }

  // Zero between the sections: every byte of a slab is defined, so equal checkpoints give equal slabs.
  void fill_gaps(size_t u, const std::vector<MatrixTask>& tasks, std::byte* slab) const {
    const UnitLayout& unit = plan_.units[u];
    std::vector<std::pair<size_t, size_t>> sections;  // begin, end
    const auto floats = [&](size_t offset, int count) {
      sections.emplace_back(offset, offset + static_cast<size_t>(count) * sizeof(float));
    };
    for (size_t i = 0; i < unit.vectors.size(); i++) {
      floats(unit.vectors[i], plan_.source.program.units[u].vectors[i]);
    }
    for (const LinearLayout& linear : unit.linears) {
      if (linear.has_bias) floats(linear.bias_offset, linear.n);
    }
    for (const MatrixTask& task : tasks) {
      const MatrixLayout& m = *task.layout;
      sections.emplace_back(m.offset, m.offset + m.bytes);
      if (m.code.permuted) {
        sections.emplace_back(m.permutation_offset, m.permutation_offset + static_cast<size_t>(m.k_stored) * 4);
      }
    }
    std::sort(sections.begin(), sections.end());
    size_t at = 0;
    for (const auto& [begin, end] : sections) {
      if (begin > at) std::memset(slab + at, 0, begin - at);
      at = end;
    }
    std::memset(slab + at, 0, unit.bytes - at);
  }

  void write_bias(const LinearLayout& linear, const LinearReaders& readers, const std::vector<LinearSource>& sources,
                  std::byte* slab) {
    if (!linear.has_bias) return;
    std::vector<float> bias(static_cast<size_t>(linear.n), 0.0f), values;
    size_t first = 0;
    for (size_t i = 0; i < sources.size(); i++) {
      const size_t n = static_cast<size_t>(readers[i]->n());
      if (!sources[i].bias.empty()) {
        const Tensor& tensor = checkpoint_.require(sources[i].bias);
        values.resize(static_cast<size_t>(tensor.shape[0]));
        read_floats(checkpoint_, tensor, values.data());
        for (size_t f = 0; f < n; f++) {
          const size_t from = static_cast<size_t>(row_of(sources[i], static_cast<int>(f)));
          bias[linear.interleaved ? 16 * (f / 8) + 8 * i + f % 8 : first + f] = values[from];
        }
        count(tensor.bytes);
      }
      first += n;
    }
    std::memcpy(slab + linear.bias_offset, bias.data(), bias.size() * sizeof(float));
  }

  void write_blocks(const Job& job, int thread) {
    const MatrixTask& task = *job.task;
    if (!task.grouped()) {
      write_float_blocks(task, job.begin, job.end, panels_[thread]);
    } else if (!task.q4()) {
      write_level_blocks(task, job.begin, job.end, panels_[thread]);
    } else if (task.permuted()) {
      write_permuted_blocks(task, job.begin, job.end, panels_[thread]);
    } else {
      write_q4_blocks(task, job.begin, job.end);
    }
    // What the job covered of each part: output features [low, high), counted by their share of the part's bytes.
    for (const LinearReader* part : task.parts) {
      int64_t low = part->n(), high = 0;
      for (int block = job.begin; block < job.end; block++) {
        task.for_runs(block, [&](const LinearReader& reader, int column, int n, int) {
          if (&reader != part) return;
          low = std::min<int64_t>(low, column);
          high = std::max<int64_t>(high, column + n);
        });
      }
      if (low >= high) continue;
      for (const Tensor* tensor : part->tensors()) {
        const size_t n = static_cast<size_t>(part->n());
        count(tensor->bytes * static_cast<size_t>(high) / n - tensor->bytes * static_cast<size_t>(low) / n);
      }
      if (part->by_rows()) checkpoint_.drop(*part->tensors()[0], part->first_row() + low, part->first_row() + high);
    }
  }

  void write_float_blocks(const MatrixTask& task, int begin, int end, std::vector<uint32_t>& panel) const {
    const MatrixLayout& m = *task.layout;
    panel.resize(std::max(panel.size(), static_cast<size_t>(kTileN) * kElementsStep));
    const auto scratch = [&](int row) {
      return reinterpret_cast<std::byte*>(panel.data() + static_cast<size_t>(row) * kElementsStep);
    };
    for (int block = begin; block < end; block++) {
      bool finite = true;
      poll();
      for (int s = 0; s < m.slices(); s += kFloatChunkSlices) {
        const int first = s * kTileK, last = std::min(first + kElementsStep, m.k);
        const std::byte* rows[kTileN] = {};
        task.for_runs(block, [&](const LinearReader& reader, int column, int n, int row) {
          for (int i = row; i < row + n; i++) rows[i] = reader.elements(column + i - row, first, last, scratch(i));
        });
        finite &= encode_float_rows(m.code.type, rows, last - first, std::min(kFloatChunkSlices, m.slices() - s),
                                    task.data() + m.tile_offset(block, s));
      }
      if (finite) continue;
      task.for_runs(block, [&](const LinearReader& reader, int column, int n, int) {
        reader.refuse_not_finite(column, column + n);
      });
    }
  }

  // What a stored group has; zeros[n] also for the caller: the level whose weight is zero.
  static void write_group_header(const MatrixTask& task, int block, int group, uint8_t zeros[kTileN]) {
    const MatrixLayout& m = *task.layout;
    GroupField fields[kTileN];
    for (GroupField& field : fields) field.offset = static_cast<uint16_t>(m.code.traits().zero);
    task.for_runs(block, [&](const LinearReader& reader, int column, int n, int row) {
      reader.read_group(group, column, n, fields + row);
    });
    encode_group(m.code, fields, task.data() + m.group_offset(block, group));
    const bool varies = m.code.zeros;
    for (int n = 0; n < kTileN; n++) {
      zeros[n] = static_cast<uint8_t>(varies ? fields[n].offset : m.code.traits().zero);
    }
  }

  static void write_span_header(const MatrixTask& task, int block, int span) {
    const MatrixLayout& m = *task.layout;
    SpanField fields[kTileN];
    task.for_runs(block, [&](const LinearReader& reader, int column, int n, int row) {
      reader.read_span(span, column, n, fields + row);
    });
    encode_span(m.code, fields, task.data() + m.span_offset(block, span));
  }

  // Levels of slices [begin, end) in the readers' order: what is not there has the level of each output feature's zero.
  static void read_levels(const MatrixTask& task, int block, int begin, int end, const uint8_t zeros[kTileN],
                          uint8_t* levels) {
    const int k = task.layout->k;
    int covered = 0;
    task.for_runs(block, [&](const LinearReader&, int, int n, int) { covered += n; });
    if (covered < kTileN || end * kTileK > k) {
      for (int i = 0; i < (end - begin) * kTileN; i++) std::memset(levels + i * kTileK, zeros[i % kTileN], kTileK);
    }
    task.for_runs(block, [&](const LinearReader& reader, int column, int n, int row) {
      reader.read_levels(begin, end, column, n, levels + static_cast<size_t>(row) * kTileK);
    });
  }

  // Codes that are read as a byte a weight.
  void write_level_blocks(const MatrixTask& task, int begin, int end, std::vector<uint32_t>& panel) const {
    const MatrixLayout& m = *task.layout;
    constexpr size_t kTile = static_cast<size_t>(kTileN) * kTileK;
    const int per_group = m.code.group / kTileK, model_slices = (m.k + kTileK - 1) / kTileK;
    const int32_t* permutation = task.permuted() ? task.parts[0]->permutation().data() : nullptr;
    const size_t held = static_cast<size_t>(permutation != nullptr ? model_slices : per_group);
    panel.resize(std::max(panel.size(), held * kTile / sizeof(uint32_t)));
    auto* levels = reinterpret_cast<uint8_t*>(panel.data());
    for (int block = begin; block < end; block++) {
      uint8_t zeros[kTileN];
      std::fill(std::begin(zeros), std::end(zeros), static_cast<uint8_t>(m.code.traits().zero));
      if (permutation != nullptr) read_levels(task, block, 0, model_slices, zeros, levels);
      for (int group = 0; group < m.groups(); group++) {
        if (group % 8 == 0) poll();
        if (m.span_bytes() > 0 && group * m.code.group % m.span() == 0) {
          write_span_header(task, block, group * m.code.group / m.span());
        }
        write_group_header(task, block, group, zeros);
        const int first = group * per_group, last = std::min(first + per_group, m.slices());
        if (permutation == nullptr) read_levels(task, block, first, last, zeros, levels);
        for (int s = first; s < last; s++) {
          const uint8_t* tile = levels + static_cast<size_t>(s - first) * kTile;
          uint8_t gathered[kTile];
          if (permutation != nullptr) {
            gather_levels(levels, permutation + static_cast<ptrdiff_t>(s) * kTileK, zeros, gathered);
            tile = gathered;
          }
          encode_tile(m.code.type, tile, task.data() + m.tile_offset(block, s));
        }
      }
    }
  }

  // A tile of the stored order from tiles of the model's.
  static void gather_levels(const uint8_t* levels, const int32_t* features, const uint8_t* zeros, uint8_t* tile) {
    for (int i = 0; i < kTileK; i++) {
      const int32_t feature = features[i];
      const uint8_t* from = levels + (static_cast<size_t>(feature) / kTileK * kTileN) * kTileK + feature % kTileK;
      for (int n = 0; n < kTileN; n++) {
        tile[n * kTileK + i] = feature == kPadding ? zeros[n] : from[static_cast<size_t>(n) * kTileK];
      }
    }
  }

  // Words [begin, end) of each of the row block's 64 output features in the readers' order; padding is q = 8.
  static void read_words(const MatrixTask& task, int block, int begin, int end, uint32_t* words) {
    int covered = 0;
    task.for_runs(block, [&](const LinearReader&, int, int n, int) { covered += n; });
    if (covered < kTileN) std::fill(words, words + static_cast<size_t>(end - begin) * kTileN, kZeroWord);
    task.for_runs(block, [&](const LinearReader& reader, int column, int n, int row) {
      reader.read_words(begin, end, column, n, words + row);
    });
  }

  void write_q4_blocks(const MatrixTask& task, int begin, int end) const {
    const MatrixLayout& m = *task.layout;
    const int per_group = m.code.group / kTileK;
    const int word_rows = m.k / 8;
    std::vector<uint8_t> zeros(static_cast<size_t>(end - begin) * kTileN);
    uint32_t words[2 * kChunkSlices * kTileN];
    for (int group = 0; group < m.groups(); group++) {
      const int last = std::min((group + 1) * per_group, m.slices());
      for (int s = group * per_group; s < last; s += kChunkSlices) {
        const int stop = std::min(s + kChunkSlices, last);
        poll();
        for (int block = begin; block < end; block++) {
          uint8_t* zero = zeros.data() + static_cast<size_t>(block - begin) * kTileN;
          if (s == group * per_group) write_group_header(task, block, group, zero);
          read_words(task, block, 2 * s, std::min(2 * stop, word_rows), words);
          if (2 * stop > word_rows) {  // k is an odd multiple of 8: the last half tile is padding
            for (int n = 0; n < kTileN; n++) words[(2 * (stop - s) - 1) * kTileN + n] = zero[n] * 0x11111111u;
          }
          std::byte* out = task.data() + m.tile_offset(block, s);
          for (int i = 0; i < stop - s; i++) {
            encode_q4_words(words + 2 * i * kTileN, words + (2 * i + 1) * kTileN, out + i * kQ4TileBytes);
          }
        }
      }
    }
  }

  // The gather reads each word eight times, from all over k: the row blocks' words are brought together first.
  void write_permuted_blocks(const MatrixTask& task, int begin, int end, std::vector<uint32_t>& panel) const {
    const MatrixLayout& m = *task.layout;
    const int per_group = m.code.group / kTileK;
    const int word_rows = m.k / 8;
    const size_t block_words = static_cast<size_t>(word_rows) * kTileN;
    panel.resize(std::max(panel.size(), block_words * static_cast<size_t>(end - begin)));
    for (int r = 0; r < word_rows; r += 2 * kChunkSlices) {
      const int stop = std::min(r + 2 * kChunkSlices, word_rows);
      for (int block = begin; block < end; block++) {
        read_words(task, block, r, stop,
                   panel.data() + (block - begin) * block_words + static_cast<size_t>(r) * kTileN);
      }
    }
    const int32_t* permutation = task.parts[0]->permutation().data();
    for (int block = begin; block < end; block++) {
      const uint32_t* source = panel.data() + (block - begin) * block_words;
      uint8_t zeros[kTileN];
      uint32_t padding[kTileN];  // what a stored input feature that is padding reads: q = zero
      for (int s = 0; s < m.slices(); s++) {
        if (s % per_group == 0) {
          poll();
          write_group_header(task, block, s / per_group, zeros);
          std::copy(zeros, zeros + kTileN, padding);
        }
        uint32_t words[2][kTileN];
        for (int half = 0; half < 2; half++) {
          const uint32_t* from[8];
          int down[8];
          for (int i = 0; i < 8; i++) {
            const int32_t feature = permutation[s * kTileK + half * 8 + i];
            from[i] = feature == kPadding ? padding : source + static_cast<size_t>(feature / 8) * kTileN;
            down[i] = feature == kPadding ? 0 : 4 * (feature % 8);
          }
          gather_words(from, down, words[half]);
        }
        encode_q4_words(words[0], words[1], task.data() + m.tile_offset(block, s));
      }
    }
  }

  void write_table(size_t t, std::byte* to, const UnitWork& next) {
    const Tensor& tensor = checkpoint_.require(plan_.source.tables[t]);
    const TableLayout& table = plan_.tables[t];
    to += table.offset;
    const int64_t rows = tensor.shape[0];
    const size_t row_bytes = table.bytes / static_cast<size_t>(rows);
    const int64_t step = static_cast<int64_t>(std::max<size_t>(1, kFloatJobBytes / row_bytes));
    const std::byte* from = checkpoint_.data(tensor);
    parallel((rows + step - 1) / step + 1, [&](int64_t i, int) {
      if (i == 0) {
        for_tensors(next, [&](const Tensor& t) { checkpoint_.prefetch(t); });
        return;
      }
      const int64_t begin = (i - 1) * step, end = std::min(rows, begin + step);
      const size_t offset = static_cast<size_t>(begin) * row_bytes,
                   bytes = static_cast<size_t>(end - begin) * row_bytes;
      count(bytes);
      if (is_packed(tensor.dtype)) {
        read_packed_rows(checkpoint_, tensor, begin, end, reinterpret_cast<float*>(to + offset));
        checkpoint_.drop(tensor, begin, end);
        return;
      }
      bool finite;
      switch (table.type) {
        case WeightType::f16:
          finite = copy_finite<PairF16>(from + offset, to + offset, bytes);
          break;
        case WeightType::bf16:
          finite = copy_finite<PairBf16>(from + offset, to + offset, bytes);
          break;
        default:
          finite = copy_finite<PairF32>(from + offset, to + offset, bytes);
      }
      if (!finite) refuse_not_finite_rows(checkpoint_, tensor, begin, end);
      checkpoint_.drop(tensor, begin, end);
    });
  }

  const Checkpoint& checkpoint_;
  const SlabPlan& plan_;
  ThreadPool& pool_;
  const RepackOptions& options_;
  std::vector<std::vector<uint32_t>> panels_;  // one a thread
  size_t total_ = 0;
  std::atomic<size_t> done_{0};
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::exception_ptr failure_;
};

}  // namespace

RepackReport repack(const Checkpoint& checkpoint, const SlabPlan& plan, const std::vector<std::byte*>& slabs,
                    std::byte* embedding, ThreadPool& pool, const RepackOptions& options) {
  if (slabs.size() != plan.units.size()) {
    throw Error(code::kInternal, format("%zu slabs for %zu units", slabs.size(), plan.units.size()),
                "report this as a bug");
  }
  const auto place = [&](int unit) { return unit < 0 ? embedding : slabs[static_cast<size_t>(unit)]; };
  return repack(
      checkpoint, plan, place, [](int) {}, pool, options);
}

RepackReport repack(const Checkpoint& checkpoint, const SlabPlan& plan, const RepackPlace& place,
                    const RepackDone& done, ThreadPool& pool, const RepackOptions& options) {
  return Repacker(checkpoint, plan, pool, options).run(place, done);
}

}  // namespace millrace
