// "cudnn" and "cudnn-fp8": cuDNN's scaled dot product attention.
#include <fmt/format.h>

#include <array>
#include <bit>
#include <cmath>
#include <future>
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

/// The library's plans, which take a tenth of a second or more to make; for all runners of a kernel.
class SdpaPlans {
 public:
  using Plan = std::shared_ptr<const Sdpa>;

  /// Throws Unsupported, with the library's reason. Plans are made outside the lock: who asks for one that another
  /// thread makes waits for that, nobody else does.
  Plan get(const SdpaProblem& problem, const std::string& key) {
    std::promise<Plan> own;
    std::shared_future<Plan> plan;
    bool makes = false;
    {
      constexpr std::size_t kMostKept = 256;
      const std::lock_guard lock(mutex_);
      if (plans_.size() >= kMostKept) plans_.clear();
      const auto [known, is_new] = plans_.try_emplace(key);
      if (is_new) known->second = own.get_future().share();
      plan = known->second;
      makes = is_new;
    }
    if (makes) {
      try {
        own.set_value(make_sdpa(problem));
      } catch (...) {
        own.set_exception(std::current_exception());
        const std::lock_guard lock(mutex_);
        plans_.erase(key);
      }
    }
    return plan.get();
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::shared_future<Plan>> plans_;
};

class SdpaRunner final : public AttentionRunner {
 public:
  SdpaRunner(const AttentionProblem& problem, DType output, std::shared_ptr<SdpaPlans> plans)
      : problem_(problem),
        output_(output),
        plans_(std::move(plans)),
        flash_(flash_mma_attention_kernel()->make(problem, {}, 1)) {}
  std::size_t scratch_bytes() const override { return 0; }

  void run(const AttentionCall& call, std::span<std::byte> scratch) const override {
    if (call.output.elements() == 0) return;
    const CudaRun run(*call.device, *call.stream);
    const QuantizedCall quantized = problem_.quantization.active() ? quantize(run, call) : QuantizedCall();
    SdpaOperands o{{}, {}, {}, call.output, call.lse, {}, quantized.scales};
    const bool narrow = problem_.quantization.active();
    o.query = narrow ? quantized.query : with_whole_loads(run, call.query);
    o.key = narrow ? quantized.key : with_whole_loads(run, call.key);
    o.value = narrow ? quantized.value : with_whole_loads(run, call.value);
    if (call.output.dtype() != output_ || !takes_whole_loads(call.output))
      o.output = run.temporary(call.output.shape(), output_);
    if (problem_.varlen) return run_packed(run, call, o, quantized.output_scale, scratch);
    plan_for(problem_of(call, o))->run(run, o);
    bring(run, o.output, call.output, quantized.output_scale);
  }

 private:
  static SdpaProblem problem_of(const AttentionCall& call, const SdpaOperands& o) {
    return {call.query.device(), o.query, o.key, o.value, o.output, call.scale, call.causal, call.lse.defined()};
  }

  void run_packed(const CudaRun& run, const AttentionCall& call, const SdpaOperands& o, const float* output_scale,
                  std::span<std::byte> scratch) const {
    // What sees nothing is not cuDNN's affair: on Hopper, in e4m3, it does not end (cudnn-frontend#1069).
    std::vector<AttentionSequence> usual;
    std::vector<AttentionSequence> odd;
    for (const AttentionSequence& s : call.sequences) {
      if (s.queries == 0) continue;
      (s.keys == 0 || (call.causal && s.queries > s.keys) ? odd : usual).push_back(s);
    }
    for (std::size_t first = 0; first < usual.size(); first += PackedSequences::kMost) {
      const std::size_t count = std::min<std::size_t>(PackedSequences::kMost, usual.size() - first);
      attend_packed(run, call, o, std::span(usual).subspan(first, count));
    }
    for (std::size_t i = 0; i < usual.size();) {  // neighbours together
      const std::int64_t begin = usual[i].query_begin;
      std::int64_t end = begin;
      for (; i < usual.size() && usual[i].query_begin == end; ++i) end += usual[i].queries;
      bring(run, o.output.sliced(1, begin, end), call.output.sliced(1, begin, end), output_scale);
    }
    if (odd.empty()) return;
    AttentionCall rest = call;
    rest.sequences = odd;
    flash_->run(rest, scratch);
  }

  void attend_packed(const CudaRun& run, const AttentionCall& call, SdpaOperands o,
                     std::span<const AttentionSequence> sequences) const {
    PackedSequences packed;
    std::int64_t queries = 0;
    std::int64_t keys = 0;
    for (const AttentionSequence& s : sequences) {
      const auto i = static_cast<std::size_t>(packed.count++);
      packed.queries[i] = static_cast<std::int32_t>(s.queries);
      packed.keys[i] = static_cast<std::int32_t>(s.keys);
      packed.query_begins[i] = static_cast<std::int32_t>(s.query_begin);
      packed.key_begins[i] = static_cast<std::int32_t>(s.key_begin);
      packed.query_begins[i + 1] = static_cast<std::int32_t>(s.query_begin + s.queries);
      packed.key_begins[i + 1] = static_cast<std::int32_t>(s.key_begin + s.keys);
      queries = std::max(queries, s.queries);
      keys = std::max(keys, s.keys);
    }
    // Plans are made for a longest sequence: fewer of them where that is a multiple.
    constexpr std::int64_t kMultiple = 128;
    queries = (queries + kMultiple - 1) / kMultiple * kMultiple;
    keys = (keys + kMultiple - 1) / kMultiple * kMultiple;
    packed.strides = {o.query.strides()[1], o.key.strides()[1], o.value.strides()[1], o.output.strides()[1]};
    const std::int64_t count = packed.count;
    SdpaProblem problem = problem_of(call, o);
    problem.packed = true;
    problem.query = as_sequences(o.query, count, queries);
    problem.key = as_sequences(o.key, count, keys);
    problem.value = as_sequences(o.value, count, keys);
    problem.output = as_sequences(o.output, count, queries);
    Tensor lengths = run.temporary({2, PackedSequences::kMost}, DType::s32);
    Tensor begins = run.temporary({4, kBegins}, DType::s64);
    auto* const length = lengths.as<std::int32_t>();
    auto* const begin = begins.as<std::int64_t>();
    write_sequences(packed, length, begin, run.handle());
    o.sequences = {
        length, length + PackedSequences::kMost, begin, begin + kBegins, begin + 2 * kBegins, begin + 3 * kBegins};
    if (call.lse.defined()) o.lse = run.temporary({count, call.lse.shape()[1], queries}, DType::f32);
    plan_for(problem)->run(run, o);
    for (std::int64_t i = 0; call.lse.defined() && i < count; ++i) {
      const AttentionSequence& s = sequences[static_cast<std::size_t>(i)];
      copy(view_of(o.lse.sliced(0, i, i + 1).sliced(2, 0, s.queries)),
           view_of(call.lse.sliced(2, s.query_begin, s.query_begin + s.queries)), run.handle());
    }
  }

  /// A result to where and in what dtype it is wanted.
  static void bring(const CudaRun& run, const Tensor& result, const Tensor& target, const float* scale) {
    if (result.data() == target.data()) return;
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

  QuantizedCall quantize(const CudaRun& run, const AttentionCall& call) const {
    enum Slot : std::int64_t { kQuery, kKey, kValue, kInverseOfValue, kWeight, kFactor, kOne, kLargest, kSlots };
    constexpr std::int64_t kApart = 4;  // each on 16 bytes
    QuantizedCall result;
    result.numbers = run.temporary({kSlots * kApart}, DType::f32);
    const auto place = [&](Slot slot) { return result.numbers.as<float>() + slot * kApart; };
    auto* const bits = reinterpret_cast<std::uint32_t*>(place(kLargest));
    const auto narrow = [&](const Tensor& x, const HeadChange& change, Slot scale, float* inverse) {
      Tensor values = run.temporary(x.shape(), DType::f8_e4m3);
      largest_of_heads(rows_of(x), change, bits, run.handle());
      quantize_heads(rows_of(x), change, bits, values.data(), place(scale), inverse, run.handle());
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
    result.value = narrow(call.value, {}, kValue, place(kInverseOfValue));
    const auto set = [&](Slot slot, float value) {
      fill(view_of(result.numbers.sliced(0, slot * kApart, slot * kApart + 1)), value, run.handle());
    };
    set(kWeight, 1 / kWeightFactor);
    set(kFactor, kWeightFactor);
    set(kOne, 1);
    // A result is a mean of values: what makes their largest e4m3's suits it too.
    const bool narrows = output_ == DType::f8_e4m3;
    result.scales = {place(kQuery),  place(kKey),    place(kValue),
                     place(kWeight), place(kFactor), place(narrows ? kInverseOfValue : kOne)};
    result.output_scale = place(kValue);
    return result;
  }

  /// A session's calls are all alike.
  SdpaPlans::Plan plan_for(const SdpaProblem& problem) const {
    const std::string key = problem.key_text();
    {
      const std::lock_guard lock(mutex_);
      if (key == last_key_) return last_;
    }
    SdpaPlans::Plan plan = plans_->get(problem, key);
    const std::lock_guard lock(mutex_);
    last_key_ = key;
    last_ = plan;
    return plan;
  }

  AttentionProblem problem_;
  DType output_;
  std::shared_ptr<SdpaPlans> plans_;
  std::unique_ptr<AttentionRunner> flash_;
  mutable std::mutex mutex_;
  mutable std::string last_key_;
  mutable SdpaPlans::Plan last_;
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
    return std::make_unique<SdpaRunner>(problem, answer(problem).output, plans_);
  }

 protected:
  /// What every use of cuDNN asks for, then what it says itself.
  AttentionRefusal refuse(const AttentionProblem& p) const {
    if (p.dtype == DType::f32) return "takes bfloat16 and float16 only";
    if (p.mask != MaskKind::none) return "takes no mask";
    if (p.head_dim > kWidestHead || p.value_dim > kWidestHead) return "takes head dims up to 256 only";
    if (p.queries == 0 || p.keys == 0 || p.batch == 0) return "takes no empty sequences";
    if (p.causal && p.queries > p.keys) return "takes no queries that see nothing";
    return answer(p).refusal;
  }

 private:
  /// Asked once a problem.
  SdpaAnswer answer(const AttentionProblem& p) const {
    constexpr std::size_t kMostKept = 1024;
    {
      const std::lock_guard lock(mutex_);
      if (const auto known = answers_.find(p); known != answers_.end()) return known->second;
    }
    const SdpaAnswer answer = ask(p);
    const std::lock_guard lock(mutex_);
    if (answers_.size() >= kMostKept) answers_.clear();
    answers_.emplace(p, answer);
    return answer;
  }

  /// By a plan for operands that lie as the problem says, without gaps; most calls run it.
  SdpaAnswer ask(const AttentionProblem& p) const {
    SdpaAnswer answer;
    const DType dtype = p.quantization.active() ? DType::f8_e4m3 : p.dtype;
    std::vector<DType> outputs{p.dtype};
    if (p.quantization.active()) outputs.push_back(DType::f8_e4m3);
    const std::int64_t count = p.varlen ? std::min<std::int64_t>(p.batch, PackedSequences::kMost) : p.batch;
    const auto prototype = [&](std::int64_t tokens, std::int64_t heads, std::int64_t width, DType element) {
      const bool heads_first = p.layout == AttentionLayout::bnsd && element == p.dtype;  // e4m3 is a copy
      if (heads_first) return Tensor::borrow(nullptr, {count, heads, tokens, width}, element).transposed(1, 2);
      return Tensor::borrow(nullptr, {count, tokens, heads, width}, element);
    };
    const float scale = p.own_scale ? 1.0F : static_cast<float>(1 / std::sqrt(static_cast<double>(p.head_dim)));
    for (const DType output : outputs) {
      try {
        const SdpaProblem problem{p.device,
                                  prototype(p.queries, p.heads, p.head_dim, dtype),
                                  prototype(p.keys, p.key_heads, p.head_dim, dtype),
                                  prototype(p.keys, p.key_heads, p.value_dim, dtype),
                                  prototype(p.queries, p.heads, p.value_dim, output),
                                  scale,
                                  p.causal,
                                  p.lse,
                                  p.varlen};
        plans_->get(problem, problem.key_text());
        return {output, std::nullopt};
      } catch (const Unsupported& error) {
        answer.refusal = error.what();
      }
    }
    return answer;
  }

  std::shared_ptr<SdpaPlans> plans_ = std::make_shared<SdpaPlans>();
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
  std::string text = fmt::format("{} {} {} {} {}", device.index, scale, causal, lse, packed);
  for (const Tensor* operand : {&query, &key, &value, &output})
    text += fmt::format(" {} {} {}", dtype_name(operand->dtype()), operand->shape().to_string(),
                        operand->strides().to_string());
  return text;
}

std::shared_ptr<const AttentionKernel> cudnn_attention_kernel() { return std::make_shared<CudnnAttention>(); }
std::shared_ptr<const AttentionKernel> cudnn_fp8_attention_kernel() { return std::make_shared<CudnnFp8Attention>(); }

}  // namespace rondo::cuda
