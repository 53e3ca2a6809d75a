// Rows of a head on their way into 8 bits, as attention/quantized_attention.h defines it: the same integers at every
// CPU level.
#pragma once

#include <cstdint>

#include "rondo/dtype.h"

namespace rondo::cpu {

constexpr std::int64_t kWidestQuantizedHead = 512;

/// Rows of one head, and what is done to them first.
struct HeadRows {
  DType dtype;  // f32, bf16 or f16
  const void* rows;
  std::int64_t stride;  // elements from one row to the next
  std::int64_t width;
  const float* mean;   // [width], taken from every row, or null
  const float* signs;  // of the rotation, or null for rows that are not turned
};

struct FlashHeads;

/// The keys of a group of heads, their values, and the queries of one of the heads.
HeadRows key_rows(const FlashHeads& heads);
HeadRows value_rows(const FlashHeads& heads);
HeadRows query_rows(const FlashHeads& heads, std::int64_t head);

/// What channels are multiplied by before they are turned, for every width.
const float* rotation_signs();

/// The mean of `count` rows as they are, of which there is at least one. Equals key_mean().
void mean_of_rows(const HeadRows& rows, std::int64_t count, float* mean);

/// lse[i * lse_stride] += scale * row i . mean, for rows as they are.
void add_mean_scores(const HeadRows& rows, std::int64_t count, const float* mean, float scale, float* lse,
                     std::int64_t lse_stride);

/// Rows [first, first + count) as integers up to `limit`, each with a scale; negated when `limit` is negative. Targets
/// are `target_stride` bytes apart.
void quantize_int8_rows(const HeadRows& rows, std::int64_t first, std::int64_t count, int limit, std::int8_t* target,
                        std::int64_t target_stride, float* scales);

/// Columns of rows [first, first + count), at most kKeysOfBlock, as integers up to kInt8Limit, each with a scale; laid
/// out [row / 4][column][4 rows], where `target_width` columns stand. What belongs to no row or column stays as it is.
void quantize_int8_columns(const HeadRows& rows, std::int64_t first, std::int64_t count, std::int8_t* target,
                           std::int64_t target_width, float* scales);

/// Rows [first, first + count), at most kE4m3Keys, as e4m3 [count][width], with a scale for every kE4m3Columns columns.
/// `scratch` holds as many floats.
void quantize_e4m3_rows(const HeadRows& rows, std::int64_t first, std::int64_t count, std::uint8_t* target,
                        float* scales, float* scratch);

}  // namespace rondo::cpu
