#include "parallel/cost_model.h"

#include <algorithm>
#include <cmath>

namespace rondo {
namespace {

/// The largest of `parts` even parts.
double largest_part(std::int64_t count, int parts) {
  const std::int64_t most = (count + parts - 1) / parts;
  return static_cast<double>(most);
}

/// What norms, modulations, RoPE and packing read and write of a token in a block, in elements of the model's width:
/// about 30 (counted on FLUX's blocks after fusion).
constexpr double kElementsPerToken = 30;

/// What TCP carries of a link's nominal rate (measured at 0.25 to 1 Gb/s).
constexpr double kLinkShare = 0.9;

}  // namespace

StepPrediction predict_step(const StepWorkload& w, const RankMachine& m, const ParallelDegrees& degrees) {
  StepPrediction p;
  p.degrees = degrees;
  const int ulysses = degrees.ulysses;
  const int ring = degrees.ring;
  const int ranks = degrees.sequence();
  const double network_rate = kLinkShare * m.network_rate;
  const auto width = static_cast<double>(w.width);
  const double branches = degrees.cfg > 1 ? 1 : w.branches;
  const double layers = static_cast<double>(w.layers) * branches;

  const double own_tokens = largest_part(w.tokens, ranks);
  const double ring_tokens = largest_part(w.tokens, ring);
  const double head_share = largest_part(w.heads, ulysses) / static_cast<double>(w.heads);
  const double linears = 24 * own_tokens * width * width / m.linear_rate;
  const double hop = 4 * ring_tokens * ring_tokens * width * head_share / m.attention_rate;
  const double elements = own_tokens * width * kElementsPerToken * w.element_bytes / m.memory_rate;
  p.compute = layers * (linears + ring * hop + elements) + w.shared_weight_bytes / m.memory_rate;

  // What one rank sends to one other in an exchange of heads, of one of query, key, value and output.
  const double chunk = own_tokens * width * head_share * w.element_bytes;
  const int here = std::min(ulysses, m.ranks_per_host);  // ranks of an exchange on one host
  if (ulysses > 1) {
    const double inside = (here - 1) * chunk / m.host_rate;
    const double outside = m.ranks_per_host * (ulysses - here) * chunk / network_rate;
    constexpr double kOperands = 4;
    constexpr double kExchanges = 3;  // keys and values travel together
    p.ulysses = layers * (kOperands * std::max(inside, outside) + kExchanges * (ulysses - 1) * m.latency);
    p.sent_bytes += layers * kOperands * (ulysses - 1) * chunk;
  }
  p.key_value_bytes = 2 * ring_tokens * width * head_share * w.element_bytes;
  if (ring > 1) {
    const bool leaves_host = ring * ulysses > m.ranks_per_host;
    const double sent = leaves_host ? std::min(m.ranks_per_host, ulysses) * p.key_value_bytes / network_rate
                                    : p.key_value_bytes / m.host_rate;
    p.ring = layers * (ring - 1) * std::max(0.0, sent + m.latency - hop);
    p.sent_bytes += layers * (ring - 1) * p.key_value_bytes;
  }
  return p;
}

std::vector<StepPrediction> rank_degrees(const StepWorkload& workload, const RankMachine& machine, int ranks) {
  std::vector<StepPrediction> all;
  for (int cfg = 1; cfg <= std::min(2, workload.branches); ++cfg) {
    if (ranks % cfg != 0) continue;
    const int sequence = ranks / cfg;
    for (int ulysses = 1; ulysses <= sequence; ++ulysses) {
      if (sequence % ulysses == 0)
        all.push_back(predict_step(workload, machine, {1, cfg, sequence / ulysses, ulysses}));
    }
  }
  std::sort(all.begin(), all.end(),
            [](const StepPrediction& a, const StepPrediction& b) { return a.total() < b.total(); });
  // Among those within 1 % of the fastest.
  const double most = all.front().total() * 1.01;
  const auto close = std::find_if(all.begin(), all.end(), [&](const StepPrediction& p) { return p.total() > most; });
  std::stable_sort(all.begin(), close, [](const StepPrediction& a, const StepPrediction& b) {
    return a.key_value_bytes < b.key_value_bytes;
  });
  return all;
}

}  // namespace rondo
