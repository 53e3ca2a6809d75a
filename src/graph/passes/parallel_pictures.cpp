#include "graph/passes/parallel_pictures.h"

#include <algorithm>

#include "ops/group_moments.h"
#include "ops/layout.h"

namespace rondo {
namespace {

bool is_one_run(const TokenLayout& layout) {
  return layout.runs.size() == 1 && layout.runs[0].is_split() && layout.tokens() > 0;
}

/// The same split of another number of rows.
TokenLayout scaled(const TokenLayout& layout, std::int64_t rows) {
  TokenLayout result = layout;
  for (std::int64_t& bound : result.runs[0].bounds) bound = bound * rows / layout.tokens();
  return result;
}

}  // namespace

std::optional<SplitPicture> ParallelPictures::convolve(const Conv2dOp& op, const SplitPicture& x,
                                                       std::span<const ValueId> parameters) {
  if (!is_one_run(x.rows)) return std::nullopt;
  const std::int64_t rows = x.rows.tokens();
  const std::int64_t kernel = b_.shape(parameters[0])[2];
  const Conv2dOp::Padding padding = op.padding();
  const TokenLayout result = scaled(x.rows, (rows + padding.top + padding.bottom - kernel) / op.stride() + 1);
  const auto made_by = [&](int rank) { return result.runs[0].held_by(rank, rank + 1); };
  // The rows that a rank's results read, those of the padding included.
  const auto read_by = [&](int rank) {
    const ElementRange made = made_by(rank);
    return ElementRange{made.begin * op.stride() - padding.top, (made.end - 1) * op.stride() - padding.top + kernel};
  };
  std::vector<ElementRange> wanted;
  bool has_all = true;
  for (int rank = 0; rank < how_.ranks(); ++rank) {
    const ElementRange made = made_by(rank);
    const ElementRange read = read_by(rank);
    const ElementRange held = x.rows.runs[0].held_by(rank, rank + 1);
    const bool reads = made.begin < made.end;
    wanted.push_back(reads ? ElementRange{std::max<std::int64_t>(0, read.begin), std::min(rows, read.end)}
                           : ElementRange{held.begin, held.begin});
    has_all = has_all && (!reads || (wanted.back().begin == held.begin && wanted.back().end == held.end));
  }
  const ValueId input = has_all ? x.id : c_.fetch_tokens(x.id, x.rows, wanted, "halo rows");
  const ElementRange made = made_by(how_.rank());
  if (made.begin == made.end) {
    const Shape& weight = b_.shape(parameters[0]);
    const std::int64_t width = (b_.shape(x.id)[2] + padding.left + padding.right - weight[3]) / op.stride() + 1;
    const Tensor none = Tensor::empty({b_.shape(x.id)[0], 0, width, weight[0]}, b_.type(x.id).dtype);
    return SplitPicture{b_.constant(none), result};
  }
  const ElementRange read = read_by(how_.rank());
  std::vector<ValueId> inputs{input};
  inputs.insert(inputs.end(), parameters.begin(), parameters.end());
  const Conv2dOp::Padding own{std::max<std::int64_t>(0, -read.begin), std::max<std::int64_t>(0, read.end - rows),
                              padding.left, padding.right};
  return SplitPicture{b_.add(std::make_shared<const Conv2dOp>(op.stride(), own), inputs), result};
}

std::optional<SplitPicture> ParallelPictures::normalize(const GroupNormOp& op, const SplitPicture& x, ValueId weight,
                                                        ValueId bias) {
  if (!is_one_run(x.rows) || b_.shape(x.id).rank() < 3) return std::nullopt;
  std::int64_t row = 1;  // positions
  for (std::size_t axis = 2; axis + 1 < b_.shape(x.id).rank(); ++axis) row *= b_.shape(x.id)[axis];
  std::vector<std::int64_t> counts;
  counts.reserve(static_cast<std::size_t>(how_.ranks()));
  for (int rank = 0; rank < how_.ranks(); ++rank) counts.push_back(x.rows.tokens_of(rank, rank + 1) * row);
  const ValueId moments = c_.gather_parts(b_.apply<GroupMomentsOp>({x.id}, op.groups()));
  return SplitPicture{b_.apply<GroupNormByMomentsOp>({x.id, moments, weight, bias}, std::move(counts), op.eps()),
                      x.rows};
}

std::optional<SplitPicture> ParallelPictures::upsample(const SplitPicture& x) {
  if (!is_one_run(x.rows)) return std::nullopt;
  return SplitPicture{b_.apply<UpsampleNearestOp>({x.id}), scaled(x.rows, 2 * x.rows.tokens())};
}

}  // namespace rondo
