// CPU linears against float64 sums over decode_matrix(), and bit for bit between instruction sets, numbers of rows and
// numbers of threads.
#include "backend/cpu/linear.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "check.h"
#include "core/half.h"
#include "core/memory.h"

using namespace millrace;

namespace {

const char* const kKernels[] = {"avx512vnni", "avx512", "avx2", "plain"};

// Runs the body with every instruction set that this processor has, then restores the choice.
template <typename Body>
void with_each_kernels(Body&& body) {
  const char* before = selected_kernels();
  for (const char* name : kKernels) {
    if (select_kernels(name)) body(name);
  }
  CHECK(select_kernels(before));
}

struct Slab {
  LinearLayout layout;
  HostMemory memory;
  const std::byte* data() const { return memory.data(); }
};

struct MatrixShape {
  int n = 0;
  MatrixCode code;
};

void put16(std::byte* p, size_t index, uint16_t bits) {
  std::memcpy(p + 2 * index, &bits, 2);
}

// Fills every byte of a matrix, padded output features included: these hold values too, which nothing may show.
void fill_matrix(const MatrixLayout& m, std::byte* slab, std::mt19937_64& random, const std::vector<int32_t>& order) {
  std::byte* base = slab + m.offset;
  if (m.code.permuted) std::memcpy(slab + m.permutation_offset, order.data(), order.size() * sizeof(int32_t));
  std::uniform_int_distribution<int> nibble(0, 15), zero(0, 16);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> scale(0.002f, 0.02f);
  for (int block = 0; block < m.n_blocks(); block++) {
    if (m.code.type == WeightType::q4) {
      for (int group = 0; group < m.groups(); group++) {
        std::byte* header = base + m.group_offset(block, group);
        for (int i = 0; i < kTileN; i++) {
          const float s = scale(random);
          put16(header, i, m.code.scale == ScaleType::f16 ? float_to_half(s) : float_to_bfloat16(s));
          if (m.code.zeros) header[128 + i] = static_cast<std::byte>(zero(random));
        }
      }
    }
    for (int slice = 0; slice < m.slices(); slice++) {
      uint8_t q[kTileN * kTileK];
      float w[kTileN * kTileK];
      for (int n = 0; n < kTileN; n++) {
        for (int k = 0; k < kTileK; k++) {
          const int at = n * kTileK + k, stored = slice * kTileK + k;
          const bool padding = m.code.permuted ? order[stored] == kPadding : stored >= m.k;
          if (m.code.type == WeightType::q4) {
            const std::byte* header = base + m.group_offset(block, stored / m.code.group);
            const int zero_point = m.code.zeros ? static_cast<int>(header[128 + tile_index(n)]) : 8;
            q[at] = static_cast<uint8_t>(padding ? std::min(zero_point, 15) : nibble(random));
          } else {
            w[at] = padding ? 0.0f : 0.05f * normal(random);
          }
        }
      }
      if (m.code.type == WeightType::q4) {
        encode_tile(WeightType::q4, q, base + m.tile_offset(block, slice));
      } else if (m.code.type == WeightType::f32) {
        encode_float_tile(w, reinterpret_cast<float*>(base + m.tile_offset(block, slice)));
      } else {
        uint16_t bits[kTileN * kTileK];
        for (int i = 0; i < kTileN * kTileK; i++) {
          bits[i] = m.code.type == WeightType::f16 ? float_to_half(w[i]) : float_to_bfloat16(w[i]);
        }
        encode_float_tile(bits, reinterpret_cast<uint16_t*>(base + m.tile_offset(block, slice)));
      }
    }
  }
}

// A random order of the k input features, with `gap` paddings at the end of each group.
std::vector<int32_t> random_order(int k, int group, int gap, std::mt19937_64& random) {
  std::vector<int32_t> features(k);
  std::iota(features.begin(), features.end(), 0);
  std::shuffle(features.begin(), features.end(), random);
  std::vector<int32_t> order;
  for (int i = 0; i < k;) {
    for (int j = 0; j < group - gap && i < k; j++) order.push_back(features[i++]);
    while (order.size() % group != 0 && (i < k || order.size() % kTileK != 0)) order.push_back(kPadding);
  }
  return order;
}

Slab make_slab(const std::vector<MatrixShape>& shapes, int k, bool bias, uint64_t stream) {
  auto random = check::random(stream);
  Slab slab;
  SlabBuilder builder;
  std::vector<std::vector<int32_t>> orders;
  slab.layout.k = k;
  for (const MatrixShape& shape : shapes) {
    std::vector<int32_t> order;
    int k_stored = static_cast<int>(round_up(k, kTileK));
    if (shape.code.permuted) {
      order = random_order(k, shape.code.group > 0 ? shape.code.group : kTileK, 3, random);
      k_stored = static_cast<int>(order.size());
    }
    slab.layout.segments.push_back({builder.matrix(shape.code, shape.n, k, k_stored), slab.layout.n});
    slab.layout.n += shape.n;
    orders.push_back(std::move(order));
  }
  slab.layout.has_bias = bias;
  if (bias) slab.layout.bias_offset = builder.floats(slab.layout.n);
  slab.memory = HostMemory(builder.bytes(), "a test's slab");
  for (size_t s = 0; s < shapes.size(); s++) {
    fill_matrix(slab.layout.segments[s].matrix, slab.memory.data(), random, orders[s]);
  }
  if (bias) {
    std::normal_distribution<float> normal;
    auto* values = reinterpret_cast<float*>(slab.memory.data() + slab.layout.bias_offset);
    for (int i = 0; i < slab.layout.n; i++) values[i] = normal(random);
  }
  return slab;
}

// Normal activations; with `outliers` some features of 1e3..1e4, as residual streams have.
std::vector<float> activations(int rows, int k, bool outliers, uint64_t stream) {
  auto random = check::random(stream);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(rows) * k);
  for (float& value : x) value = normal(random);
  if (outliers) {
    for (int row = 0; row < rows; row++) {
      for (int i = 0; i < 3; i++) x[static_cast<size_t>(row) * k + random() % k] = (i % 2 == 0 ? 1e4f : -1e3f);
    }
  }
  return x;
}

// x W^T + bias in float64, [rows, n].
std::vector<double> reference(const Slab& slab, const std::vector<float>& x, int rows) {
  const LinearLayout& layout = slab.layout;
  std::vector<double> y(static_cast<size_t>(rows) * layout.n);
  for (const auto& segment : layout.segments) {
    const std::vector<float> w = decode_matrix(segment.matrix, slab.data());
    for (int row = 0; row < rows; row++) {
      for (int n = 0; n < segment.matrix.n; n++) {
        double sum = 0;
        const float* wn = w.data() + static_cast<size_t>(n) * layout.k;
        const float* xr = x.data() + static_cast<size_t>(row) * layout.k;
        for (int k = 0; k < layout.k; k++) sum += static_cast<double>(wn[k]) * xr[k];
        y[static_cast<size_t>(row) * layout.n + segment.out_begin + n] = sum;
      }
    }
  }
  if (layout.has_bias) {
    const auto* bias = reinterpret_cast<const float*>(slab.data() + layout.bias_offset);
    for (size_t i = 0; i < y.size(); i++) y[i] += bias[i % layout.n];
  }
  return y;
}

struct Output {
  int width = 0;
  int64_t stride = 0;
  std::vector<float> y;
  float at(int row, int i) const { return y[row * stride + i]; }
};

constexpr float kUntouched = -12345.0f;

// Runs one call on rows [first, first + rows) of x. The output's stride is wider than its width, and the room between
// must come back untouched.
Output run(const Slab& slab, const std::vector<float>& x, int first, int rows, int threads,
           Epilogue epilogue = Epilogue::store, bool interleaved = false, int intermediate = 0, float initial = 0) {
  const LinearLayout& layout = slab.layout;
  Output out;
  out.width = epilogue == Epilogue::silu_mul ? intermediate : layout.n;
  out.stride = out.width + 7;
  out.y.assign(rows * out.stride, kUntouched);
  for (int row = 0; row < rows; row++) std::fill_n(out.y.begin() + row * out.stride, out.width, initial);
  ThreadPool pool(threads);
  LinearScratch scratch;
  std::atomic<uint64_t> bytes{0};
  LinearCall call;
  call.layout = &layout;
  call.slab = slab.data();
  call.x = x.data() + static_cast<size_t>(first) * layout.k;
  call.x_stride = layout.k;
  call.rows = rows;
  call.y = out.y.data();
  call.y_stride = out.stride;
  call.epilogue = epilogue;
  call.interleaved = interleaved;
  call.intermediate = intermediate;
  linear(call, pool, scratch, bytes);
  size_t expected = 0;
  for (const auto& segment : layout.segments) expected += segment.matrix.bytes;
  CHECK_EQ(bytes.load(), expected);
  for (int row = 0; row < rows; row++) {
    for (int64_t i = out.width; i < out.stride; i++) CHECK_EQ(out.y[row * out.stride + i], kUntouched);
  }
  return out;
}

double relative_error(const Output& out, const std::vector<double>& expected, int row) {
  double difference = 0, norm = 0;
  for (int i = 0; i < out.width; i++) {
    const double e = expected[static_cast<size_t>(row) * out.width + i];
    difference += (out.at(row, i) - e) * (out.at(row, i) - e);
    norm += e * e;
  }
  return std::sqrt(difference / norm);
}

double worst_error(const Output& out, const std::vector<double>& expected, int rows) {
  double worst = 0;
  for (int row = 0; row < rows; row++) {
    const double error = relative_error(out, expected, row);
    if (!(error <= worst)) worst = error;  // NaN too
  }
  return worst;
}

bool same_bits(const Output& a, const Output& b) {
  return a.y.size() == b.y.size() && std::memcmp(a.y.data(), b.y.data(), a.y.size() * sizeof(float)) == 0;
}

MatrixCode q4(int group, bool zeros = false, bool permuted = false, ScaleType scale = ScaleType::f16) {
  return {WeightType::q4, scale, zeros, permuted, group};
}

MatrixCode dense(WeightType type, bool permuted = false) {
  return {type, ScaleType::f16, false, permuted, 0};
}

}  // namespace

TEST(q4_is_close_to_float64) {
  struct Shape {
    int n, k;
  };
  uint64_t stream = 0;
  for (const Shape shape : {Shape{192, 172}, Shape{192, 576}, Shape{576, 576}, Shape{1000, 1024}, Shape{192, 4096}}) {
    const int whole = static_cast<int>(round_up(shape.k, kTileK));
    for (const int group : {16, 32, 64, 128, whole}) {
      for (const bool zeros : {false, true}) {
        stream++;
        const ScaleType scale = stream % 3 == 0 ? ScaleType::bf16 : ScaleType::f16;
        const Slab slab = make_slab({{shape.n, q4(group, zeros, false, scale)}}, shape.k, zeros, stream);
        constexpr int kRows = 3;
        for (const bool outliers : {false, true}) {
          const std::vector<float> x = activations(kRows, shape.k, outliers, stream);
          const Output out = run(slab, x, 0, kRows, 2);
          CHECK(worst_error(out, reference(slab, x, kRows), kRows) < 2e-4);
        }
      }
    }
  }
}

TEST(q4_of_a_full_size_matrix_is_close_to_float64) {
  const Slab slab = make_slab({{4096, q4(128, true)}}, 4096, false, 100);
  const std::vector<float> x = activations(9, 4096, true, 100);
  CHECK(worst_error(run(slab, x, 0, 9, 2), reference(slab, x, 9), 9) < 2e-4);
}

TEST(q4_gathers_through_a_permutation_with_padding) {
  for (const int group : {32, 128}) {
    for (const bool zeros : {false, true}) {
      const Slab slab = make_slab({{200, q4(group, zeros, true)}}, 1000, true, 200 + group + zeros);
      const std::vector<float> x = activations(5, 1000, false, 201);
      const std::vector<double> expected = reference(slab, x, 5);
      with_each_kernels([&](const char*) { CHECK(worst_error(run(slab, x, 0, 5, 2), expected, 5) < 2e-4); });
    }
  }
}

TEST(q4_bits_are_the_same_for_every_instruction_set) {
  uint64_t stream = 300;
  for (const int k : {176, 576, 1024}) {
    for (const int group : {16, 48, 64, 128, k}) {
      for (const bool zeros : {false, true}) {
        stream++;
        const Slab slab = make_slab({{200, q4(group, zeros)}}, k, true, stream);
        const std::vector<float> x = activations(11, k, stream % 2 == 0, stream);
        const char* before = selected_kernels();
        CHECK(select_kernels("plain"));
        const Output plain = run(slab, x, 0, 11, 1);
        CHECK(select_kernels(before));
        with_each_kernels([&](const char*) { CHECK(same_bits(run(slab, x, 0, 11, 1), plain)); });
      }
    }
  }
}

TEST(a_row_has_the_same_bits_in_any_crowd_on_any_threads) {
  const MatrixCode codes[] = {q4(128), q4(32, true), dense(WeightType::f16), dense(WeightType::bf16),
                              dense(WeightType::f32)};
  uint64_t stream = 400;
  for (const MatrixCode& code : codes) {
    const Slab slab = make_slab({{1000, code}, {130, code}}, 576, true, stream++);
    const std::vector<float> x = activations(67, 576, true, stream);
    with_each_kernels([&](const char*) {
      std::vector<Output> alone;
      for (int row = 0; row < 67; row++) alone.push_back(run(slab, x, row, 1, 1));
      for (const int rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 33, 67}) {
        for (const int threads : {1, rows % 3 + 2}) {
          const int first = rows == 67 ? 0 : rows % 5;
          const Output crowd = run(slab, x, first, rows, threads);
          for (int row = 0; row < rows; row++) {
            CHECK(std::memcmp(&crowd.y[row * crowd.stride], alone[first + row].y.data(), crowd.width * 4) == 0);
          }
        }
      }
    });
  }
}

TEST(float_weights_are_close_to_float64) {
  uint64_t stream = 500;
  for (const WeightType type : {WeightType::f16, WeightType::bf16, WeightType::f32}) {
    for (const bool permuted : {false, true}) {
      for (const int k : {64, 172, 576, 1024}) {
        stream++;
        const Slab slab = make_slab({{200, dense(type, permuted)}}, k, true, stream);
        const std::vector<float> x = activations(7, k, false, stream);
        const std::vector<double> expected = reference(slab, x, 7);
        with_each_kernels([&](const char*) {
          const double error = worst_error(run(slab, x, 0, 7, 2), expected, 7);
          CHECK(error < 2e-6);
        });
      }
    }
  }
}

TEST(add_adds_to_what_is_there) {
  for (const MatrixCode& code : {q4(64), dense(WeightType::f16)}) {
    const Slab slab = make_slab({{100, code}}, 128, true, 600);
    const std::vector<float> x = activations(3, 128, false, 600);
    const Output store = run(slab, x, 0, 3, 1);
    const Output add = run(slab, x, 0, 3, 1, Epilogue::add, false, 0, 2.5f);
    for (int row = 0; row < 3; row++) {
      for (int i = 0; i < 100; i++) CHECK_EQ(add.at(row, i), 2.5f + store.at(row, i));
    }
  }
}

TEST(silu_mul_of_interleaved_and_separate_halves) {
  for (const bool q4_weights : {true, false}) {
    const MatrixCode code = q4_weights ? q4(64, true) : dense(WeightType::f16);
    for (const int intermediate : {172, 352}) {
      const int padded = static_cast<int>(round_up(intermediate, 8));
      for (const bool interleaved : {true, false}) {
        const Slab slab = interleaved ? make_slab({{2 * padded, code}}, 192, true, 700)
                                      : make_slab({{intermediate, code}, {intermediate, q4(32)}}, 192, true, 701);
        const std::vector<float> x = activations(19, 192, false, 700);
        const std::vector<double> both = reference(slab, x, 19);
        std::vector<double> expected;
        for (int row = 0; row < 19; row++) {
          for (int i = 0; i < intermediate; i++) {
            const int gate = interleaved ? i / 8 * 16 + i % 8 : i, up = interleaved ? gate + 8 : intermediate + i;
            const double g = both[static_cast<size_t>(row) * slab.layout.n + gate];
            expected.push_back(g / (1 + std::exp(-g)) * both[static_cast<size_t>(row) * slab.layout.n + up]);
          }
        }
        with_each_kernels([&](const char*) {
          const Output out = run(slab, x, 0, 19, 2, Epilogue::silu_mul, interleaved, intermediate);
          CHECK(worst_error(out, expected, 19) < 2e-4);
          const Output alone = run(slab, x, 7, 1, 1, Epilogue::silu_mul, interleaved, intermediate);
          CHECK(std::memcmp(alone.y.data(), &out.y[7 * out.stride], intermediate * 4) == 0);
        });
      }
    }
  }
}

TEST(silu_is_exact_to_a_millionth) {
  // Weights 1 on the diagonal of gate and of up: y[i] = silu(x[i]) * x[i].
  Slab slab = make_slab({{128, dense(WeightType::f32)}}, 64, false, 800);
  const MatrixLayout& m = slab.layout.segments[0].matrix;
  for (int block = 0; block < 2; block++) {
    for (int slice = 0; slice < 4; slice++) {
      float w[kTileN * kTileK] = {};
      for (int n = 0; n < kTileN; n++) {
        const int feature = block * 32 + n / 16 * 8 + n % 8;  // of gate and of up
        if (feature / kTileK == slice) w[n * kTileK + feature % kTileK] = 1.0f;
      }
      encode_float_tile(w, reinterpret_cast<float*>(slab.memory.data() + m.offset + m.tile_offset(block, slice)));
    }
  }
  for (int range = 0; range < 40; range++) {
    std::vector<float> x(64);
    for (int i = 0; i < 64; i++) x[i] = -80.0f + 4.0f * range + i / 16.0f;
    const Output out = run(slab, x, 0, 1, 1, Epilogue::silu_mul, true, 64);
    for (int i = 0; i < 64; i++) {
      const double z = x[i], expected = z / (1 + std::exp(-z)) * z;
      CHECK(std::abs(out.at(0, i) - expected) <= 1e-6 * std::abs(expected));
    }
  }
}

TEST(segments_of_different_codes_and_permutations) {
  const Slab slab =
      make_slab({{100, q4(32, true, true)}, {70, q4(128)}, {64, dense(WeightType::bf16)}, {33, q4(32, false, true)}},
                256, true, 900);
  const std::vector<float> x = activations(20, 256, false, 900);
  const std::vector<double> expected = reference(slab, x, 20);
  with_each_kernels([&](const char*) { CHECK(worst_error(run(slab, x, 0, 20, 3), expected, 20) < 2e-4); });
}

TEST(extreme_activations) {
  const Slab slab = make_slab({{64, q4(64, true)}}, 256, false, 1000);
  with_each_kernels([&](const char*) {
    std::vector<float> x(256, 0.0f);
    for (int i = 0; i < 64; i++) CHECK_EQ(run(slab, x, 0, 1, 1).at(0, i), 0.0f);

    for (const float magnitude : {1e-20f, 1e4f, 1e30f}) {
      x = activations(1, 256, false, 1000);
      for (float& value : x) value *= magnitude;
      CHECK(worst_error(run(slab, x, 0, 1, 1), reference(slab, x, 1), 1) < 2e-4);
    }

    // All of one sign at full scale: the largest sums there are.
    std::fill(x.begin(), x.end(), 3.0e30f);
    CHECK(worst_error(run(slab, x, 0, 1, 1), reference(slab, x, 1), 1) < 2e-4);
  });
}

TEST(the_largest_integer_sums_do_not_overflow) {
  Slab slab = make_slab({{64, q4(128, true)}}, 128, false, 1050);
  const MatrixLayout& m = slab.layout.segments[0].matrix;
  for (const int zero : {0, 16}) {
    for (int slice = 0; slice < m.slices(); slice++) {
      uint8_t q[kTileN * kTileK];
      std::fill(std::begin(q), std::end(q), static_cast<uint8_t>(zero == 0 ? 15 : 0));
      encode_tile(WeightType::q4, q, slab.memory.data() + m.offset + m.tile_offset(0, slice));
    }
    for (int i = 0; i < kTileN; i++) slab.memory.data()[m.offset + 128 + i] = static_cast<std::byte>(zero);
    for (const float sign : {1.0f, -1.0f}) {
      const std::vector<float> x(2 * 128, sign);
      const std::vector<double> expected = reference(slab, x, 2);
      with_each_kernels([&](const char*) {
        CHECK(worst_error(run(slab, x, 0, 1, 1), expected, 1) < 1e-6);
        CHECK(worst_error(run(slab, x, 0, 2, 1), expected, 2) < 1e-6);
      });
    }
  }
}

TEST(not_a_number_and_infinity_are_not_hidden) {
  for (const MatrixCode& code : {q4(64), dense(WeightType::f16)}) {
    const Slab slab = make_slab({{70, code}}, 256, false, 1100);
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()}) {
      std::vector<float> x = activations(3, 256, false, 1100);
      x[256 + 77] = bad;  // in row 1
      with_each_kernels([&](const char*) {
        const Output out = run(slab, x, 0, 3, 1);
        for (int i = 0; i < 70; i++) {
          CHECK(std::isfinite(out.at(0, i)));
          CHECK(!std::isfinite(out.at(1, i)));
          CHECK(std::isfinite(out.at(2, i)));
        }
      });
    }
  }
}

TEST(kernels_are_chosen_by_name) {
  const char* before = selected_kernels();
  CHECK(select_kernels("plain"));
  CHECK_EQ(std::string(selected_kernels()), "plain");
  CHECK(!select_kernels("mmx"));
  CHECK_EQ(std::string(selected_kernels()), "plain");
  CHECK(select_kernels(before));
}
