// The plug-in librondo_cuda.so.
#include <cublasLt.h>
#include <fmt/format.h>

#include "backends/cuda/cuda_device.h"
#include "backends/cuda/cudnn_library.h"
#include "backends/cuda/kernels/cuda_kernel.h"
#include "backends/cuda/nccl_library.h"
#include "backends/plugins/plugin.h"
#include "core/log.h"
#include "rondo/error.h"

namespace rondo::cuda {

std::unique_ptr<DeviceBackend> open(const PluginHost& host);

namespace {

/// 13000 -> "13.0"
std::string version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

class CudaBackend final : public DeviceBackend {
 public:
  CudaBackend() {
    for (const auto part : {linear_kernels(), conv2d_kernels(), norm_kernels(), element_kernels(), layout_kernels(),
                            lookup_kernels(), merge_kernels(), group_norm_kernels(), wire_kernels()})
      kernels_.insert(kernels_.end(), part.begin(), part.end());
  }

  DeviceKind kind() const override { return DeviceKind::cuda; }

  std::vector<ComponentVersion> versions() const override {
    int driver = 0;
    int runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    std::vector<ComponentVersion> all;
    all.push_back({"driver", driver == 0 ? "" : version_text(driver),
                   driver == 0 ? "NVIDIA's driver is not installed" : "the newest CUDA that it runs"});
    all.push_back({"CUDA runtime", version_text(runtime)});
    const std::size_t lt = cublasLtGetVersion();
    all.push_back({"cuBLASLt", fmt::format("{}.{}.{}", lt / 10000, lt / 100 % 100, lt % 100)});
    all.push_back({"cuDNN", cudnn_version(), cudnn_missing()});
    all.push_back({"NCCL", nccl_version(), nccl_missing().empty() ? "several GPUs on one picture" : nccl_missing()});
    return all;
  }

  int device_count() const override {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaErrorNoDevice) {
      cudaGetLastError();
      return 0;
    }
    if (status != cudaSuccess) {
      cudaGetLastError();
      throw DeviceError(fmt::format("cuda: {} ({})", cudaGetErrorString(status), cudaGetErrorName(status)));
    }
    return count;
  }

  std::shared_ptr<DeviceRuntime> open(int index) const override { return std::make_shared<CudaRuntime>(index); }
  void copy(const Tensor& from, const Tensor& to, const ExecutionDevice& /*device*/,
            DeviceStream& stream) const override {
    cuda::copy(view_of(from), view_of(to), handle_of(stream));
  }
  std::span<const KernelEntry> kernels() const override { return kernels_; }
  std::vector<std::shared_ptr<const AttentionKernel>> attention_kernels() const override {
    return {cudnn_attention_kernel(), cudnn_fp8_attention_kernel(), flash_mma_attention_kernel(),
            flash_attention_kernel()};
  }

 private:
  std::vector<KernelEntry> kernels_;
};

}  // namespace

std::unique_ptr<DeviceBackend> open(const PluginHost& host) {
  set_log_sink(LogLevel::debug,
               [forward = host.log](LogLevel level, std::string_view message) { forward(level, message); });
  return std::make_unique<CudaBackend>();
}

}  // namespace rondo::cuda

const rondo::PluginInterface* rondo_plugin() {
  static const rondo::PluginInterface plugin{rondo::kPluginAbiVersion, rondo::build_fingerprint(), rondo::cuda::open};
  return &plugin;
}
