// librondo_cuda.so with the GPU taken out: the kernels' own code on fibers, "device" memory on the heap, streams that
// are done at once. Products, convolutions and attention, which are libraries', are plain loops (libraries.cpp,
// sdpa.cpp).
#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "backends/cuda/kernels/cuda_kernel.h"
#include "backends/cuda/nccl_communicator.h"
#include "backends/cuda/nccl_library.h"
#include "backends/plugins/plugin.h"
#include "emulated_gpu.h"
#include "rondo/error.h"

namespace rondo::cuda {

std::optional<std::string> no_gpu() { return std::nullopt; }

void use_device(const ExecutionDevice& /*device*/) {}

int emulated_capability() {
  const char* const capability = std::getenv("EMULATED_COMPUTE_CAPABILITY");
  return capability == nullptr ? 90 : std::atoi(capability);
}

int capability_of(const ExecutionDevice& /*device*/) { return emulated_capability(); }

Tensor unowned(const Tensor& tensor) {
  if (!tensor.defined()) return {};
  return Tensor::borrow(const_cast<void*>(tensor.data()), tensor.shape(), tensor.dtype(), tensor.device())
      .restrided(tensor.shape(), tensor.strides());
}

namespace {

class EmulatedGraph final : public RecordedWork {
 public:
  explicit EmulatedGraph(std::vector<std::function<void()>> work) : work_(std::move(work)) {}
  void launch(DeviceStream& /*stream*/) override {
    for (const std::function<void()>& part : work_) part();
  }

 private:
  std::vector<std::function<void()>> work_;
};

/// Work is done as it is given, unless it is recorded.
class EmulatedStream final : public DeviceStream {
 public:
  void synchronize() override {
    if (recorded_) throw DeviceError("cuda emulation: a stream that records is waited for");
  }
  void begin_recording() override {
    recorded_.emplace();
    ++recording;
  }
  std::unique_ptr<RecordedWork> end_recording() override {
    auto work = std::make_unique<EmulatedGraph>(std::move(*recorded_));
    recorded_.reset();
    --recording;
    return work;
  }
  /// So many streams: nobody may wait for the device meanwhile.
  inline static std::atomic<int> recording = 0;

  void submit(std::function<void()> work) {
    if (recorded_) return recorded_->push_back(std::move(work));
    work();
  }

 private:
  std::optional<std::vector<std::function<void()>>> recorded_;
};

}  // namespace

StreamHandle handle_of(DeviceStream& stream) { return &static_cast<EmulatedStream&>(stream); }

void submit(void* stream, std::function<void()> work) { static_cast<EmulatedStream*>(stream)->submit(std::move(work)); }

namespace {

class EmulatedEvent final : public DeviceEvent {
 public:
  void record(DeviceStream& /*stream*/) override {}
  void hold_back(DeviceStream& /*stream*/) override {}
  void synchronize() override {}
};

class EmulatedRuntime final : public DeviceRuntime, public std::enable_shared_from_this<EmulatedRuntime> {
 public:
  explicit EmulatedRuntime(int index) : index_(index) {}

  DeviceInfo info() const override {
    constexpr std::uint64_t kBytes = std::uint64_t{4} << 30;
    return {{DeviceKind::cuda, index_}, "emulated GPU", kBytes, kBytes};
  }
  std::string physical_id() const override { return std::to_string(index_); }
  bool has_bf16() const override { return true; }
  bool keeps_f32() const override { return true; }
  void* allocate(std::size_t bytes) override {
    void* const memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (memory != nullptr) std::memset(memory, 0xFF, bytes);  // NaN in every floating dtype
    return memory;
  }
  void release(void* memory) noexcept override {
    std::memset(memory, 0xFF, malloc_usable_size(memory));  // work that still uses it shows
    std::free(memory);
  }
  std::shared_ptr<void> allocate_pinned(std::size_t bytes) override { return {allocate(bytes), std::free}; }
  void synchronize() override {
    if (EmulatedStream::recording != 0) throw DeviceError("cuda emulation: waited for while a stream records");
  }
  std::unique_ptr<DeviceStream> make_stream() override { return std::make_unique<EmulatedStream>(); }
  std::unique_ptr<DeviceEvent> make_event() override { return std::make_unique<EmulatedEvent>(); }
  void copy(const RowCopy& rows, CopyKind /*kind*/, DeviceStream& stream) override {
    submit(handle_of(stream), [rows] {
      for (std::size_t row = 0; row < rows.rows; ++row) {
        std::memcpy(static_cast<std::byte*>(rows.to) + row * rows.to_pitch,
                    static_cast<const std::byte*>(rows.from) + row * rows.from_pitch, rows.width);
      }
    });
  }
  std::optional<std::string> refuse_recording() const override { return std::nullopt; }
  std::optional<std::string> refuse_messages() const override { return refuse_nccl(); }
  std::string make_meeting_point() override { return make_nccl_id(index_); }
  std::unique_ptr<DeviceCommunicator> join(const std::string& meeting_point, int rank, int ranks) override {
    return join_nccl(shared_from_this(), index_, meeting_point, rank, ranks);
  }

 private:
  int index_;
};

class EmulatedBackend final : public DeviceBackend {
 public:
  EmulatedBackend() {
    for (const auto part : {linear_kernels(), conv2d_kernels(), norm_kernels(), element_kernels(), layout_kernels(),
                            lookup_kernels(), merge_kernels(), group_norm_kernels(), wire_kernels()})
      kernels_.insert(kernels_.end(), part.begin(), part.end());
  }
  DeviceKind kind() const override { return DeviceKind::cuda; }
  std::vector<ComponentVersion> versions() const override {
    return {{"emulation", "CPU"}, {"NCCL", nccl_version(), nccl_missing()}};
  }
  int device_count() const override {
    const char* const count = std::getenv("EMULATED_GPUS");
    return count == nullptr ? 1 : std::atoi(count);
  }
  std::shared_ptr<DeviceRuntime> open(int index) const override { return std::make_shared<EmulatedRuntime>(index); }
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

std::unique_ptr<DeviceBackend> open(const PluginHost& /*host*/) { return std::make_unique<EmulatedBackend>(); }

}  // namespace
}  // namespace rondo::cuda

const rondo::PluginInterface* rondo_plugin() {
  static const rondo::PluginInterface plugin{rondo::kPluginAbiVersion, rondo::build_fingerprint(), rondo::cuda::open};
  return &plugin;
}
