// A kernel made of one function.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "backends/kernel.h"

namespace rondo {

class FunctionKernel final : public Kernel {
 public:
  using Function = std::function<void(const KernelArgs&)>;
  explicit FunctionKernel(Function function, std::size_t scratch_bytes = 0)
      : function_(std::move(function)), scratch_bytes_(scratch_bytes) {}
  std::size_t scratch_bytes() const override { return scratch_bytes_; }
  void run(const KernelArgs& args) const override { function_(args); }

 private:
  Function function_;
  std::size_t scratch_bytes_;
};

inline std::unique_ptr<Kernel> make_kernel(FunctionKernel::Function function, std::size_t scratch_bytes = 0) {
  return std::make_unique<FunctionKernel>(std::move(function), scratch_bytes);
}

}  // namespace rondo
