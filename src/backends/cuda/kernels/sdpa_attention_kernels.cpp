// "cudnn" and "cudnn-fp8": cuDNN's scaled dot product attention.
#include <fmt/format.h>

#include <array>
#include <bit>
#include <map>
#include <mutex>

#include "attention/quantization_limits.h"
#include "backends/cuda/sdpa.h"
#include "quantization/linear_quantization.h"
#include "rondo/error.h"

namespace rondo::cuda {
namespace {

/// Weights are up to 1: a power of two that e4m3 holds with room to spare.
constexpr float kWeightFactor = 256;

/// Operands in e4m3 and their scales.
struct QuantizedCall {
  Tensor query;
  Tensor key;
  Tensor value;
  SdpaScales scales;
  Tensor numbers;  // that the scales point into
  const float* output_scale = nullptr;
};

class SdpaRunner final : public AttentionRunner {
 public:
  explicit SdpaRunner(const AttentionProblem& problem, DType output)
      : problem_(problem), output_(output), flash_(flash_attention_kernel()->make(problem, {}, 1)) {}
  std::size_t scratch_bytes() const override { return 0; }

  void run(const AttentionCall& call, std::span<std::byte> scratch) const override {
    if (call.output.elements() == 0) return;
    const CudaRun run(*call.device, *call.stream);
    if (!problem_.varlen) return attend(run, call, call.output, call.lse, {});
    // What sees nothing is not cuDNN's affair.
    std::vector<AttentionSequence> usual;
    std::vector<AttentionSequence> odd;
    for (const AttentionSequence& s : call.sequences) {
      if (s.queries == 0) continue;
      (s.keys == 0 || (call.causal && s.queries > s.keys) ? odd : usual).push_back(s);
    }
    for (std::size_t first = 0; first < usual.size(); first += PackedSequences::kMost) {
      const std::size_t count = std::min<std::size_t>(PackedSequences::kMost, usual.size() - first);
      attend(run, call, call.output, call.lse, std::span(usual).subspan(first, count));
    }
    if (odd.empty()) return;
    AttentionCall rest = call;
    rest.sequences = odd;
    flash_->run(rest, scratch);
  }

 private:
  void attend(const CudaRun& run, const AttentionCall& call, const Tensor& target, const Tensor& lse,
              std::span<const AttentionSequence> packed) const {
    SdpaOperands o{call.query, call.key, call.value, target, lse, {}, {}};
    QuantizedCall quantized;
    if (problem_.quantization.active()) {
      quantized = quantize(run, call);
      o.query = quantized.query;
      o.key = quantized.key;
      o.value = quantized.value;
      o.scales = quantized.scales;
    }
    if (target.dtype() != output_) o.output = run.temporary(target.shape(), output_);
    SdpaProblem problem{call.query.device(), o.query, o.key, o.value, o.output, call.scale, call.causal, lse.defined()};
    Tensor numbers;
    if (!packed.empty()) {
      std::int64_t queries = 0;
      std::int64_t keys = 0;
      for (const AttentionSequence& s : packed) {
        queries = std::max(queries, s.queries);
        keys = std::max(keys, s.keys);
      }
      const auto count = static_cast<std::int64_t>(packed.size());
      problem.packed = true;
      problem.query = as_sequences(o.query, count, queries);
      problem.key = as_sequences(o.key, count, keys);
      problem.value = as_sequences(o.value, count, keys);
      problem.output = as_sequences(o.output, count, queries);
      if (lse.defined()) o.lse = run.temporary({count, lse.shape()[1], queries}, DType::f32);
      numbers = run.temporary({PackedSequences::kValues}, DType::s32);
      o.sequences = write_sequences_of(run, o, packed, numbers);
    }
    sdpa_for(problem)->run(run, o);
    for (std::size_t i = 0; lse.defined() && i < packed.size(); ++i) {
      const AttentionSequence& s = packed[i];
      const auto at = static_cast<std::int64_t>(i);
      copy(view_of(o.lse.sliced(0, at, at + 1).sliced(2, 0, s.queries)),
           view_of(lse.sliced(2, s.query_begin, s.query_begin + s.queries)), run.handle());
    }
    if (target.dtype() == output_) return;
    if (packed.empty()) return bring(run, o.output, target, quantized.output_scale);
    for (const AttentionSequence& s : packed)
      bring(run, o.output.sliced(1, s.query_begin, s.query_begin + s.queries),
            target.sliced(1, s.query_begin, s.query_begin + s.queries), quantized.output_scale);
  }

  /// A result to where and in what dtype it is wanted.
  static void bring(const CudaRun& run, const Tensor& result, const Tensor& target, const float* scale) {
    if (result.dtype() != DType::f8_e4m3) return copy(view_of(result), view_of(target), run.handle());
    widen_e4m3(result.data(), scale, rows_of(target), run.handle());
  }

  /// A packed tensor [1, T, N, D] as cuDNN describes it: so many sequences of the longest one's length.
  static Tensor as_sequences(const Tensor& packed, std::int64_t count, std::int64_t longest) {
    const Shape& s = packed.shape();
    const Shape& strides = packed.strides();
    return Tensor::borrow(nullptr, {count, longest, s[2], s[3]}, packed.dtype())
        .restrided({count, longest, s[2], s[3]}, {longest * strides[1], strides[1], strides[2], strides[3]});
  }

  static SdpaSequences write_sequences_of(const CudaRun& run, const SdpaOperands& o,
                                          std::span<const AttentionSequence> packed, Tensor numbers) {
    PackedSequences values;
    constexpr std::size_t kPart = PackedSequences::kMost + 1;
    const auto fill = [&](std::size_t part, const auto& value_of) {
      for (std::size_t i = 0; i < packed.size(); ++i)
        values.values[part * kPart + i] = static_cast<std::int32_t>(value_of(packed[i]));
    };
    fill(0, [](const AttentionSequence& s) { return s.queries; });
    fill(1, [](const AttentionSequence& s) { return s.keys; });
    const AttentionSequence& last = packed.back();
    const auto fill_begins = [&](std::size_t part, const Tensor& x, bool of_queries) {
      const std::int64_t stride = x.strides()[1];
      fill(part, [&](const AttentionSequence& s) { return (of_queries ? s.query_begin : s.key_begin) * stride; });
      const std::int64_t end = of_queries ? last.query_begin + last.queries : last.key_begin + last.keys;
      values.values[part * kPart + packed.size()] = static_cast<std::int32_t>(end * stride);
    };
    fill_begins(2, o.query, true);
    fill_begins(3, o.key, false);
    fill_begins(4, o.value, false);
    fill_begins(5, o.output, true);
    auto* const to = numbers.as<std::int32_t>();
    write_sequences(values, to, run.handle());
    return {to, to + kPart, to + 2 * kPart, to + 3 * kPart, to + 4 * kPart, to + 5 * kPart};
  }

  QuantizedCall quantize(const CudaRun& run, const AttentionCall& call) const {
    enum Slot : std::size_t { kQuery, kKey, kValue, kInverseOfValue, kWeight, kFactor, kOne, kLargest, kSlots };
    QuantizedCall result;
    result.numbers = run.temporary({kSlots}, DType::f32);
    auto* const numbers = result.numbers.as<float>();
    auto* const bits = reinterpret_cast<std::uint32_t*>(numbers + kLargest);
    const auto narrow = [&](const Tensor& x, const HeadChange& change, Slot scale, float* inverse) {
      Tensor values = run.temporary(x.shape(), DType::f8_e4m3);
      largest_of_heads(rows_of(x), change, bits, run.handle());
      quantize_heads(rows_of(x), change, bits, values.data(), numbers + scale, inverse, run.handle());
      return values;
    };
    HeadChange turned;
    turned.rotates = problem_.quantization.rotates;
    for (std::int64_t d = 0; d < kWidestHead; ++d)
      turned.signs[static_cast<std::size_t>(d / 32)] |= (rotation_sign(d) < 0 ? 1U : 0U) << (d % 32);
    result.query = narrow(call.query, turned, kQuery, nullptr);
    HeadChange smoothed = turned;
    Tensor means;
    if (problem_.quantization.smooths) {
      const Shape& k = call.key.shape();
      means = run.temporary({k[0], k[2], k[3]}, DType::f32);
      head_means(rows_of(call.key), means.as<float>(), run.handle());
      smoothed.means = means.as<float>();
    }
    result.key = narrow(call.key, smoothed, kKey, nullptr);
    result.value = narrow(call.value, {}, kValue, numbers + kInverseOfValue);
    const auto set = [&](Slot slot, float value) {
      fill(view_of(result.numbers.sliced(0, slot, slot + 1)), value, run.handle());
    };
    set(kWeight, 1 / kWeightFactor);
    set(kFactor, kWeightFactor);
    set(kOne, 1);
    // A result is a mean of values: what makes their largest e4m3's suits it too.
    const bool narrows = output_ == DType::f8_e4m3;
    result.scales = {numbers + kQuery,  numbers + kKey,    numbers + kValue,
                     numbers + kWeight, numbers + kFactor, numbers + (narrows ? kInverseOfValue : kOne)};
    result.output_scale = numbers + kValue;
    return result;
  }

  /// Made for the first call's strides; a session's calls are all alike.
  std::shared_ptr<const Sdpa> sdpa_for(const SdpaProblem& problem) const {
    const std::string key = problem.key_text();
    const std::lock_guard lock(mutex_);
    std::shared_ptr<const Sdpa>& known = known_[key];
    if (known == nullptr) known = make_sdpa(problem);
    return known;
  }

  AttentionProblem problem_;
  DType output_;
  std::unique_ptr<AttentionRunner> flash_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, std::shared_ptr<const Sdpa>> known_;
};

/// What cuDNN says of a problem: the dtype that its result has, or why there is none.
struct SdpaAnswer {
  DType output = DType::bf16;
  AttentionRefusal refusal;
};

class SdpaAttention : public AttentionKernel {
 public:
  DeviceKind device() const final { return DeviceKind::cuda; }
  bool rounds_weights() const final { return true; }
  AttentionRefusal unavailable() const final {
    if (!sdpa_missing().empty()) return sdpa_missing();
    return no_gpu();
  }
  std::unique_ptr<AttentionRunner> make(const AttentionProblem& problem, const AttentionTiling& /*tiling*/,
                                        int /*threads*/) const final {
    return std::make_unique<SdpaRunner>(problem, answer(problem).output);
  }

 protected:
  /// What every use of cuDNN asks for, then what it says itself.
  AttentionRefusal refuse(const AttentionProblem& p) const {
    if (p.dtype == DType::f32) return "takes bfloat16 and float16 only";
    if (p.mask != MaskKind::none) return "takes no mask";
    if (p.head_dim > kWidestHead || p.value_dim > kWidestHead) return "takes head dims up to 256 only";
    if (p.queries == 0 || p.keys == 0 || p.batch == 0) return "takes no empty sequences";
    if (p.causal && p.queries > p.keys) return "takes no queries that see nothing";
    // Where packed sequences begin is counted in 32 bits.
    constexpr std::int64_t kMostElements = std::int64_t{1} << 31;
    const std::int64_t widest = p.heads * std::max(p.head_dim, p.value_dim);
    if (p.varlen && p.batch * std::max(p.queries, p.keys) * widest >= kMostElements)
      return "takes packed sequences of less than 2^31 elements only";
    return answer(p).refusal;
  }

 private:
  /// Asked once a problem: cuDNN plans it for that.
  SdpaAnswer answer(const AttentionProblem& p) const {
    const std::lock_guard lock(mutex_);
    constexpr std::size_t kMostKept = 1024;
    if (answers_.size() > kMostKept) answers_.clear();
    const auto [known, is_new] = answers_.try_emplace(p);
    if (is_new) known->second = ask(p);
    return known->second;
  }

  static SdpaAnswer ask(const AttentionProblem& p) {
    SdpaAnswer answer;
    std::vector<DType> outputs{p.dtype};
    if (p.quantization.active()) outputs.push_back(DType::f8_e4m3);
    for (const DType output : outputs) {
      const DType dtype = p.quantization.active() ? DType::f8_e4m3 : p.dtype;
      const auto prototype = [&](std::int64_t tokens, std::int64_t heads, std::int64_t width, DType element) {
        return Tensor::borrow(nullptr, {p.batch, tokens, heads, width}, element);
      };
      try {
        make_sdpa({p.device, prototype(p.queries, p.heads, p.head_dim, dtype),
                   prototype(p.keys, p.key_heads, p.head_dim, dtype),
                   prototype(p.keys, p.key_heads, p.value_dim, dtype),
                   prototype(p.queries, p.heads, p.value_dim, output), 1.0F, p.causal, p.lse, p.varlen});
        return {output, std::nullopt};
      } catch (const Unsupported& error) {
        answer.refusal = error.what();
      }
    }
    return answer;
  }

  mutable std::mutex mutex_;
  mutable std::map<AttentionProblem, SdpaAnswer> answers_;
};

class CudnnAttention final : public SdpaAttention {
 public:
  std::string_view name() const override { return "cudnn"; }
  std::string_view description() const override {
    return "cuDNN's fused attention: bfloat16 and float16, causal, GQA, LSE, varlen, head dims to 128 (256 on Hopper)";
  }
  AttentionRefusal supports(const AttentionProblem& p) const override {
    if (p.head_dim % 8 != 0 || p.value_dim % 8 != 0) return "takes head dims in multiples of 8 only";
    return refuse(p);
  }
};

class CudnnFp8Attention final : public SdpaAttention {
 public:
  std::string_view name() const override { return "cudnn-fp8"; }
  std::string_view description() const override {
    return "cuDNN's fused attention on e4m3 with a scale a tensor, Hopper and later: causal, GQA, LSE, varlen, "
           "rotation";
  }
  bool scales_whole_tensors() const override { return true; }
  bool takes(KvCacheDtype dtype) const override { return dtype == KvCacheDtype::fp8; }
  AttentionRefusal supports(const AttentionProblem& p) const override {
    if (p.head_dim % 16 != 0 || p.value_dim % 16 != 0) return "takes head dims in multiples of 16 only";
    if (p.quantization.rotates && (p.head_dim < 32 || !std::has_single_bit(static_cast<std::uint64_t>(p.head_dim))))
      return "turns heads whose width is a power of two from 32 on only";
    // A mean is one head's over all tokens, and nothing gives the LSE back what it took.
    if (p.quantization.smooths && p.varlen) return "smooths keys of sequences of one length only";
    if (p.quantization.smooths && p.lse) return "returns no LSE of smoothed keys";
    return refuse(p);
  }
};

}  // namespace

std::string SdpaProblem::key_text() const {
  std::string text = fmt::format("{} {} {} {}", scale, causal, lse, packed);
  for (const Tensor* operand : {&query, &key, &value, &output})
    text += operand->shape().to_string() + operand->strides().to_string();
  return text;
}

std::shared_ptr<const AttentionKernel> cudnn_attention_kernel() { return std::make_shared<CudnnAttention>(); }
std::shared_ptr<const AttentionKernel> cudnn_fp8_attention_kernel() { return std::make_shared<CudnnFp8Attention>(); }

}  // namespace rondo::cuda
