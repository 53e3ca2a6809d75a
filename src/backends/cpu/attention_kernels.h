// Attention on the CPU: what the registry and the graph take from this backend.
#pragma once

#include <memory>
#include <vector>

#include "attention/attention_kernel.h"

namespace rondo::cpu {

/// Best first.
std::vector<std::shared_ptr<const AttentionKernel>> attention_kernels();

std::shared_ptr<const AttentionKernel> flash_amx_attention_kernel();
std::shared_ptr<const AttentionKernel> flash_bf16_attention_kernel();
std::shared_ptr<const AttentionKernel> flash_attention_kernel();
std::shared_ptr<const AttentionKernel> flash_int8_attention_kernel();
/// Best first.
std::vector<std::shared_ptr<const AttentionKernel>> flash_fp8_attention_kernels();
std::shared_ptr<const AttentionKernel> onednn_attention_kernel();

}  // namespace rondo::cpu
