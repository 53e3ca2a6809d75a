#include "backends/cpu/attention_kernels.h"

namespace rondo::cpu {

std::vector<std::shared_ptr<const AttentionKernel>> attention_kernels() {
  std::vector<std::shared_ptr<const AttentionKernel>> kernels{flash_amx_attention_kernel(),
                                                              flash_bf16_attention_kernel(), onednn_attention_kernel(),
                                                              flash_attention_kernel(), flash_int8_attention_kernel()};
  for (auto& kernel : flash_fp8_attention_kernels()) kernels.push_back(std::move(kernel));
  return kernels;
}

}  // namespace rondo::cpu
