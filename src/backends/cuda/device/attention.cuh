// Flash attention (Dao et al., 2022) in float32 arithmetic, for what cuDNN refuses: every floating dtype, any mask,
// head dims that are no multiple of 8. A block takes kQueries queries of one head and goes over the keys kKeys at a
// time; a warp keeps kOwn queries, a lane a key while scores are found and columns of the output while they are summed.
#pragma once

#include "backends/cuda/device/numbers.cuh"

namespace rondo::cuda {

constexpr int kAttentionWarps = 4;
constexpr int kOwn = 4;
constexpr int kQueries = kAttentionWarps * kOwn;
constexpr int kKeys = kWarp;
constexpr int kMostColumns = static_cast<int>(kWidestHead) / kWarp;

/// Offsets of a row of [B, S, N, D], which stands in the last four axes.
__device__ inline std::int64_t head_row(const View& view, std::int64_t batch, std::int64_t token, std::int64_t head) {
  constexpr int kBatch = View::kAxes - 4;
  return batch * view.stride[kBatch] + token * view.stride[kBatch + 1] + head * view.stride[kBatch + 2];
}

/// What a block works on: queries from `first` on of a head. Blocks of a head are neighbours: they share its keys.
struct BlockQueries {
  std::int64_t batch;
  std::int64_t head;
  std::int64_t key_head;
  std::int64_t first;
};
template <int queries>
__device__ BlockQueries block_queries(const AttentionLaunch& call) {
  constexpr int kHeads = View::kAxes - 2;
  const std::int64_t blocks = (call.query.extent[kHeads - 1] + queries - 1) / queries;  // of a head
  const std::int64_t heads = call.query.extent[kHeads];
  const std::int64_t head = blockIdx.x / blocks % heads;
  return {blockIdx.x / blocks / heads, head, head / (heads / call.key.extent[kHeads]), blockIdx.x % blocks * queries};
}

template <typename T>
__global__ void attention_kernel(AttentionLaunch call) {
  constexpr int kAxis = View::kAxes - 4;
  const std::int64_t queries = call.query.extent[kAxis + 1];
  const std::int64_t width = call.query.extent[kAxis + 3];
  const std::int64_t keys = call.key.extent[kAxis + 1];
  const std::int64_t value_width = call.value.extent[kAxis + 3];
  const auto [batch, head, key_head, block_first] = block_queries<kQueries>(call);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t first = block_first + warp * kOwn;

  // A column more than a row has keeps the lanes, each at its key's row, in banks of their own.
  float* const shared = static_cast<float*>(dynamic_shared());
  const std::int64_t pitch = (width > value_width ? width : value_width) + 1;
  float* const query_rows = shared;                       // [kQueries][pitch]
  float* const key_rows = query_rows + kQueries * pitch;  // [kKeys][pitch], values likewise
  float* const value_rows = key_rows + kKeys * pitch;

  for (int q = 0; q < kOwn; ++q) {
    if (first + q >= queries) continue;
    const T* const row = static_cast<const T*>(call.query.data) + head_row(call.query, batch, first + q, head);
    for (std::int64_t d = lane; d < width; d += kWarp)
      query_rows[(warp * kOwn + q) * pitch + d] = to_float(row[d]) * call.scale;
  }
  float most[kOwn];
  float total[kOwn];
  float sums[kOwn][kMostColumns];
  for (int q = 0; q < kOwn; ++q) {
    most[q] = -INFINITY;
    total[q] = 0;
    for (float& sum : sums[q]) sum = 0;
  }

  for (std::int64_t begin = 0; begin < keys; begin += kKeys) {
    __syncthreads();  // the keys before have been read
    for (int r = warp; r < kKeys && begin + r < keys; r += kAttentionWarps) {
      const T* const k = static_cast<const T*>(call.key.data) + head_row(call.key, batch, begin + r, key_head);
      const T* const v = static_cast<const T*>(call.value.data) + head_row(call.value, batch, begin + r, key_head);
      for (std::int64_t d = lane; d < width; d += kWarp) key_rows[r * pitch + d] = to_float(k[d]);
      for (std::int64_t d = lane; d < value_width; d += kWarp) value_rows[r * pitch + d] = to_float(v[d]);
    }
    __syncthreads();
    for (int q = 0; q < kOwn; ++q) {
      const std::int64_t query = first + q;
      if (query >= queries) continue;  // of a whole warp
      const std::int64_t key = begin + lane;
      float score = -INFINITY;
      if (key < keys && !(call.causal && key > query + keys - queries)) {
        score = 0;
        for (std::int64_t d = 0; d < width; ++d)
          score += query_rows[(warp * kOwn + q) * pitch + d] * key_rows[lane * pitch + d];
        if (call.mask.data != nullptr) {
          const std::int64_t at = batch * call.mask.stride[kAxis] + head * call.mask.stride[kAxis + 1] +
                                  query * call.mask.stride[kAxis + 2] + key * call.mask.stride[kAxis + 3];
          const float mask = load(call.mask.data, call.mask.number, at);
          if (call.mask.number == Number::boolean)
            score = mask != 0 ? score : -INFINITY;
          else
            score += mask;
        }
      }
      const float largest = fmaxf(most[q], warp_max(score));
      // NaN scores stay: fmaxf drops them, the weights do not.
      const float reference = largest == -INFINITY ? 0.0F : largest;
      const float weight = expf(score - reference);
      const float decay = expf(most[q] - reference);
      most[q] = largest;
      total[q] = total[q] * decay + warp_sum(weight);
      for (float& sum : sums[q]) sum *= decay;
      for (int j = 0; j < kKeys && begin + j < keys; ++j) {
        const float w = __shfl_sync(0xFFFFFFFFU, weight, j);
        for (int c = 0; c < kMostColumns; ++c) {
          const std::int64_t d = c * kWarp + lane;
          if (d < value_width) sums[q][c] += w * value_rows[j * pitch + d];
        }
      }
    }
  }

  for (int q = 0; q < kOwn; ++q) {
    const std::int64_t query = first + q;
    if (query >= queries) continue;
    const std::int64_t offset = head_row(call.output, batch, query, head);
    for (int c = 0; c < kMostColumns; ++c) {
      const std::int64_t d = c * kWarp + lane;
      if (d >= value_width) continue;
      const float result = total[q] == 0 ? 0.0F : sums[q][c] / total[q];
      if (call.output.number == Number::f32 && call.query.number != Number::f32)
        static_cast<float*>(call.output.data)[offset + d] = result;  // a partial result
      else
        static_cast<T*>(call.output.data)[offset + d] = from_float<T>(result);
    }
    if (lane == 0 && call.lse != nullptr) {
      call.lse[batch * call.lse_batch_stride + head * call.lse_head_stride + query] =
          total[q] == 0 ? -INFINITY : most[q] + logf(total[q]);
    }
  }
}

}  // namespace rondo::cuda
