// The last entry of every list: an operator's own float64 reference behind the kernel interface.
#include <array>
#include <cstring>
#include <vector>

#include "backends/cpu/kernels.h"
#include "backends/cpu/row_map.h"

namespace rondo::cpu {
namespace {

/// A tensor that lies within another one has gaps between its rows.
void write(const RefTensor& source, Tensor& target) {
  const Tensor narrow = from_reference(source, target.dtype());
  if (target.is_dense()) {
    std::copy_n(narrow.as<std::byte>(), narrow.bytes(), target.as<std::byte>());
    return;
  }
  const RowMap from(narrow);
  const RowMap to(target);
  const std::size_t bytes = static_cast<std::size_t>(narrow.shape().back()) * dtype_size(narrow.dtype());
  for (std::int64_t r = 0; r < narrow.shape().rows(); ++r)
    std::memcpy(to.row<std::byte>(r), from.row<std::byte>(r), bytes);
}

class ReferenceKernel final : public Kernel {
 public:
  explicit ReferenceKernel(const Operator& op) : op_(op) {}

  void run(const KernelArgs& args) const override {
    std::vector<RefTensor> inputs;
    for (const Tensor& input : args.inputs) inputs.push_back(to_reference(input));
    std::vector<RefTensor> outputs;
    for (const Tensor& output : args.outputs) {
      outputs.push_back({output.shape(), std::vector<double>(static_cast<std::size_t>(output.elements()))});
    }
    op_.reference(inputs, outputs);
    for (std::size_t i = 0; i < outputs.size(); ++i) write(outputs[i], args.outputs[i]);
  }

 private:
  const Operator& op_;  // the plan that holds the kernel holds the graph's operators as well
};

constexpr std::array kEntries{KernelEntry{"*", "reference", false,
                                          [](const KernelRequest&) -> Refusal { return std::nullopt; },
                                          [](const KernelRequest& request) -> std::unique_ptr<Kernel> {
                                            return std::make_unique<ReferenceKernel>(request.op);
                                          }}};

}  // namespace

std::span<const KernelEntry> reference_kernels() { return kEntries; }

}  // namespace rondo::cpu
