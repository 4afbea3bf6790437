#include "cuda/user_kernel.h"

#include <cuda.h>

#include "core/error.h"
#include "cuda/check.h"
#include "cuda/runtime/stream.h"
#include "lab/millrace_kernel.h"

namespace millrace::cuda {

static_assert(MILLRACE_SLAB_LAYOUT_VERSION == kSlabLayoutVersion && MILLRACE_TILE_N == kTileN &&
              MILLRACE_TILE_K == kTileK && MILLRACE_Q4_TILE_BYTES == kQ4TileBytes && MILLRACE_PADDING == kPadding);
static_assert(MILLRACE_Q4 == static_cast<int>(WeightType::q4) && MILLRACE_F16 == static_cast<int>(WeightType::f16) &&
              MILLRACE_BF16 == static_cast<int>(WeightType::bf16) &&
              MILLRACE_F32 == static_cast<int>(WeightType::f32) && MILLRACE_Q8 == static_cast<int>(WeightType::q8) &&
              MILLRACE_Q4_1 == static_cast<int>(WeightType::q4_1) &&
              MILLRACE_Q2_K == static_cast<int>(WeightType::q2_k) &&
              MILLRACE_Q6_K == static_cast<int>(WeightType::q6_k) &&
              MILLRACE_MXFP4 == static_cast<int>(WeightType::mxfp4) &&
              MILLRACE_FP8 == static_cast<int>(WeightType::last));
static_assert(MILLRACE_SCALE_F16 == static_cast<int>(ScaleType::f16) &&
              MILLRACE_SCALE_BF16 == static_cast<int>(ScaleType::bf16));
static_assert(MILLRACE_STORE == static_cast<int>(LinearEpilogue::store) &&
              MILLRACE_ADD == static_cast<int>(LinearEpilogue::add) &&
              MILLRACE_SILU_MUL == static_cast<int>(LinearEpilogue::silu_mul));

struct UserKernel::Driver {
  decltype(&cuModuleLoadDataEx) load;
  decltype(&cuModuleUnload) unload;
  decltype(&cuModuleGetFunction) get_function;
  decltype(&cuModuleGetGlobal) get_global;
  decltype(&cuFuncGetAttribute) get_attribute;
  decltype(&cuFuncSetAttribute) set_attribute;
  decltype(&cuLaunchKernelEx) launch;
  decltype(&cuGetErrorString) error_string;
};

namespace {

template <typename Function>
void find(const char* name, Function& function) {
  void* address = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  const cudaError_t status = cudaGetDriverEntryPointByVersion(name, &address, 12000, cudaEnableDefault, &found);
#else
  const cudaError_t status = cudaGetDriverEntryPoint(name, &address, cudaEnableDefault, &found);
#endif
  check(status, "finding the driver's functions");
  if (found != cudaDriverEntryPointSuccess || address == nullptr) {
    throw Error(code::kDeviceUnavailable, format("the NVIDIA driver has no %s", name), "install a newer driver");
  }
  function = reinterpret_cast<Function>(address);
}

// What the driver says of an image is the experimenter's to mend; a lost device is not.
void check_image(CUresult result, const char* (*text)(CUresult), const std::string& what, const std::string& log) {
  if (result == CUDA_SUCCESS) return;
  switch (result) {
    case CUDA_ERROR_INVALID_IMAGE:
    case CUDA_ERROR_INVALID_PTX:
    case CUDA_ERROR_NO_BINARY_FOR_GPU:
    case CUDA_ERROR_UNSUPPORTED_PTX_VERSION:
    case CUDA_ERROR_JIT_COMPILER_NOT_FOUND:
    case CUDA_ERROR_NOT_FOUND:
    case CUDA_ERROR_INVALID_VALUE:
    case CUDA_ERROR_INVALID_SOURCE:
    case CUDA_ERROR_SHARED_OBJECT_INIT_FAILED:
      throw Error(code::kInvalidArgument, what + ": " + text(result) + (log.empty() ? "" : ": " + log),
                  "compile it for this GPU, for example with nvcc --cubin -arch=native, and see docs/KERNELS.md");
    case CUDA_ERROR_OUT_OF_MEMORY:
      throw Error(code::kOutOfMemory, what + ": the GPU's memory does not suffice", "free GPU memory");
    default:
      throw Error(code::kGpuLost, what + ": " + text(result),
                  "restart the process: a fault on the GPU ends its use there; models on the CPU go on");
  }
}

}  // namespace

const UserKernel::Driver& UserKernel::driver() {
  static const Driver found = [] {
    Driver d{};
    find("cuModuleLoadDataEx", d.load);
    find("cuModuleUnload", d.unload);
    find("cuModuleGetFunction", d.get_function);
    find("cuModuleGetGlobal", d.get_global);
    find("cuFuncGetAttribute", d.get_attribute);
    find("cuFuncSetAttribute", d.set_attribute);
    find("cuLaunchKernelEx", d.launch);
    find("cuGetErrorString", d.error_string);
    return d;
  }();
  return found;
}

UserKernel::UserKernel(const KernelImage& image) : operation_(&lab::find_operation(image.operation)) {
  if (!operation_->replaceable) {
    throw Error(code::kInvalidArgument, "no kernel of one's own can take the place of " + image.operation,
                "linears, experts, route and combine can be replaced: operations() says which");
  }
  const Driver& driver = UserKernel::driver();
  check(cudaFree(nullptr), "starting the GPU");
  const auto text = [](CUresult result) {
    const char* out = nullptr;
    UserKernel::driver().error_string(result, &out);
    return out == nullptr ? "unknown error" : out;
  };
  std::vector<std::byte> bytes = image.bytes;
  bytes.push_back(std::byte{0});  // PTX is a string
  char log[2048] = "";
  CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  void* values[] = {log, reinterpret_cast<void*>(sizeof log)};
  CUmodule module = nullptr;
  check_image(driver.load(&module, bytes.data(), 2, options, values), text, "loading " + image.source, log);
  module_ = module;
  try {
    CUfunction function = nullptr;
    check_image(driver.get_function(&function, module, image.operation.c_str()), text,
                image.source + " has no kernel extern \"C\" " + image.operation, "");
    function_ = function;
    const auto attribute = [&](CUfunction_attribute which) {
      int value = 0;
      check_image(driver.get_attribute(&value, which, function), text, "asking about " + image.source, "");
      return value;
    };
    millrace_launch launch{};
    launch.threads = 128;
    launch.features_per_block = kTileN;
    launch.rows_per_block = 1;
    CUdeviceptr address = 0;
    size_t size = 0;
    if (driver.get_global(&address, &size, module, (image.operation + "_launch").c_str()) == CUDA_SUCCESS) {
      if (size != sizeof launch) {
        throw Error(code::kInvalidArgument,
                    format("%s: %s_launch has %zu bytes, expected %zu", image.source.c_str(), image.operation.c_str(),
                           size, sizeof launch),
                    "declare it as struct millrace_launch of this version's millrace_kernel.h");
      }
      int device = 0;
      check(cudaGetDevice(&device), "asking about the GPU");
      CudaStream stream(device);
      stream.copy(reinterpret_cast<std::byte*>(&launch), reinterpret_cast<const std::byte*>(address), sizeof launch);
      stream.synchronize();
    }
    facts_.registers = attribute(CU_FUNC_ATTRIBUTE_NUM_REGS);
    facts_.shared_bytes = attribute(CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES);
    facts_.local_bytes = attribute(CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES);
    facts_.threads = launch.threads;
    const int most = attribute(CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
    if (launch.threads < 1 || launch.threads > most || launch.features_per_block < 1 || launch.rows_per_block < 0 ||
        launch.shared_bytes < 0) {
      throw Error(code::kInvalidArgument,
                  format("%s: a launch of %d threads, %d features and %d rows a block, %d bytes of shared memory; the "
                         "kernel takes "
                         "1 to %d threads, at least 1 feature and no negative numbers",
                         image.source.c_str(), launch.threads, launch.features_per_block, launch.rows_per_block,
                         launch.shared_bytes, most),
                  "mend " + image.operation + "_launch");
    }
    if (launch.shared_bytes > 0) {
      check_image(driver.set_attribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, launch.shared_bytes),
                  text, image.source + " asks for more shared memory than there is", "");
    }
    features_per_block_ = launch.features_per_block;
    rows_per_block_ = launch.rows_per_block;
    shared_bytes_ = launch.shared_bytes;
    int device = 0, major = 0;
    check(cudaGetDevice(&device), "asking about the GPU");
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "asking about the GPU");
    programmatic_ = launch.programmatic != 0 && major >= 9;  // older GPUs know no dependent launches
  } catch (...) {
    driver.unload(module);
    throw;
  }
}

UserKernel::~UserKernel() {
  driver().unload(static_cast<CUmodule>(module_));
}

int UserKernel::row_blocks(int rows) const {
  const int each = rows_per_block_ == 0 ? rows : rows_per_block_;
  return (rows + each - 1) / each;
}

cudaError_t UserKernel::launch(void* argument, int grid_x, int grid_y, cudaStream_t stream) const {
  CUlaunchAttribute attribute{};
  attribute.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
  attribute.value.programmaticStreamSerializationAllowed = 1;
  CUlaunchConfig config{};
  config.gridDimX = grid_x;
  config.gridDimY = grid_y;
  config.gridDimZ = 1;
  config.blockDimX = facts_.threads;
  config.blockDimY = config.blockDimZ = 1;
  config.sharedMemBytes = shared_bytes_;
  config.hStream = stream;
  config.attrs = &attribute;
  config.numAttrs = programmatic_ ? 1 : 0;
  void* parameters[] = {argument};
  const CUresult result = driver().launch(&config, static_cast<CUfunction>(function_), parameters, nullptr);
  // The codes of the driver and of the runtime are the same numbers.
  return static_cast<cudaError_t>(result);
}

namespace {

// What the arguments of all that have a matrix say of it.
template <typename Argument>
void describe(const MatrixLayout& m, Argument& argument) {
  argument.matrix_offset = m.offset;
  argument.permutation_offset = m.permutation_offset;
  argument.n = m.n;
  argument.k = m.k;
  argument.k_stored = m.k_stored;
  argument.group = m.code.group;
  argument.weight_type = static_cast<int32_t>(m.code.type);
  argument.scale_type = static_cast<int32_t>(m.code.scale);
  argument.zeros = m.code.zeros ? 1 : 0;
  argument.permuted = m.code.permuted ? 1 : 0;
}

const unsigned char* const* units_of(const Weights& weights) {
  return reinterpret_cast<const unsigned char* const*>(weights.units);
}

}  // namespace

cudaError_t UserKernel::launch(const LinearArguments& a, cudaStream_t stream) const {
  if (a.rows < 1 || a.norm_x != nullptr || a.matrix.code.type != operation_->weights) return cudaErrorInvalidValue;
  millrace_linear argument{};
  describe(a.matrix, argument);
  argument.units = units_of(a.weights);
  argument.x = a.x;
  argument.y = a.y;
  argument.act = a.act;
  argument.unit = a.weights.unit;
  argument.rows = a.rows;
  argument.epilogue = static_cast<int32_t>(a.epilogue);
  argument.x_stride = a.x_stride;
  argument.y_stride = a.y_stride;
  argument.act_stride = a.act_stride;
  argument.intermediate = a.intermediate;
  return launch(&argument, (a.matrix.n + features_per_block_ - 1) / features_per_block_, row_blocks(a.rows), stream);
}

cudaError_t UserKernel::launch(const ExpertArguments& a, cudaStream_t stream) const {
  if (a.rows < 1 || a.combine != nullptr || a.matrix.code.type != operation_->weights) return cudaErrorInvalidValue;
  millrace_experts argument{};
  describe(a.matrix, argument);
  argument.units = units_of(a.weights);
  argument.addresses = reinterpret_cast<const unsigned char* const*>(a.addresses);
  argument.first = a.first;
  argument.stride = a.stride;
  argument.bias_offset = a.bias_offset;
  argument.x = a.x;
  argument.y = a.y;
  argument.act = a.act;
  argument.places = a.list.places;
  argument.alpha = a.alpha;
  argument.limit = a.limit;
  argument.unit = a.weights.unit;
  argument.experts = a.experts;
  argument.rows = a.rows;
  argument.top_k = a.top_k;
  argument.x_divisor = a.x_of_places ? 1 : a.top_k;
  argument.epilogue = a.epilogue == ExpertEpilogue::store  ? MILLRACE_STORE
                      : a.epilogue == ExpertEpilogue::silu ? MILLRACE_SILU_MUL
                                                           : MILLRACE_CLAMPED_GLU;
  argument.x_stride = a.x_stride;
  argument.y_stride = a.y_stride;
  argument.act_stride = a.act_stride;
  argument.intermediate = a.features;
  const int blocks = (a.matrix.n + features_per_block_ - 1) / features_per_block_, places = a.rows * a.top_k;
  static_assert(sizeof(millrace_tile) == sizeof(int4));
  argument.tiles = reinterpret_cast<const millrace_tile*>(a.list.few);
  argument.tile_count = a.list.counts;
  argument.tile_rows = a.list.few_rows;
  const cudaError_t status = launch(&argument, blocks, few_tiles(places, a.experts), stream);
  if (status != cudaSuccess || a.rows <= a.list.few_rows) return status;
  argument.tiles = reinterpret_cast<const millrace_tile*>(a.list.many);
  argument.tile_count = a.list.counts + 1;
  argument.tile_rows = a.list.many_rows;
  return launch(&argument, blocks, many_tiles(places, a.experts, a.list.many_rows), stream);
}

cudaError_t UserKernel::launch(const RouteArguments& a, cudaStream_t stream) const {
  if (a.rows < 1 || a.drawn != nullptr || a.chosen != nullptr) return cudaErrorInvalidValue;
  millrace_route argument{};
  argument.units = units_of(a.weights);
  argument.bias_offset = a.bias_offset;
  argument.logits = a.logits;
  argument.positions = a.positions;
  argument.routes = a.routes;
  argument.unit = a.weights.unit;
  argument.rows = a.rows;
  argument.experts = a.op.experts;
  argument.top_k = a.op.top_k;
  argument.groups = a.op.groups;
  argument.top_groups = a.op.top_groups;
  argument.group_best = a.op.group_best;
  argument.sigmoid = a.op.score == Score::sigmoid ? 1 : 0;
  argument.renormalise = a.op.renormalise ? 1 : 0;
  argument.scale = a.op.scale;
  return launch(&argument, 1, row_blocks(a.rows), stream);
}

cudaError_t UserKernel::launch(const CombineArguments& a, cudaStream_t stream) const {
  if (a.rows < 1) return cudaErrorInvalidValue;
  millrace_combine argument{};
  argument.answers = a.y;
  argument.routes = a.routes;
  argument.positions = a.positions;
  argument.out = a.out;
  argument.rows = a.rows;
  argument.top_k = a.top_k;
  argument.width = a.width;
  argument.out_stride = a.out_stride;
  argument.adds = a.adds ? 1 : 0;
  argument.scale = a.scale;
  return launch(&argument, (a.width + features_per_block_ - 1) / features_per_block_, row_blocks(a.rows), stream);
}

UserKernels::UserKernels(const std::vector<KernelImage>& images) {
  for (const KernelImage& image : images) kernels_.push_back(std::make_unique<UserKernel>(image));
}

const UserKernel* UserKernels::find(lab::Kind kind) const {
  for (const auto& kernel : kernels_) {
    if (kernel->operation().kind == kind) return kernel.get();
  }
  return nullptr;
}

const UserKernel* UserKernels::find(lab::Kind kind, WeightType type) const {
  for (const auto& kernel : kernels_) {
    if (kernel->operation().kind == kind && kernel->operation().weights == type) return kernel.get();
  }
  return nullptr;
}

}  // namespace millrace::cuda
