#include "backends/cpu/key_means.h"

#include "backends/cpu/flash_chunks.h"
#include "backends/cpu/simd_head_rows.h"
#include "core/threads.h"

namespace rondo::cpu {

std::size_t KeyMeans::bytes(const AttentionProblem& problem) {
  if (!problem.quantization.smooths) return 0;
  const auto floats = static_cast<std::size_t>(problem.batch * problem.key_heads * problem.head_dim);
  return (floats * sizeof(float) + 63) / 64 * 64;
}

KeyMeans::KeyMeans(const AttentionCall& call, float* memory) : call_(call), means_(memory) {
  if (means_ == nullptr) return;
  const std::int64_t heads = call.key.shape()[2];
  const std::int64_t width = call.key.shape()[3];
  parallel_items(call.threads, static_cast<std::int64_t>(call.sequences.size()) * heads,
                 [&](std::int64_t item, int /*worker*/) {
                   const AttentionSequence& s = call.sequences[static_cast<std::size_t>(item / heads)];
                   if (s.keys > 0)
                     mean_of_rows(key_rows(flash_heads(call, s, item % heads)), s.keys, means_ + item * width);
                 });
}

const float* KeyMeans::of(const AttentionSequence& sequence, std::int64_t key_head) const {
  if (means_ == nullptr) return nullptr;
  const std::int64_t index = &sequence - call_.sequences.data();
  return means_ + (index * call_.key.shape()[2] + key_head) * call_.key.shape()[3];
}

void KeyMeans::put_back() const {
  if (means_ == nullptr || !call_.lse.defined()) return;
  const std::int64_t heads = call_.key.shape()[2];
  parallel_items(call_.threads, static_cast<std::int64_t>(call_.sequences.size()) * heads,
                 [&](std::int64_t item, int /*worker*/) {
                   const AttentionSequence& s = call_.sequences[static_cast<std::size_t>(item / heads)];
                   if (s.keys == 0) return;
                   const FlashHeads group = flash_heads(call_, s, item % heads);
                   for (std::int64_t head = 0; head < group.group; ++head) {
                     add_mean_scores(query_rows(group, head), s.queries, of(s, item % heads), call_.scale,
                                     group.lse + head * group.lse_head_stride, group.lse_stride);
                   }
                 });
}

}  // namespace rondo::cpu
