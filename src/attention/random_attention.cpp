#include "attention/random_attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

namespace rondo {
namespace {

class Source {
 public:
  explicit Source(std::uint64_t seed) : engine_(seed) {}

  /// [outer axes..., tokens, heads, width] as `layout` orders them in memory, as a BSND view.
  Tensor rows(const Shape& bsnd, DType dtype, const AttentionProblem& problem, double spread, std::int64_t padding) {
    const bool heads_first = problem.layout == AttentionLayout::bnsd;
    Shape memory = heads_first ? Shape{bsnd[0], bsnd[2], bsnd[1], bsnd[3]} : bsnd;
    memory[3] += padding;
    const Tensor stored = noise(memory, spread).to(dtype).sliced(3, 0, bsnd[3]);
    return heads_first ? stored.transposed(1, 2) : stored;
  }

  Tensor mask(const AttentionProblem& p) {
    if (p.mask == MaskKind::none) return {};
    const Shape shape{p.mask_batch ? p.batch : 1, p.mask_heads ? p.heads : 1, p.mask_queries ? p.queries : 1, p.keys};
    if (p.mask == MaskKind::additive) {
      Tensor added = noise(shape, 1);
      for (std::int64_t i = 0; i < added.elements(); ++i) {
        if (engine_() % 5 == 0) added.as<float>()[i] = -std::numeric_limits<float>::infinity();
      }
      return added;
    }
    Tensor kept = Tensor::empty(shape, DType::boolean);
    for (std::int64_t i = 0; i < kept.elements(); ++i) kept.as<bool>()[i] = engine_() % 3 != 0;
    return kept;
  }

 private:
  Tensor noise(const Shape& shape, double spread) {
    constexpr std::int64_t kPeriod = 1'000'003;  // a prime, so that rows do not repeat
    Tensor tensor = Tensor::empty(shape, DType::f32);
    std::normal_distribution<float> normal(0, static_cast<float>(spread));
    const std::int64_t drawn = std::min(kPeriod, tensor.elements());
    std::generate_n(tensor.as<float>(), drawn, [&] { return normal(engine_); });
    for (std::int64_t i = drawn; i < tensor.elements(); ++i) tensor.as<float>()[i] = tensor.as<float>()[i - kPeriod];
    return tensor;
  }

  std::mt19937_64 engine_;
};

/// Where sequences of 1 / count, 2 / count ... of `longest` tokens begin, and where the last ends.
std::vector<std::int32_t> boundaries(std::int64_t count, std::int64_t longest) {
  std::vector<std::int32_t> result{0};
  for (std::int64_t i = 1; i <= count; ++i)
    result.push_back(result.back() + static_cast<std::int32_t>(longest * i / count));
  return result;
}

float dot(const float* a, const float* b, std::int64_t count) {
  constexpr std::int64_t kLanes = 16;  // partial sums that a compiler can keep in vectors
  std::array<float, kLanes> sums{};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane)
      sums[static_cast<std::size_t>(lane)] += a[i + lane] * b[i + lane];
  }
  for (; i < count; ++i) sums[0] += a[i] * b[i];
  return std::accumulate(sums.begin(), sums.end(), 0.0F);
}

}  // namespace

RandomAttention::RandomAttention(const AttentionProblem& p, const AttentionSample& sample) : problem(p) {
  Source source(sample.seed);
  std::int64_t rows = p.batch;
  std::int64_t query_tokens = p.queries;
  std::int64_t key_tokens = p.keys;
  if (p.varlen) {
    cu_seqlens_q = boundaries(p.batch, p.queries);
    cu_seqlens_k = boundaries(p.batch, p.keys);
    rows = 1;
    query_tokens = cu_seqlens_q.back();
    key_tokens = cu_seqlens_k.back();
  }
  for (std::size_t b = 0; b < static_cast<std::size_t>(p.batch); ++b) {
    if (p.varlen) {
      sequences.push_back({0, cu_seqlens_q[b], cu_seqlens_q[b + 1] - cu_seqlens_q[b], cu_seqlens_k[b],
                           cu_seqlens_k[b + 1] - cu_seqlens_k[b]});
    } else {
      sequences.push_back({static_cast<std::int64_t>(b), 0, p.queries, 0, p.keys});
    }
  }
  query = source.rows({rows, query_tokens, p.heads, p.head_dim}, p.dtype, p, sample.spread, sample.padding);
  key = source.rows({rows, key_tokens, p.key_heads, p.head_dim}, p.dtype, p, sample.spread, sample.padding);
  value = source.rows({rows, key_tokens, p.key_heads, p.value_dim}, p.dtype, p, 1, sample.padding);
  mask = source.mask(p);
  if (p.own_scale) scale = 0.5 / std::sqrt(static_cast<double>(p.head_dim));
}

double RandomAttention::flops() const {
  double pairs = 0;
  for (const AttentionSequence& s : sequences) {
    const auto q = static_cast<double>(s.queries);
    const auto k = static_cast<double>(s.keys);
    // Query i sees i + 1 + keys - queries of them, none where that is negative.
    pairs += problem.causal ? std::min(q, k) * (k + std::max(0.0, k - q) + 1) / 2 : q * k;
  }
  return 2.0 * static_cast<double>(problem.heads) * pairs * static_cast<double>(problem.head_dim + problem.value_dim);
}

double RandomAttention::largest_score() const {
  float largest = 0;
  for (const AttentionSequence& s : sequences) {
    for (std::int64_t head = 0; head < problem.heads; ++head) {
      const auto rows = [&](const Tensor& tensor, std::int64_t at, std::int64_t begin, std::int64_t count) {
        return tensor.sliced(0, s.batch, s.batch + 1)
            .sliced(1, begin, begin + count)
            .sliced(2, at, at + 1)
            .to_float32();
      };
      const Tensor q = rows(query, head, s.query_begin, s.queries);
      const Tensor k = rows(key, head * problem.key_heads / problem.heads, s.key_begin, s.keys);
      for (std::int64_t i = 0; i < s.queries; ++i) {
        for (std::int64_t j = 0; j < s.keys; ++j) {
          const float* left = q.as<float>() + i * problem.head_dim;
          largest = std::max(largest, std::fabs(dot(left, k.as<float>() + j * problem.head_dim, problem.head_dim)));
        }
      }
    }
  }
  return static_cast<double>(largest) * scale.value_or(1.0 / std::sqrt(static_cast<double>(problem.head_dim)));
}

AttentionCall RandomAttention::call(int threads) const {
  const Shape& q = query.shape();
  AttentionCall call{};
  call.query = query;
  call.key = key;
  call.value = value;
  call.mask = mask;
  call.output = Tensor::empty({q[0], q[1], q[2], value.shape()[3]}, query.dtype());
  if (problem.lse) call.lse = Tensor::empty({q[0], q[2], q[1]}, DType::f32);
  call.sequences = sequences;
  call.scale = static_cast<float>(scale.value_or(1.0 / std::sqrt(static_cast<double>(problem.head_dim))));
  call.causal = problem.causal;
  call.threads = threads;
  return call;
}

}  // namespace rondo
