#include "backends/execution_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "backends/generic_kernels.h"
#include "core/env.h"
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
    : device_(device), runtime_(backend.open(device.index)), memory_(CachingAllocator::make(runtime_, memory_limit())) {
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
  return Tensor::share(memory, memory.get(), shape, dtype, device_);
}

Tensor ExecutionDevice::upload(const Tensor& host) const {
  Tensor target = empty(host.shape(), host.dtype());
  const std::unique_ptr<DeviceStream> stream = runtime_->make_stream();
  const std::size_t bytes = host.bytes();
  if (!host.is_dense() || bytes <= kStagingBytes) {
    copy_tensor(host, target, *runtime_, *stream);
    stream->synchronize();
    return target;
  }
  std::array<std::shared_ptr<void>, 2> staging;
  std::array<std::unique_ptr<DeviceEvent>, 2> done;
  for (auto& buffer : staging) buffer = runtime_->allocate_pinned(kStagingBytes);
  for (auto& event : done) event = runtime_->make_event();
  std::size_t turn = 0;
  for (std::size_t begin = 0; begin < bytes; begin += kStagingBytes, turn = 1 - turn) {
    const std::size_t count = std::min(kStagingBytes, bytes - begin);
    done[turn]->synchronize();
    std::memcpy(staging[turn].get(), host.as<std::byte>() + begin, count);
    runtime_->copy({target.as<std::byte>() + begin, count, staging[turn].get(), count, count, 1}, CopyKind::to_device,
                   *stream);
    done[turn]->record(*stream);
  }
  stream->synchronize();
  return target;
}

Tensor ExecutionDevice::upload_strided(const Tensor& host) const {
  std::int64_t last = 0;
  for (std::size_t axis = 0; axis < host.shape().rank(); ++axis)
    last += (host.shape()[axis] - 1) * host.strides()[axis];
  const Tensor target =
      empty({host.elements() == 0 ? 0 : last + 1}, host.dtype()).restrided(host.shape(), host.strides());
  const std::unique_ptr<DeviceStream> stream = runtime_->make_stream();
  copy_tensor(host, target, *runtime_, *stream);
  stream->synchronize();
  return target;
}

Tensor ExecutionDevice::download(const Tensor& tensor) const {
  Tensor target = Tensor::empty(tensor.shape(), tensor.dtype());
  const std::unique_ptr<DeviceStream> stream = runtime_->make_stream();
  copy_tensor(tensor, target, *runtime_, *stream);
  stream->synchronize();
  return target;
}

}  // namespace rondo
