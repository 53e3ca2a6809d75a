// Splits a row-wise kernel's rows over threads.
#pragma once

#include <algorithm>

#include "backends/cpu/simd_rows.h"
#include "backends/kernel.h"
#include "core/threads.h"

namespace rondo::cpu {

/// Calls body(RowRange) for parts of the rows of `shape`.
template <typename Body>
void over_rows(const KernelArgs& args, const Shape& shape, const Body& body) {
  // For one thread to be worth waking: 16 K elements take about 2 us, as long as a fork and join.
  const std::int64_t grain = std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, shape.back()));
  parallel_ranges(args.threads, shape.rows(), grain, [&](std::int64_t begin, std::int64_t end) {
    body(RowRange{begin, end, shape.back()});
  });
}

}  // namespace rondo::cpu
