// FusedInferAttentionScore and PromptFlashAttention, for floating operands.
#include "attention.h"

#include <string_view>

namespace {

constexpr std::int64_t kNoWindow = 2147483647;

struct FusedCall {
  const char* name;
  const aclTensor* query;
  const aclTensor* key;
  const aclTensor* value;
  const aclTensor* mask;
  std::int64_t heads;
  double scale;
  std::int64_t before;
  std::int64_t after;
  const char* layout;
  std::int64_t key_heads;
  std::int64_t sparse;
  std::int64_t precise;
  bool has_lse;
  const aclTensor* output;
  const aclTensor* lse;
};

std::string mask_rule(const FusedCall& c, std::int64_t batch, std::int64_t queries, std::int64_t keys) {
  if (c.sparse == 3) {
    return rule(c.mask != nullptr && c.mask->dims == Dims{2048, 2048}, "sparseMode 3 takes a mask of 2048 x 2048");
  }
  if (c.mask == nullptr) return rule(c.sparse == 0, "sparseMode");
  const Dims& m = c.mask->dims;
  const bool shared = m[0] == 1 && queries > 1;  // for one query the documents name no mask that all share
  const bool fits = m.size() == 4 && (shared || m[0] == batch) && m[1] == 1 && m[2] == queries && m[3] == keys;
  return rule(c.sparse == 0, "sparseMode", fits, "attenMask's shape", c.before == kNoWindow && c.after == kNoWindow,
              "a window beside the mask", queries == 1 || c.precise == 2, "rows that see nothing need innerPrecise 2");
}

/// [B, S, N D] as [B, S, N, D].
aclTensor with_heads(const aclTensor& tensor, std::int64_t heads) {
  aclTensor four = tensor;
  const std::int64_t width = tensor.dims[2] / heads;
  four.dims = {tensor.dims[0], tensor.dims[1], heads, width};
  four.strides = {tensor.strides[0], tensor.strides[1], width, 1};
  return four;
}

int fused_with_heads(const FusedCall& c, const std::vector<Argument>& arguments, WORKSPACE_AND_EXECUTOR);

int fused(FusedCall c, WORKSPACE_AND_EXECUTOR) {
  const std::vector<Argument> arguments{
      dense(c.query, "query", kHalves),
      dense(c.key, "key", kHalves),
      dense(c.value, "value", kHalves),
      optional_dense(c.mask, "attenMask", {Dtype::boolean, Dtype::int8, Dtype::uint8}),
      dense(c.output, "attentionOut", kHalves),
      optional_dense(c.lse, "softmaxLse", {Dtype::float32})};
  if (c.layout == nullptr || std::string_view(c.layout) != "BSH" || c.query == nullptr || c.key == nullptr ||
      c.value == nullptr || c.output == nullptr)
    return fused_with_heads(c, arguments, workspace_bytes, executor);
  const std::int64_t key_heads = c.key_heads == 0 ? c.heads : c.key_heads;
  const auto fits = [](const aclTensor* t, std::int64_t heads) {
    return heads > 0 && t->dims.size() == 3 && t->dims[2] % heads == 0 && t->is_contiguous();
  };
  if (!fits(c.query, c.heads) || !fits(c.key, key_heads) || !fits(c.value, key_heads) || !fits(c.output, c.heads))
    return fail(kInvalidArgument, "BSH: three axes, contiguous, the last one divided by the heads");
  const aclTensor query = with_heads(*c.query, c.heads);
  const aclTensor key = with_heads(*c.key, key_heads);
  const aclTensor value = with_heads(*c.value, key_heads);
  const aclTensor output = with_heads(*c.output, c.heads);
  c.query = &query;
  c.key = &key;
  c.value = &value;
  c.output = &output;
  c.layout = "BSND";
  return fused_with_heads(c, arguments, workspace_bytes, executor);
}

int fused_with_heads(const FusedCall& c, const std::vector<Argument>& arguments, WORKSPACE_AND_EXECUTOR) {
  std::string broken;
  const std::string_view layout = c.layout == nullptr ? "" : c.layout;
  const bool by_heads = layout == "BNSD_BSND" || layout == "BNSD";
  const std::size_t tokens = by_heads ? 2 : 1;
  const std::size_t head = by_heads ? 1 : 2;
  if (c.query != nullptr && c.key != nullptr && c.value != nullptr && c.output != nullptr) {
    const Dims& q = c.query->dims;
    const Dims& k = c.key->dims;
    broken = rule(layout == "BSND" || layout == "BNSD_BSND", "this simulator takes BSND and BNSD_BSND only",
                  q.size() == 4 && k.size() == 4 && c.value->dims == k, "ranks, or key and value differ");
    if (broken.empty()) {
      const Dims out = by_heads ? Dims{q[0], q[2], q[1], q[3]} : q;
      const std::int64_t key_heads = c.key_heads == 0 ? c.heads : c.key_heads;
      broken = rule(
          c.heads == q[head] && key_heads == k[head] && c.heads % key_heads == 0, "heads", q[0] == k[0], "batch",
          q[3] == k[3] && q[3] % 16 == 0 && q[3] <= 512, "head dims: multiples of 16 up to 512", c.heads <= 256,
          "at most 256 heads", by_heads || c.heads * q[3] < 65535, "a token's width", !by_heads || q[2] > 1,
          "BNSD_BSND takes two queries and more", c.output->dims == out, "output's shape",
          c.query->dtype == c.key->dtype && c.key->dtype == c.value->dtype && c.value->dtype == c.output->dtype,
          "dtypes differ", c.precise >= 0 && c.precise <= 3, "innerPrecise",
          !c.has_lse || (c.lse != nullptr && c.lse->dims == Dims{q[0], q[head], q[tokens], 1}), "softmaxLse's shape");
      if (broken.empty()) broken = mask_rule(c, q[0], q[tokens], k[tokens]);
    }
  }
  if (!broken.empty()) return plan(c.name, workspace_bytes, executor, {}, broken, {});
  const auto bsnd = [&](const aclTensor* tensor) {
    const View view = view_of(tensor);
    return by_heads ? swapped(view, 1, 2) : view;
  };
  const bool has_own_mask = c.mask != nullptr && c.sparse == 0;
  return plan(
      c.name, workspace_bytes, executor, arguments, broken,
      [o = AttentionOperands{bsnd(c.query), bsnd(c.key), bsnd(c.value), has_own_mask, view_of(c.mask), c.sparse == 3,
                             c.scale, view_of(c.output), c.has_lse, view_of(c.lse)}] { attend(o); });
}

/// A list of one.
const aclTensor* only(const aclTensorList* list) {
  return list != nullptr && list->tensors.size() == 1 ? list->tensors[0] : nullptr;
}

bool none(std::initializer_list<const void*> arguments) {
  for (const void* argument : arguments) {
    if (argument != nullptr) return false;
  }
  return true;
}

}  // namespace

#define FUSED_HEAD                                                                                                  \
  const aclTensor *query, const aclTensorList *key, const aclTensorList *value, const aclTensor *pse,               \
      const aclTensor *mask, const aclIntArray *lengths, const aclIntArray *key_lengths, const aclTensor *deq1,     \
      const aclTensor *quant1, const aclTensor *deq2, const aclTensor *quant2, const aclTensor *offset2,            \
      const aclTensor *anti, const aclTensor *anti_offset, const aclTensor *blocks, const aclTensor *query_padding, \
      const aclTensor *key_padding, const aclTensor *key_scale, const aclTensor *key_offset,                        \
      const aclTensor *value_scale, const aclTensor *value_offset, const aclTensor *key_prefix,                     \
      const aclTensor *value_prefix, const aclIntArray *prefix_length
#define FUSED_NUMBERS                                                                                              \
  std::int64_t heads, double scale, std::int64_t before, std::int64_t after, char *layout, std::int64_t key_heads, \
      std::int64_t sparse, std::int64_t precise, std::int64_t block_size, std::int64_t anti_mode, bool has_lse,    \
      std::int64_t key_mode, std::int64_t value_mode
#define FUSED_IS_PLAIN                                                                             \
  none({pse,        lengths,     key_lengths,  deq1,       quant1,        deq2,         quant2,    \
        offset2,    anti,        anti_offset,  blocks,     query_padding, key_padding,  key_scale, \
        key_offset, value_scale, value_offset, key_prefix, value_prefix,  prefix_length}) &&       \
      block_size == 0 && anti_mode == 0 && key_mode == 0 && value_mode == 0
#define FUSED_CALL(name)                                                                                             \
  fused({name, query, only(key), only(value), mask, heads, scale, before, after, layout, key_heads, sparse, precise, \
         has_lse, output, lse},                                                                                      \
        workspace_bytes, executor)

extern "C" {

int aclnnFusedInferAttentionScoreV2GetWorkspaceSize(FUSED_HEAD, FUSED_NUMBERS, const aclTensor* output,
                                                    const aclTensor* lse, WORKSPACE_AND_EXECUTOR) {
  if (soc_name().rfind("Ascend950", 0) == 0) return fail(361001, "V2 is no longer supported on Ascend950");
  if (!(FUSED_IS_PLAIN)) return fail(kInvalidArgument, "this simulator plays floating operands only");
  return FUSED_CALL("aclnnFusedInferAttentionScoreV2");
}

#ifndef CANN_80
int aclnnFusedInferAttentionScoreV3GetWorkspaceSize(FUSED_HEAD, const aclTensor* query_rope, const aclTensor* key_rope,
                                                    const aclTensor* rope_scale, FUSED_NUMBERS, const aclTensor* output,
                                                    const aclTensor* lse, WORKSPACE_AND_EXECUTOR) {
  if (soc_name().rfind("Ascend950", 0) == 0) return fail(361001, "V3 is no longer supported on Ascend950");
  if (!(FUSED_IS_PLAIN) || !none({query_rope, key_rope, rope_scale}))
    return fail(kInvalidArgument, "this simulator plays floating operands only");
  return FUSED_CALL("aclnnFusedInferAttentionScoreV3");
}

int fused_e4m3(const FusedCall& c, const aclTensor* query_scale, const aclTensor* key_scale,
               const aclTensor* value_scale, WORKSPACE_AND_EXECUTOR) {
  constexpr std::int64_t kQueryRows = 128;
  constexpr std::int64_t kKeyRows = 256;
  std::string broken = rule(c.query != nullptr && c.key != nullptr && c.value != nullptr && c.output != nullptr &&
                                query_scale != nullptr && key_scale != nullptr && value_scale != nullptr,
                            "an operand or a scale is missing");
  if (broken.empty()) {
    const Dims& q = c.query->dims;
    const Dims& k = c.key->dims;
    const auto blocks = [](const Dims& x, std::int64_t rows) { return Dims{x[0], x[1], (x[2] + rows - 1) / rows, 1}; };
    broken = rule(c.layout != nullptr && std::string_view(c.layout) == "BNSD", "quant mode 7 is played as BNSD only",
                  q.size() == 4 && k.size() == 4 && c.value->dims == k, "ranks, or key and value differ",
                  c.mask == nullptr && c.sparse == 0 && !c.has_lse, "quant mode 7 takes no mask and gives no LSE");
    if (broken.empty()) {
      broken = rule(c.heads == q[1] && c.key_heads == k[1] && c.heads % c.key_heads == 0, "heads", q[0] == k[0],
                    "batch", q[3] == k[3] && q[3] <= 128, "head dims", c.output->dims == q, "output's shape",
                    query_scale->dims == blocks(q, kQueryRows) && key_scale->dims == blocks(k, kKeyRows) &&
                        value_scale->dims == blocks(k, kKeyRows),
                    "scales' shapes");
    }
  }
  if (!broken.empty()) return plan(c.name, workspace_bytes, executor, {}, broken, {});
  const auto bsnd = [](const aclTensor* tensor) { return swapped(view_of(tensor), 1, 2); };
  AttentionOperands o{bsnd(c.query), bsnd(c.key), bsnd(c.value),  false, view_of(nullptr),
                      false,         c.scale,     bsnd(c.output), false, view_of(nullptr)};
  o.query_scales = {kQueryRows, view_of(query_scale)};
  o.key_scales = {kKeyRows, view_of(key_scale)};
  o.value_scales = {kKeyRows, view_of(value_scale)};
  const std::vector<Dtype> e4m3{Dtype::float8_e4m3fn};
  const std::vector<Dtype> f32{Dtype::float32};
  return plan(c.name, workspace_bytes, executor,
              {dense(c.query, "query", e4m3), dense(c.key, "key", e4m3), dense(c.value, "value", e4m3),
               dense(query_scale, "dequantScaleQuery", f32), dense(key_scale, "keyAntiquantScale", f32),
               dense(value_scale, "valueAntiquantScale", f32), dense(c.output, "attentionOut", kHalves)},
              broken, [o] { attend(o); });
}

int aclnnFusedInferAttentionScoreV5GetWorkspaceSize(FUSED_HEAD, const aclTensor* query_rope, const aclTensor* key_rope,
                                                    const aclTensor* rope_scale, const aclTensor* query_scale,
                                                    const aclTensor* sink, const aclIntArray* query_start,
                                                    const aclIntArray* key_start, FUSED_NUMBERS,
                                                    std::int64_t query_mode, std::int64_t pse_type,
                                                    const aclTensor* output, const aclTensor* lse,
                                                    WORKSPACE_AND_EXECUTOR) {
  if (soc_name().rfind("Ascend950", 0) != 0) return fail(361001, "V5 is for Ascend950");
  if (query_mode == 7 && key_mode == 7 && value_mode == 7) {
    return fused_e4m3({"aclnnFusedInferAttentionScoreV5", query, only(key), only(value), mask, heads, scale, before,
                       after, layout, key_heads, sparse, precise, has_lse, output, lse},
                      query_scale, key_scale, value_scale, workspace_bytes, executor);
  }
  if (!(FUSED_IS_PLAIN) || query_mode != 0 || pse_type != 0 ||
      !none({query_rope, key_rope, rope_scale, query_scale, sink, query_start, key_start}))
    return fail(kInvalidArgument, "this simulator plays floating operands only");
  return FUSED_CALL("aclnnFusedInferAttentionScoreV5");
}
#endif

int aclnnPromptFlashAttentionV3GetWorkspaceSize(const aclTensor* query, const aclTensor* key, const aclTensor* value,
                                                const aclTensor* pse, const aclTensor* mask, const aclIntArray* lengths,
                                                const aclIntArray* key_lengths, const aclTensor* deq1,
                                                const aclTensor* quant1, const aclTensor* deq2, const aclTensor* quant2,
                                                const aclTensor* offset2, std::int64_t heads, double scale,
                                                std::int64_t before, std::int64_t after, char* layout,
                                                std::int64_t key_heads, std::int64_t sparse, std::int64_t precise,
                                                const aclTensor* output, WORKSPACE_AND_EXECUTOR) {
  if (!none({pse, lengths, key_lengths, deq1, quant1, deq2, quant2, offset2}))
    return fail(kInvalidArgument, "this simulator plays floating operands only");
  const bool inference = soc_name().rfind("Ascend310P", 0) == 0;
  if (inference && (mask != nullptr || key_heads != 0 || before != kNoWindow))
    return fail(kInvalidArgument, "310P: attenMask, numKeyValueHeads or preTokens");
  return fused({"aclnnPromptFlashAttentionV3", query, key, value, mask, heads, scale, before, after, layout, key_heads,
                sparse, precise, false, output, nullptr},
               workspace_bytes, executor);
}

}  // extern "C"

SECOND_PHASE(aclnnFusedInferAttentionScoreV2)
#ifndef CANN_80
SECOND_PHASE(aclnnFusedInferAttentionScoreV3)
SECOND_PHASE(aclnnFusedInferAttentionScoreV5)
#endif
SECOND_PHASE(aclnnPromptFlashAttentionV3)
