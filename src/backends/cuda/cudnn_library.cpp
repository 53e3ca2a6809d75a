#include "backends/cuda/cudnn_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "backends/cuda/cuda_device.h"
#include "backends/cuda/kernels/cuda_kernel.h"
#include "core/text.h"
#include "rondo/error.h"

// The front end looks cuDNN's functions up here.
namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;
}

namespace rondo::cuda {
namespace {

std::string open_cudnn() {
  cudnn_frontend::cudnn_dlhandle = dlopen("libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);
  if (cudnn_frontend::cudnn_dlhandle != nullptr) {
    // The front end asks the CUDA runtime, which is part of this library, as a library of its own.
    try {
      cudnn_frontend::detail::get_cuda_symbol(cudnn_frontend::detail::CudaLibrary::CUDART, "cudaGetDevice");
      return "";
    } catch (const std::exception& error) {
      return fmt::format("its front end needs the CUDA runtime: {}", printable(error.what(), 300));
    }
  }
  const char* text = dlerror();  // NOLINT(concurrency-mt-unsafe): glibc keeps it per thread
  return fmt::format("libcudnn.so.9 cannot be opened ({})", text == nullptr ? "unknown reason" : printable(text, 300));
}

/// The handles of a thread, one a device.
struct ThreadHandles {
  std::map<int, cudnnHandle_t> handles;
  ~ThreadHandles() {
    for (const auto& [device, handle] : handles) cudnn_frontend::detail::destroy_handle(handle);
  }
};

}  // namespace

const std::string& cudnn_missing() {
  static const std::string reason = open_cudnn();
  return reason;
}

std::string cudnn_version() {
  if (!cudnn_missing().empty()) return "";
  const std::size_t version = cudnn_frontend::detail::get_backend_version();
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

cudnnHandle_t cudnn_handle(void* stream) {
  thread_local ThreadHandles of_thread;
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice", device);
  cudnnHandle_t& handle = of_thread.handles[device];
  if (handle == nullptr && cudnn_frontend::detail::create_handle(&handle) != CUDNN_STATUS_SUCCESS)
    throw DeviceError(fmt::format("cuda:{}: cudnnCreate failed", device));
  if (cudnn_frontend::detail::set_stream(handle, static_cast<cudaStream_t>(stream)) != CUDNN_STATUS_SUCCESS)
    throw DeviceError(fmt::format("cuda:{}: cudnnSetStream failed", device));
  return handle;
}

void execute_cudnn(cudnn_frontend::graph::Graph& graph, const CudaRun& run,
                   std::unordered_map<std::int64_t, void*>& operands) {
  std::int64_t workspace_bytes = 0;
  check_cudnn(graph.get_workspace_size(workspace_bytes), "get_workspace_size");
  Tensor workspace = run.temporary({std::max<std::int64_t>(workspace_bytes, 1)}, DType::u8);
  check_cudnn(graph.execute(cudnn_handle(run.handle()), operands, workspace.data()), "execute");
}

void check_cudnn(cudnn_frontend::error_t status, const char* call) {
  if (!status.is_good()) throw DeviceError(fmt::format("cuda: cuDNN's {} failed: {}", call, status.get_message()));
}

}  // namespace rondo::cuda
