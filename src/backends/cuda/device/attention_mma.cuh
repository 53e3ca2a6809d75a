// Flash attention (Dao, 2023) on tensor cores: bfloat16 and float16, any mask. A block takes kMmaQueries queries of one
// head, a warp 16 of them; keys and values come a tile at a time, the next while one is multiplied. Weights are rounded
// to the operands' dtype.
#pragma once

#include "backends/cuda/device/attention.cuh"
#include "backends/cuda/device/tensor_cores.cuh"

namespace rondo::cuda {

constexpr int kMmaWarps = 4;
constexpr int kMmaQueries = 16 * kMmaWarps;

/// Heads of up to `width` columns; rows in shared memory are 16 bytes longer, so that eight of them lie in banks of
/// their own.
template <int width>
struct MmaTile {
  static constexpr int kPitch = width + 8;
  static constexpr int kKeys = width > 64 ? 32 : 64;
  static constexpr int kStages = 2;
  static constexpr std::size_t kSharedBytes =
      static_cast<std::size_t>(kMmaQueries + 2 * kStages * kKeys) * kPitch * sizeof(std::uint16_t);
  static_assert(kSharedBytes <= 99 * 1024, "what Ada has for a block");
};

/// Begins to copy rows [first, first + rows) of a head, those from `end` on and columns from the head's width on as
/// zeros.
template <typename T, int width, int rows>
__device__ void begin_tile(T* tile, const View& view, std::int64_t batch, std::int64_t head, std::int64_t first,
                           std::int64_t end) {
  constexpr int kParts = width / 8;  // of 16 bytes
  const std::int64_t columns = view.extent[View::kAxes - 1];
  for (int i = static_cast<int>(threadIdx.x); i < rows * kParts; i += kMmaWarps * kWarp) {
    const int row = i / kParts;
    const int column = i % kParts * 8;
    const bool there = first + row < end && column < columns;
    const T* const from = static_cast<const T*>(view.data) +
                          (there ? head_row(view, batch, first + row, head) + column : std::int64_t{0});
    begin_copy(tile + row * MmaTile<width>::kPitch + column, from, there);
  }
}

/// What a row's weights depend on beside its scores.
struct MmaRow {
  float most = -INFINITY;
  float total = 0;
};

/// The largest, or the sum, over the four lanes that share a row.
__device__ inline float row_most(float value) {
  for (int distance = 1; distance < 4; distance *= 2)
    value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFFU, value, distance));
  return value;
}
__device__ inline float row_total(float value) {
  for (int distance = 1; distance < 4; distance *= 2) value += __shfl_xor_sync(0xFFFFFFFFU, value, distance);
  return value;
}

template <typename T, int width, bool masked>
__global__ void attention_mma_kernel(AttentionLaunch call) {
  using Tile = MmaTile<width>;
  constexpr int kAxis = View::kAxes - 4;
  constexpr int kKeyTiles = Tile::kKeys / 8;  // of a fragment's columns
  constexpr int kValueTiles = width / 8;
  const std::int64_t queries = call.query.extent[kAxis + 1];
  const std::int64_t keys = call.key.extent[kAxis + 1];
  const auto [batch, head, key_head, first] = block_queries<kMmaQueries>(call);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t own = first + warp * 16 + lane / 4;  // its first row; the second is 8 further
  const std::int64_t more = keys - queries;               // keys that causality shows to query 0, but one

  T* const query_tile = static_cast<T*>(dynamic_shared());
  T* const key_tiles = query_tile + kMmaQueries * Tile::kPitch;
  T* const value_tiles = key_tiles + Tile::kStages * Tile::kKeys * Tile::kPitch;
  const auto begin_stage = [&](std::int64_t tile) {
    const std::int64_t offset = tile % Tile::kStages * Tile::kKeys * Tile::kPitch;
    begin_tile<T, width, Tile::kKeys>(key_tiles + offset, call.key, batch, key_head, tile * Tile::kKeys, keys);
    begin_tile<T, width, Tile::kKeys>(value_tiles + offset, call.value, batch, key_head, tile * Tile::kKeys, keys);
    end_copy_group();
  };

  std::int64_t seen = keys;  // by the block's last query
  if (call.causal) {
    const std::int64_t last = (first + kMmaQueries < queries ? first + kMmaQueries : queries) + more;
    seen = last < keys ? (last > 0 ? last : 0) : keys;
  }
  const std::int64_t tiles = (seen + Tile::kKeys - 1) / Tile::kKeys;

  MmaRow rows[2];
  float sums[kValueTiles][4];
#pragma unroll
  for (auto& fragment : sums) {
    for (float& sum : fragment) sum = 0;
  }
  if (tiles > 0) {
    begin_tile<T, width, kMmaQueries>(query_tile, call.query, batch, head, first, queries);
    begin_stage(0);
  }

  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    if (tile + 1 < tiles) {
      begin_stage(tile + 1);
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    __syncthreads();
    const T* const key_tile = key_tiles + tile % Tile::kStages * Tile::kKeys * Tile::kPitch;
    const T* const value_tile = value_tiles + tile % Tile::kStages * Tile::kKeys * Tile::kPitch;

    float scores[kKeyTiles][4];
#pragma unroll
    for (auto& fragment : scores) {
      for (float& score : fragment) score = 0;
    }
#pragma unroll
    for (int k = 0; k < width; k += 16) {
      std::uint32_t a[4];
      load_matrices(a, query_tile + (warp * 16 + lane % 16) * Tile::kPitch + k + lane / 16 * 8);
#pragma unroll
      for (int n = 0; n < kKeyTiles; n += 2) {
        std::uint32_t b[4];
        load_matrices(b, key_tile + (n * 8 + lane / 16 * 8 + lane % 8) * Tile::kPitch + k + lane / 8 % 2 * 8);
        multiply_add<T>(scores[n], a, b[0], b[1]);
        multiply_add<T>(scores[n + 1], a, b[2], b[3]);
      }
    }

    // Most tiles are whole: every query of the warp sees every key.
    const std::int64_t begin = tile * Tile::kKeys;
    const std::int64_t end = begin + Tile::kKeys;
    const bool whole = end <= keys && !(call.causal && end - 1 > first + warp * 16 + more);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const std::int64_t query = own + r * 8;
      const std::int64_t last = call.causal ? query + more : keys - 1;  // that it sees
      const std::int64_t mask_row = masked ? batch * call.mask.stride[kAxis] + head * call.mask.stride[kAxis + 1] +
                                                 (query < queries ? query : queries - 1) * call.mask.stride[kAxis + 2]
                                           : 0;
      float most = rows[r].most;
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
        for (int j = 0; j < 2; ++j) {
          const std::int64_t key = begin + n * 8 + lane % 4 * 2 + j;
          float& score = scores[n][r * 2 + j];
          score *= call.scale;
          if (!whole && (key >= keys || key > last)) {
            score = -INFINITY;
          } else if (masked) {
            const float mask = load(call.mask.data, call.mask.number, mask_row + key * call.mask.stride[kAxis + 3]);
            if (call.mask.number != Number::boolean)
              score += mask;
            else if (mask == 0)
              score = -INFINITY;
          }
          most = fmaxf(most, score);  // drops NaNs, which weights keep
        }
      }
      most = row_most(most);
      const float reference = most == -INFINITY ? 0.0F : most;
      const float decay = __expf(rows[r].most - reference);
      float total = 0;
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
        for (int j = 0; j < 2; ++j) {
          float& score = scores[n][r * 2 + j];
          score = __expf(score - reference);
          total += score;
        }
      }
      rows[r] = {most, rows[r].total * decay + row_total(total)};
#pragma unroll
      for (int n = 0; n < kValueTiles; ++n) {
        sums[n][r * 2] *= decay;
        sums[n][r * 2 + 1] *= decay;
      }
    }

    // Sums of two tiles of keys are an operand as they stand.
#pragma unroll
    for (int k = 0; k < kKeyTiles; k += 2) {
      const std::uint32_t a[4] = {pair_of<T>(scores[k][0], scores[k][1]), pair_of<T>(scores[k][2], scores[k][3]),
                                  pair_of<T>(scores[k + 1][0], scores[k + 1][1]),
                                  pair_of<T>(scores[k + 1][2], scores[k + 1][3])};
#pragma unroll
      for (int n = 0; n < kValueTiles; n += 2) {
        std::uint32_t b[4];
        load_matrices_transposed(
            b, value_tile + (k * 8 + lane / 8 % 2 * 8 + lane % 8) * Tile::kPitch + n * 8 + lane / 16 * 8);
        multiply_add<T>(sums[n], a, b[0], b[1]);
        multiply_add<T>(sums[n + 1], a, b[2], b[3]);
      }
    }
    __syncthreads();  // the tile has been read
  }
  const bool partial = call.output.number == Number::f32;
  const std::int64_t columns = call.output.extent[View::kAxes - 1];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const std::int64_t query = own + r * 8;
    if (query >= queries) continue;
    const float inverse = rows[r].total == 0 ? 0.0F : 1.0F / rows[r].total;
    const std::int64_t offset = head_row(call.output, batch, query, head);
#pragma unroll
    for (int n = 0; n < kValueTiles; ++n) {
      for (int j = 0; j < 2; ++j) {
        const std::int64_t column = n * 8 + lane % 4 * 2 + j;
        if (column >= columns) continue;
        const float result = sums[n][r * 2 + j] * inverse;
        if (partial)
          static_cast<float*>(call.output.data)[offset + column] = result;
        else
          static_cast<T*>(call.output.data)[offset + column] = from_float<T>(result);
      }
    }
    if (lane % 4 == 0 && call.lse != nullptr) {
      call.lse[batch * call.lse_batch_stride + head * call.lse_head_stride + query] =
          rows[r].total == 0 ? -INFINITY : rows[r].most + logf(rows[r].total);
    }
  }
}

}  // namespace rondo::cuda
