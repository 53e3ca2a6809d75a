// Products by cuBLASLt, with bias and GELU in its epilogue.
#include <cublasLt.h>
#include <fmt/format.h>

#include <map>
#include <mutex>

#include "backends/cuda/cuda_device.h"
#include "backends/cuda/products.h"
#include "rondo/error.h"

namespace rondo::cuda {
namespace {

/// What algorithms may use beside their operands: NVIDIA's recommendation for Hopper.
constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;

/// Where a heuristic asks for pointers before there are any: aligned as all of ours are at least.
void* const kSomePointer =
    reinterpret_cast<void*>(std::uintptr_t{4096});  // NOLINT(performance-no-int-to-ptr): no address

void check_lt(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw DeviceError(fmt::format("cuda: {} failed: {}", call, cublasLtGetStatusString(status)));
}

/// A handle of cuBLASLt's, destroyed as the library says.
template <typename Handle, cublasStatus_t (*destroy)(Handle)>
class Owned {
 public:
  Owned() = default;
  ~Owned() {
    if (handle_ != nullptr) destroy(handle_);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  Handle* place() { return &handle_; }
  Handle get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};
using LtOperation = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using LtLayout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using LtPreference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

cudaDataType_t cuda_dtype(DType dtype) {
  if (dtype == DType::s8) return CUDA_R_8I;
  if (dtype == DType::s32) return CUDA_R_32I;
  if (dtype == DType::f8_e4m3) return CUDA_R_8F_E4M3;
  if (dtype == DType::bf16) return CUDA_R_16BF;
  return dtype == DType::f16 ? CUDA_R_16F : CUDA_R_32F;
}

/// The calling thread's device's, for all products, as long as the process: to end one waits for the device, which
/// nobody may while a stream records.
cublasLtHandle_t lt_handle() {
  static std::mutex mutex;
  static std::map<int, cublasLtHandle_t> handles;
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice", device);
  const std::lock_guard lock(mutex);
  cublasLtHandle_t& handle = handles[device];
  if (handle == nullptr) check_lt(cublasLtCreate(&handle), "cublasLtCreate");
  return handle;
}

/// y [M, N] = x [M, K] w^T, with w [N, K]; to cuBLASLt, which counts columns first, y^T [N, M] = w x^T.
class LtProduct final : public Product {
 public:
  explicit LtProduct(const ProductShape& p) : shape_(p) {
    const bool integers = p.dtype == DType::s8;
    // float32 stays float32: no TF32.
    check_lt(cublasLtMatmulDescCreate(operation_.place(), integers ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F,
                                      integers ? CUDA_R_32I : CUDA_R_32F),
             "cublasLtMatmulDescCreate");
    const cublasOperation_t transposed = CUBLAS_OP_T;
    set(CUBLASLT_MATMUL_DESC_TRANSA, transposed);
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    if (p.has_bias)
      epilogue = p.gelu ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_BIAS;
    else if (p.gelu)
      epilogue = CUBLASLT_EPILOGUE_GELU;
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
    const cudaDataType_t type = cuda_dtype(p.dtype);
    const cudaDataType_t result = cuda_dtype(p.result_dtype());
    if (p.has_bias) set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, result);
    const auto layout = [&](LtLayout& place, cudaDataType_t element, std::int64_t columns_first, std::int64_t others) {
      check_lt(cublasLtMatrixLayoutCreate(place.place(), element, static_cast<std::uint64_t>(columns_first),
                                          static_cast<std::uint64_t>(others), columns_first),
               "cublasLtMatrixLayoutCreate");
    };
    layout(weight_, type, p.inputs, p.outputs);
    layout(x_, type, p.inputs, p.rows);
    layout(y_, result, p.outputs, p.rows);
    LtPreference preference;
    check_lt(cublasLtMatmulPreferenceCreate(preference.place()), "cublasLtMatmulPreferenceCreate");
    check_lt(cublasLtMatmulPreferenceSetAttribute(preference.get(), CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                  &kWorkspaceBytes, sizeof kWorkspaceBytes),
             "cublasLtMatmulPreferenceSetAttribute");
    if (p.scales == ProductShape::Scales::per_row && !set_vector_scales()) return;
    // Algorithms are chosen by whether there are pointers, too: these are never followed.
    if (p.has_bias) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, kSomePointer);
    if (p.scales != ProductShape::Scales::none) {
      set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, kSomePointer);
      set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, kSomePointer);
    }
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        lt_, operation_.get(), weight_.get(), x_.get(), y_.get(), y_.get(), preference.get(), 1, &algorithm_, &found);
    // Who asks for scales can do without.
    if (p.scales == ProductShape::Scales::none && status != CUBLAS_STATUS_NOT_SUPPORTED)
      check_lt(status, "cublasLtMatmulAlgoGetHeuristic");
    has_algorithm_ = status == CUBLAS_STATUS_SUCCESS && found > 0;
  }

  bool has_algorithm() const { return has_algorithm_; }

  void run(const CudaRun& run, const ProductOperands& o) const override {
    const float one = 1;
    const float zero = 0;
    const std::int32_t one_whole = 1;  // factors are of the sums' type
    const std::int32_t zero_whole = 0;
    const bool integers = shape_.dtype == DType::s8;
    const void* const factor = integers ? static_cast<const void*>(&one_whole) : &one;
    const void* const nothing = integers ? static_cast<const void*>(&zero_whole) : &zero;
    // Bias and scales stand in the description: each run has its own.
    cublasLtMatmulDescOpaque_t description = *operation_.get();
    const auto point_to = [&](cublasLtMatmulDescAttributes_t attribute, const void* pointer) {
      check_lt(cublasLtMatmulDescSetAttribute(&description, attribute, &pointer, sizeof pointer),
               "cublasLtMatmulDescSetAttribute");
    };
    if (shape_.has_bias) point_to(CUBLASLT_MATMUL_DESC_BIAS_POINTER, o.bias.data());
    if (shape_.scales != ProductShape::Scales::none) {
      point_to(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, o.column_scales);
      point_to(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, o.row_scales);
    }
    Tensor workspace = run.temporary({static_cast<std::int64_t>(kWorkspaceBytes)}, DType::u8);
    Tensor y = o.y;
    check_lt(cublasLtMatmul(lt_, &description, factor, o.w.data(), weight_.get(), o.x.data(), x_.get(), nothing,
                            y.data(), y_.get(), y.data(), y_.get(), &algorithm_.algo, workspace.data(), kWorkspaceBytes,
                            static_cast<cudaStream_t>(run.handle())),
             "cublasLtMatmul");
  }

 private:
  template <typename Value>
  void set(cublasLtMatmulDescAttributes_t attribute, const Value& value) {
    check_lt(cublasLtMatmulDescSetAttribute(operation_.get(), attribute, &value, sizeof value),
             "cublasLtMatmulDescSetAttribute");
  }

  /// A scale for each row and each output; false where the toolkit that this was built with, or the library that is
  /// here, knows none.
  bool set_vector_scales() {
#if CUBLAS_VERSION >= 120900
    constexpr std::size_t kFirstVersion = 120900;
    if (cublasLtGetVersion() < kFirstVersion) return false;
    const cublasLtMatmulMatrixScale_t vector = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, vector);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, vector);
    return true;
#else
    return false;
#endif
  }

  ProductShape shape_;
  cublasLtHandle_t lt_ = lt_handle();
  LtOperation operation_;
  LtLayout weight_;
  LtLayout x_;
  LtLayout y_;
  cublasLtMatmulHeuristicResult_t algorithm_{};
  bool has_algorithm_ = false;
};

}  // namespace

std::unique_ptr<const Product> find_product(const ProductShape& shape) {
  auto product = std::make_unique<LtProduct>(shape);
  if (!product->has_algorithm()) return nullptr;
  return product;
}

}  // namespace rondo::cuda
