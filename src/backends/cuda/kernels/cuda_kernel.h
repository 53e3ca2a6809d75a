// Kernels that launch CUDA's: tensors as launches take them, and a kernel made of one function.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "attention/attention_kernel.h"
#include "backends/cuda/device/launches.h"
#include "backends/execution_device.h"
#include "backends/kernel.h"
#include "rondo/operators.h"

namespace rondo::cuda {

/// The stream's handle. Makes its device the calling thread's.
StreamHandle handle_of(DeviceStream& stream);

/// Makes it the calling thread's device.
void use_device(const ExecutionDevice& device);

/// Its compute capability: 90 for 9.0.
int capability_of(const ExecutionDevice& device);

/// Why no kernel runs in this process: no GPU, no driver.
std::optional<std::string> no_gpu();

/// What a kernel works with, for one run.
class CudaRun {
 public:
  CudaRun(const ExecutionDevice& device, DeviceStream& stream)
      : device_(device), stream_(stream), handle_(handle_of(stream)) {}

  StreamHandle handle() const { return handle_; }
  const ExecutionDevice& device() const { return device_; }
  /// A tensor for the rest of the run: the stream's next caller has it then, since its work comes later.
  Tensor temporary(const Shape& shape, DType dtype) const { return device_.empty(shape, dtype, &stream_); }

 private:
  const ExecutionDevice& device_;
  DeviceStream& stream_;
  StreamHandle handle_;
};

class CudaKernel final : public Kernel {
 public:
  using Function = std::function<void(const CudaRun& run, std::span<const Tensor> inputs, std::span<Tensor> outputs)>;
  explicit CudaKernel(Function function) : function_(std::move(function)) {}
  void run(const KernelArgs& args) const override {
    function_(CudaRun(*args.device, *args.stream), args.inputs, args.outputs);
  }

 private:
  Function function_;
};

inline std::unique_ptr<Kernel> make_cuda_kernel(CudaKernel::Function function) {
  return std::make_unique<CudaKernel>(std::move(function));
}

Number number_of(DType dtype);
/// Up to five axes; the last one dense.
RowView rows_of(const Tensor& tensor);
/// Up to six axes.
View view_of(const Tensor& tensor);
/// The tensor's elements repeated to another shape, which ends in the tensor's own or has 1 where it has more.
View repeated_view(const Tensor& tensor, const Shape& shape);
Vector vector_of(const Tensor& tensor);
/// [B, D], [B, 1, D] or [B, S, D]
Modulation modulation_of(const Tensor& tensor);

Activation activation_of(ActivationKind kind);

/// x where it is dense and of that dtype already, else a copy that is, for the rest of the run.
Tensor dense(const CudaRun& run, const Tensor& x, DType dtype);

/// Whether loads of 16 bytes can have x, of two bytes an element, with a dense last axis.
bool takes_whole_loads(const Tensor& x);
/// x where they can, else a copy, for the rest of the run.
Tensor with_whole_loads(const CudaRun& run, const Tensor& x);

/// The refusal that row kernels share: the first `data_inputs` inputs float32, bfloat16 or float16, all alike, with up
/// to five axes of which the last is dense.
Refusal refuse_unless_rows(const KernelRequest& request, std::size_t data_inputs);

/// A stored parameter, or the run's own.
inline const Tensor& parameter_or(const Tensor& known, const Tensor& given) { return known.defined() ? known : given; }

// Each is defined in the file of its name.
std::span<const KernelEntry> norm_kernels();
std::span<const KernelEntry> element_kernels();
std::span<const KernelEntry> layout_kernels();
std::span<const KernelEntry> lookup_kernels();
std::span<const KernelEntry> merge_kernels();
std::span<const KernelEntry> group_norm_kernels();
std::span<const KernelEntry> linear_kernels();
std::span<const KernelEntry> wire_kernels();
std::span<const KernelEntry> conv2d_kernels();

std::shared_ptr<const AttentionKernel> flash_attention_kernel();
std::shared_ptr<const AttentionKernel> flash_mma_attention_kernel();
std::shared_ptr<const AttentionKernel> cudnn_attention_kernel();
std::shared_ptr<const AttentionKernel> cudnn_fp8_attention_kernel();

}  // namespace rondo::cuda
