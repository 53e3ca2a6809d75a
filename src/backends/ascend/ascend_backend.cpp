// The plug-in librondo_ascend.so.
#include "backends/ascend/attention/attention_kernels.h"
#include "backends/ascend/hccl_communicator.h"
#include "backends/ascend/kernels/acl_kernel.h"
#include "backends/plugins/plugin.h"
#include "core/log.h"

namespace rondo::ascend {

std::unique_ptr<DeviceBackend> open(const PluginHost& host);

namespace {

class AscendBackend final : public DeviceBackend {
 public:
  AscendBackend() : library_(std::make_shared<const AclLibrary>()) {
    for (const auto part : {linear_kernels(), norm_kernels(), element_kernels(), layout_kernels(), lookup_kernels(),
                            merge_kernels(), picture_kernels(), group_moments_kernels(), wire_kernels()})
      kernels_.insert(kernels_.end(), part.begin(), part.end());
  }

  DeviceKind kind() const override { return DeviceKind::ascend; }

  std::vector<ComponentVersion> versions() const override {
    std::vector<ComponentVersion> all = library_->versions();
    const std::string& missing = hccl_missing();
    all.push_back({"HCCL", missing.empty() ? "found" : "", missing.empty() ? "several NPUs on one picture" : missing});
    return all;
  }

  int device_count() const override {
    std::uint32_t count = 0;
    library_->check(library_->aclrtGetDeviceCount(&count), "aclrtGetDeviceCount", 0);
    return static_cast<int>(count);
  }

  std::shared_ptr<DeviceRuntime> open(int index) const override {
    return std::make_shared<AscendRuntime>(library_, index);
  }

  void copy(const Tensor& from, const Tensor& to, const ExecutionDevice& device, DeviceStream& stream) const override {
    AclCaller(device, stream).copy(from, to);
  }

  std::span<const KernelEntry> kernels() const override { return kernels_; }

  std::vector<std::shared_ptr<const AttentionKernel>> attention_kernels() const override {
    return ascend::attention_kernels(AttentionSupport(library_));
  }

 private:
  std::shared_ptr<const AclLibrary> library_;
  std::vector<KernelEntry> kernels_;
};

}  // namespace

std::unique_ptr<DeviceBackend> open(const PluginHost& host) {
  set_log_sink(LogLevel::debug,
               [forward = host.log](LogLevel level, std::string_view message) { forward(level, message); });
  return std::make_unique<AscendBackend>();
}

}  // namespace rondo::ascend

const rondo::PluginInterface* rondo_plugin() {
  static const rondo::PluginInterface plugin{rondo::kPluginAbiVersion, rondo::build_fingerprint(), rondo::ascend::open};
  return &plugin;
}
