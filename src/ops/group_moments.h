// GroupNorm in two halves, for pictures whose rows lie on several ranks: each rank's mean and squares, then the norm
// over all of them.
#pragma once

#include "ops/operator.h"

namespace rondo {

/// x [B, ..., C] -> [B, groups, 2] float32: the mean over all positions and a group's channels, and the mean of the
/// squared distance to it. Of no positions: 0 and 0.
class GroupMomentsOp final : public Operator {
 public:
  explicit GroupMomentsOp(std::int64_t groups) : groups_(groups) {}
  std::int64_t groups() const { return groups_; }
  std::string_view name() const override { return "group_moments"; }
  std::string attributes() const override { return fmt::format("groups={}", groups_); }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  std::int64_t groups_;
};

/// Moments of parts that have `counts` positions each, as one: (mean, variance) by Chan, Golub and LeVeque, 1979.
/// `moment(part)` is the pair that GroupMomentsOp gives.
template <typename Moment>
std::pair<double, double> joined_moments(std::span<const std::int64_t> counts, const Moment& moment) {
  double count = 0;
  double mean = 0;
  double squares = 0;
  for (std::size_t part = 0; part < counts.size(); ++part) {
    const auto more = static_cast<double>(counts[part]);
    if (more == 0) continue;
    const auto [part_mean, part_variance] = moment(part);
    const double distance = part_mean - mean;
    squares += part_variance * more + distance * distance * count * more / (count + more);
    mean += distance * more / (count + more);
    count += more;
  }
  return {mean, count == 0 ? 0 : squares / count};
}

/// x [B, ..., C], moments [parts, B, groups, 2], weight [C], bias [C] -> GroupNorm of x by the moments of all parts,
/// of which part i has counts[i] positions.
class GroupNormByMomentsOp final : public Operator {
 public:
  GroupNormByMomentsOp(std::vector<std::int64_t> counts, double eps) : counts_(std::move(counts)), eps_(eps) {}
  const std::vector<std::int64_t>& counts() const { return counts_; }
  double eps() const { return eps_; }
  std::string_view name() const override { return "group_norm_by_moments"; }
  std::string attributes() const override { return fmt::format("counts={} eps={}", fmt::join(counts_, ","), eps_); }
  std::vector<TensorType> infer(std::span<const TensorType> inputs) const override;
  void reference(std::span<const RefTensor> inputs, std::span<RefTensor> outputs) const override;

 private:
  std::vector<std::int64_t> counts_;
  double eps_;
};

}  // namespace rondo
