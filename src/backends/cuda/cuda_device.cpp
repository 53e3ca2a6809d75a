#include "backends/cuda/cuda_device.h"

#include <fmt/format.h>

#include <array>

#include "backends/cuda/cuda_stream.h"
#include "backends/cuda/kernels/cuda_kernel.h"
#include "backends/cuda/nccl_communicator.h"
#include "core/log.h"
#include "rondo/error.h"

namespace rondo::cuda {
namespace {

cudaStream_t stream_of(DeviceStream& stream) { return static_cast<CudaStream&>(stream).handle(); }

class CudaEvent final : public DeviceEvent {
 public:
  explicit CudaEvent(const CudaRuntime& runtime) : runtime_(runtime) {
    runtime.use();
    check(cudaEventCreateWithFlags(&handle_, cudaEventDisableTiming), "cudaEventCreateWithFlags", runtime.index());
  }
  ~CudaEvent() override { note(cudaEventDestroy(handle_), "cudaEventDestroy", runtime_.index()); }
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;

  void record(DeviceStream& stream) override {
    runtime_.use();
    check(cudaEventRecord(handle_, stream_of(stream)), "cudaEventRecord", runtime_.index());
  }
  void hold_back(DeviceStream& stream) override {
    runtime_.use();
    check(cudaStreamWaitEvent(stream_of(stream), handle_, 0), "cudaStreamWaitEvent", runtime_.index());
  }
  void synchronize() override {
    runtime_.use();
    check(cudaEventSynchronize(handle_), "cudaEventSynchronize", runtime_.index());
  }

 private:
  const CudaRuntime& runtime_;
  cudaEvent_t handle_ = nullptr;
};

cudaMemcpyKind cuda_kind(CopyKind kind) {
  switch (kind) {
    case CopyKind::to_device: return cudaMemcpyHostToDevice;
    case CopyKind::to_host: return cudaMemcpyDeviceToHost;
    case CopyKind::on_device: return cudaMemcpyDeviceToDevice;
  }
  return cudaMemcpyDefault;
}

}  // namespace

void note(cudaError_t status, const char* call, int device) noexcept {
  if (status == cudaSuccess) return;
  try {
    log(LogLevel::warning, "cuda:{}: {} failed: {}", device, call, cudaGetErrorString(status));
  } catch (...) {  // NOLINT(bugprone-empty-catch): there is nobody left to tell
  }
}

void check(cudaError_t status, const char* call, int device) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // what can be forgotten is
  throw DeviceError(
      fmt::format("cuda:{}: {} failed: {} ({})", device, call, cudaGetErrorString(status), cudaGetErrorName(status)));
}

std::optional<std::string> no_gpu() {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status == cudaSuccess && devices > 0) return std::nullopt;
  cudaGetLastError();
  return status == cudaSuccess ? "no NVIDIA GPU is there" : cudaGetErrorString(status);
}

StreamHandle handle_of(DeviceStream& stream) {
  auto& own = static_cast<CudaStream&>(stream);
  own.runtime().use();
  return own.handle();
}

void use_device(const ExecutionDevice& device) { static_cast<const CudaRuntime&>(device.runtime()).use(); }

int capability_of(const ExecutionDevice& device) {
  return static_cast<const CudaRuntime&>(device.runtime()).capability();
}

CudaRuntime::CudaRuntime(int index) : index_(index) {
  use();
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties", index);
  name_ = properties.name;
  capability_ = properties.major * 10 + properties.minor;
}

DeviceInfo CudaRuntime::info() const {
  use();
  std::size_t free = 0;
  std::size_t total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo", index_);
  return {{DeviceKind::cuda, index_}, name_, total, free};
}

std::string CudaRuntime::physical_id() const {
  std::array<char, 64> id{};
  check(cudaDeviceGetPCIBusId(id.data(), static_cast<int>(id.size()), index_), "cudaDeviceGetPCIBusId", index_);
  return id.data();
}

void* CudaRuntime::allocate(std::size_t bytes) {
  use();
  void* memory = nullptr;
  const cudaError_t status = cudaMalloc(&memory, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  check(status, "cudaMalloc", index_);
  return memory;
}

void CudaRuntime::release(void* memory) noexcept {
  note(cudaSetDevice(index_), "cudaSetDevice", index_);
  note(cudaFree(memory), "cudaFree", index_);
}

std::shared_ptr<void> CudaRuntime::allocate_pinned(std::size_t bytes) {
  use();
  void* memory = nullptr;
  check(cudaMallocHost(&memory, bytes), "cudaMallocHost", index_);
  return {memory, [index = index_](void* host) { note(cudaFreeHost(host), "cudaFreeHost", index); }};
}

void CudaRuntime::synchronize() {
  use();
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize", index_);
}

std::unique_ptr<DeviceStream> CudaRuntime::make_stream() { return std::make_unique<CudaStream>(*this); }

std::unique_ptr<DeviceEvent> CudaRuntime::make_event() { return std::make_unique<CudaEvent>(*this); }

void CudaRuntime::copy(const RowCopy& rows, CopyKind kind, DeviceStream& stream) {
  use();
  if (rows.rows == 1) {
    return check(cudaMemcpyAsync(rows.to, rows.from, rows.width, cuda_kind(kind), stream_of(stream)), "cudaMemcpyAsync",
                 index_);
  }
  check(cudaMemcpy2DAsync(rows.to, rows.to_pitch, rows.from, rows.from_pitch, rows.width, rows.rows, cuda_kind(kind),
                          stream_of(stream)),
        "cudaMemcpy2DAsync", index_);
}

std::optional<std::string> CudaRuntime::refuse_messages() const { return refuse_nccl(); }

std::string CudaRuntime::make_meeting_point() {
  use();
  return make_nccl_id(index_);
}

std::unique_ptr<DeviceCommunicator> CudaRuntime::join(const std::string& meeting_point, int rank, int ranks) {
  use();
  return join_nccl(shared_from_this(), index_, meeting_point, rank, ranks);
}

}  // namespace rondo::cuda
