// libcust_opapi.so: LaserAttention of MindIE's custom operators.
#include "attention.h"

extern "C" int aclnnLaserAttentionGetWorkspaceSize(const aclTensor* query, const aclTensor* key, const aclTensor* value,
                                                   const aclTensor* mask, const aclTensor* alibi, const aclTensor* drop,
                                                   double scale, std::int64_t heads, char* layout, double keep,
                                                   std::int64_t padding, std::int64_t after, bool precise,
                                                   const aclTensor* sums, const aclTensor* output,
                                                   WORKSPACE_AND_EXECUTOR) {
  std::string broken = rule(mask == nullptr && alibi == nullptr && drop == nullptr, "this simulator takes no masks",
                            layout != nullptr && std::string(layout) == "BNSD", "BNSD is needed",
                            keep == 1 && after == 1 && precise, "keepProb, nextTokens or isHighPrecision");
  if (broken.empty() && query != nullptr && key != nullptr && value != nullptr && output != nullptr &&
      sums != nullptr) {
    const Dims& q = query->dims;
    const Dims& k = key->dims;
    broken = rule(q.size() == 4 && k.size() == 4 && value->dims == k && q[0] == k[0] && q[1] == k[1], "shapes",
                  q[1] == heads, "heads", q[2] % 256 == 0 && k[2] % 256 == 0 && q[3] == 128 && k[3] == 128,
                  "tokens are multiples of 256, head dims 128", output->dims == q, "output's shape",
                  sums->dims == Dims{q[0], q[1], q[2]}, "softmaxLogMaxSum's shape",
                  padding == 2147483647 || (padding > 0 && padding < 256), "preTokens: rows of padding");
  }
  if (!broken.empty()) return plan("aclnnLaserAttention", workspace_bytes, executor, {}, broken, {});
  return plan("aclnnLaserAttention", workspace_bytes, executor,
              {dense(query, "query", {Dtype::float16}), dense(key, "key", {Dtype::float16}),
               dense(value, "value", {Dtype::float16}), dense(sums, "softmaxLogMaxSum", {Dtype::float32}),
               dense(output, "attentionOut", {Dtype::float32})},
              broken,
              [q = swapped(view_of(query), 1, 2), k = swapped(view_of(key), 1, 2), v = swapped(view_of(value), 1, 2),
               output = swapped(view_of(output), 1, 2), scale, padding] {
                const auto shorter = [padding](View view) {
                  if (padding != 2147483647) view.dims[1] -= padding;
                  return view;
                };
                attend({q, shorter(k), shorter(v), false, q, false, scale, output, false, q});
              });
}

SECOND_PHASE(aclnnLaserAttention)
