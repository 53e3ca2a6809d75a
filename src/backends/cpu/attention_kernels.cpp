#include "backends/cpu/attention_kernels.h"

namespace rondo::cpu {

std::vector<std::shared_ptr<const AttentionKernel>> attention_kernels() {
  return {onednn_attention_kernel(), flash_attention_kernel()};
}

}  // namespace rondo::cpu
