// Linear layers by cuBLASLt, with bias and GELU in its epilogue.
#include <cublasLt.h>
#include <fmt/format.h>

#include <array>

#include "backends/cuda/cuda_device.h"
#include "backends/cuda/kernels/cuda_kernel.h"
#include "ops/linear.h"
#include "rondo/error.h"

namespace rondo::cuda {
namespace {

/// What algorithms may use beside their operands: NVIDIA's recommendation for Hopper.
constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;

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
using LtHandle = Owned<cublasLtHandle_t, cublasLtDestroy>;
using LtOperation = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using LtLayout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using LtPreference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

cudaDataType_t cuda_dtype(DType dtype) {
  if (dtype == DType::bf16) return CUDA_R_16BF;
  return dtype == DType::f16 ? CUDA_R_16F : CUDA_R_32F;
}

const LinearOp& op_of(const KernelRequest& request) { return static_cast<const LinearOp&>(request.op); }

/// y [M, N] = x [M, K] w^T, with w [N, K]; to cuBLASLt, which counts columns first, y^T [N, M] = w x^T.
class Product {
 public:
  /// `gelu`: the activation (by tanh) is taken in the epilogue.
  Product(std::int64_t rows, std::int64_t inputs, std::int64_t outputs, DType dtype, bool has_bias, bool gelu)
      : has_bias_(has_bias) {
    check_lt(cublasLtCreate(lt_.place()), "cublasLtCreate");
    // float32 stays float32: no TF32.
    check_lt(cublasLtMatmulDescCreate(operation_.place(), CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    const cublasOperation_t transposed = CUBLAS_OP_T;
    set(CUBLASLT_MATMUL_DESC_TRANSA, transposed);
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    if (has_bias)
      epilogue = gelu ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_BIAS;
    else if (gelu)
      epilogue = CUBLASLT_EPILOGUE_GELU;
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
    const cudaDataType_t type = cuda_dtype(dtype);
    if (has_bias) set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type);
    const auto layout = [&](LtLayout& place, std::int64_t columns_first, std::int64_t others) {
      check_lt(cublasLtMatrixLayoutCreate(place.place(), type, static_cast<std::uint64_t>(columns_first),
                                          static_cast<std::uint64_t>(others), columns_first),
               "cublasLtMatrixLayoutCreate");
    };
    layout(weight_, inputs, outputs);
    layout(x_, inputs, rows);
    layout(y_, outputs, rows);
    LtPreference preference;
    check_lt(cublasLtMatmulPreferenceCreate(preference.place()), "cublasLtMatmulPreferenceCreate");
    check_lt(cublasLtMatmulPreferenceSetAttribute(preference.get(), CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                  &kWorkspaceBytes, sizeof kWorkspaceBytes),
             "cublasLtMatmulPreferenceSetAttribute");
    int found = 0;
    check_lt(cublasLtMatmulAlgoGetHeuristic(lt_.get(), operation_.get(), weight_.get(), x_.get(), y_.get(), y_.get(),
                                            preference.get(), 1, &algorithm_, &found),
             "cublasLtMatmulAlgoGetHeuristic");
    if (found == 0)
      throw Unsupported(fmt::format("linear: cuBLASLt has no algorithm for {} x {} x {} in {}", rows, inputs, outputs,
                                    dtype_name(dtype)));
  }

  void run(const CudaRun& run, const Tensor& x, const Tensor& w, const Tensor& bias, Tensor y) const {
    const float one = 1;
    const float zero = 0;
    // The bias stands in the description: each run has its own.
    cublasLtMatmulDescOpaque_t description = *operation_.get();
    if (has_bias_) {
      const void* const pointer = bias.data();
      check_lt(
          cublasLtMatmulDescSetAttribute(&description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &pointer, sizeof pointer),
          "cublasLtMatmulDescSetAttribute");
    }
    Tensor workspace = run.temporary({static_cast<std::int64_t>(kWorkspaceBytes)}, DType::u8);
    check_lt(cublasLtMatmul(lt_.get(), &description, &one, w.data(), weight_.get(), x.data(), x_.get(), &zero, y.data(),
                            y_.get(), y.data(), y_.get(), &algorithm_.algo, workspace.data(), kWorkspaceBytes,
                            static_cast<cudaStream_t>(run.handle())),
             "cublasLtMatmul");
  }

 private:
  template <typename Value>
  void set(cublasLtMatmulDescAttributes_t attribute, const Value& value) {
    check_lt(cublasLtMatmulDescSetAttribute(operation_.get(), attribute, &value, sizeof value),
             "cublasLtMatmulDescSetAttribute");
  }

  bool has_bias_;
  LtHandle lt_;
  LtOperation operation_;
  LtLayout weight_;
  LtLayout x_;
  LtLayout y_;
  cublasLtMatmulHeuristicResult_t algorithm_{};
};

Refusal supports(const KernelRequest& request) {
  if (op_of(request).quantization()) return "does not take quantised weights";
  // 16-byte loads: what is not a multiple has no fast algorithm, and for some none at all.
  const Shape& weight = request.inputs[1].prototype.shape();
  const std::int64_t unit = request.inputs[0].prototype.dtype() == DType::f32 ? 1 : 8;
  if (weight[0] % unit != 0 || weight[1] % unit != 0)
    return fmt::format("takes inputs and outputs in multiples of {} only", unit);
  return refuse_unless_rows(request, 1);
}

Tensor as_rows(const Tensor& x) { return x.reshaped({x.shape().rows(), x.shape().back()}); }

Tensor dense(const CudaRun& run, const Tensor& x, DType dtype) {
  if (x.is_dense() && x.dtype() == dtype) return x;
  const Tensor whole = run.temporary(x.shape(), dtype);
  copy(view_of(x), view_of(whole), run.handle());
  return whole;
}

std::unique_ptr<Kernel> make(const KernelRequest& request) {
  const LinearOp& op = op_of(request);
  const DType dtype = request.inputs[0].prototype.dtype();
  const bool has_bias = request.inputs.size() > 2;
  const Shape& weight_shape = request.inputs[1].prototype.shape();
  static_cast<const CudaRuntime&>(request.device->runtime()).use();
  const bool gelu = op.activation() == ActivationKind::gelu_tanh;
  const auto product = std::make_shared<const Product>(request.inputs[0].prototype.shape().rows(), weight_shape[1],
                                                       weight_shape[0], dtype, has_bias, gelu);
  return make_cuda_kernel([&op, dtype, has_bias, gelu, product, weight = stored_parameter(request, 1, dtype),
                           bias = has_bias ? stored_parameter(request, 2, dtype) : Tensor()](
                              const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs) {
    const Tensor x = as_rows(dense(run, inputs[0], dtype));
    const Tensor w = dense(run, parameter_or(weight, inputs[1]), dtype);
    const Tensor b = has_bias ? dense(run, parameter_or(bias, inputs[2]), dtype) : Tensor();
    const Tensor& y = outputs[0];
    const bool activates = op.activation() && !gelu;
    const bool plain = !op.gated() && y.is_dense();
    const Tensor result = plain ? y : run.temporary(y.shape(), dtype);
    product->run(run, x, w, b, as_rows(result));
    if (activates) activate(activation_of(*op.activation()), rows_of(result), rows_of(result), run.handle());
    if (plain) return;
    if (!op.gated()) return copy(view_of(result), view_of(y), run.handle());
    gated_add(rows_of(inputs[LinearOp::kResidual]), modulation_of(inputs[LinearOp::kGate]), rows_of(result),
              y.shape()[1], rows_of(y), run.handle());
  });
}

}  // namespace

std::span<const KernelEntry> linear_kernels() {
  static constexpr std::array kEntries{KernelEntry{"linear", "cublaslt", true, supports, make}};
  return kEntries;
}

}  // namespace rondo::cuda
