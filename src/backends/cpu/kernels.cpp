#include "backends/cpu/kernels.h"

#include "backends/generic_kernels.h"

namespace rondo::cpu {

std::span<const KernelEntry> kernels() {
  static const std::vector<KernelEntry> all = [] {
    std::vector<KernelEntry> entries;
    for (const auto part :
         {tiled_linear_kernels(), linear_kernels(), int8_linear_kernels(), decoded_linear_kernels(), conv2d_kernels(),
          attention_node_kernels(), norm_kernels(), row_kernels(), group_norm_kernels(), copy_kernels(),
          exchange_kernels(), wire_kernels(), reference_kernels()}) {
      entries.insert(entries.end(), part.begin(), part.end());
    }
    return entries;
  }();
  return all;
}

}  // namespace rondo::cpu
