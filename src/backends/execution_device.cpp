#include "backends/execution_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "backends/generic_kernels.h"
#include "core/env.h"
#include "core/log.h"
#include "core/text.h"
#include "device/copy_tensor.h"
#include "rondo/error.h"

namespace rondo {
namespace {

/// Large enough for a bus's full speed, small enough to be there at once.
constexpr std::size_t kStagingBytes = std::size_t{16} << 20;

std::uint64_t memory_limit() {
  const auto text = env_value("RONDO_DEVICE_MEMORY_LIMIT");
  return text ? parse_bytes(*text, "RONDO_DEVICE_MEMORY_LIMIT") : 0;
}

}  // namespace

ExecutionDevice::ExecutionDevice(Device device, const DeviceBackend& backend)
    : device_(device),
      backend_(backend),
      runtime_(backend.open(device.index)),
      memory_(CachingAllocator::make(runtime_, memory_limit())) {
  for (const auto part : {backend.kernels(), generic_kernels()})
    kernels_.insert(kernels_.end(), part.begin(), part.end());
}

std::uint64_t ExecutionDevice::available_memory() const {
  const DeviceMemoryStatistics memory = memory_->statistics();
  const std::uint64_t left = runtime_->info().free_memory + memory.cached_bytes;
  if (memory_->limit() == 0) return left;
  return std::min(left, memory_->limit() - std::min(memory_->limit(), memory.used_bytes));
}

Tensor ExecutionDevice::empty(const Shape& shape, DType dtype, const DeviceStream* stream) const {
  const std::size_t bytes = Tensor::borrow(nullptr, shape, dtype).bytes();
  const std::shared_ptr<void> memory = memory_->allocate(std::max<std::size_t>(bytes, 1), stream);
  // Who holds the tensor holds the device, so that all tensors of a process count in one place.
  struct Owner {
    std::shared_ptr<const ExecutionDevice> device;
    std::shared_ptr<void> memory;
  };
  const auto owner = std::make_shared<Owner>(Owner{shared_from_this(), memory});
  return Tensor::share(owner, memory.get(), shape, dtype, device_);
}

namespace {

/// A stream for copies that are waited for, whatever happens: what they read and write may go then.
class CopyStream {
 public:
  explicit CopyStream(DeviceRuntime& runtime) : runtime_(runtime), stream_(runtime.make_stream()) {}
  ~CopyStream() {
    try {
      stream_->synchronize();
    } catch (const std::exception& error) {
      log(LogLevel::info, "{}", error.what());  // who copies was told
    }
  }
  CopyStream(const CopyStream&) = delete;
  CopyStream& operator=(const CopyStream&) = delete;

  void copy(const Tensor& from, const Tensor& to) { copy_tensor(from, to, runtime_, *stream_); }
  void copy_bytes(std::byte* to, const void* from, std::size_t bytes) {
    runtime_.copy({to, bytes, from, bytes, bytes, 1}, CopyKind::to_device, *stream_);
  }
  void record(DeviceEvent& event) { event.record(*stream_); }
  void finish() { stream_->synchronize(); }

 private:
  DeviceRuntime& runtime_;
  std::unique_ptr<DeviceStream> stream_;
};

}  // namespace

Tensor ExecutionDevice::upload(const Tensor& host) const {
  Tensor target = empty(host.shape(), host.dtype());
  std::array<std::shared_ptr<void>, 2> staging;
  std::array<std::unique_ptr<DeviceEvent>, 2> done;
  const std::size_t bytes = host.bytes();
  const bool staged = host.is_dense() && bytes > kStagingBytes;
  for (std::size_t i = 0; staged && i < staging.size(); ++i) {
    staging[i] = runtime_->allocate_pinned(kStagingBytes);
    done[i] = runtime_->make_event();
  }
  CopyStream stream(*runtime_);  // after what it copies from
  std::size_t turn = 0;
  for (std::size_t begin = 0; staged && begin < bytes; begin += kStagingBytes, turn = 1 - turn) {
    const std::size_t count = std::min(kStagingBytes, bytes - begin);
    done[turn]->synchronize();
    std::memcpy(staging[turn].get(), host.as<std::byte>() + begin, count);
    stream.copy_bytes(target.as<std::byte>() + begin, staging[turn].get(), count);
    stream.record(*done[turn]);
  }
  if (!staged) stream.copy(host, target);
  stream.finish();
  return target;
}

Tensor ExecutionDevice::upload_strided(const Tensor& host) const {
  std::int64_t last = 0;
  for (std::size_t axis = 0; axis < host.shape().rank(); ++axis)
    last += (host.shape()[axis] - 1) * host.strides()[axis];
  Tensor target = empty({host.elements() == 0 ? 0 : last + 1}, host.dtype()).restrided(host.shape(), host.strides());
  CopyStream stream(*runtime_);
  stream.copy(host, target);
  stream.finish();
  return target;
}

Tensor ExecutionDevice::download(const Tensor& tensor) const {
  Tensor target = Tensor::empty(tensor.shape(), tensor.dtype());
  CopyStream stream(*runtime_);
  stream.copy(tensor, target);
  stream.finish();
  return target;
}

}  // namespace rondo
