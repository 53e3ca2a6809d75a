// The prototypes of the operators that Rondo calls: the arguments of the first phase, without the two that all share.
// From CANN 8.1's headers and, where it says so, from newer documents; nothing checks them when this builds.
#pragma once

#include "backends/ascend/acl_types.h"

namespace rondo::ascend {

template <typename... Args>
struct AclOperator {
  const char* name;
};

using In = const aclTensor*;
using Out = aclTensor*;
using List = const aclTensorList*;
using Scalar = const aclScalar*;
using Ints = const aclIntArray*;

// Products. The last argument is cubeMathType.
inline constexpr AclOperator<In, In, Out, std::int8_t> kMatmul{"aclnnMatmul"};
inline constexpr AclOperator<In, In, Out, std::int8_t> kBatchMatmul{"aclnnBatchMatMul"};
inline constexpr AclOperator<In, In, In, Scalar, Scalar, Out, std::int8_t> kAddmm{"aclnnAddmm"};
inline constexpr AclOperator<In, In, In, Ints, Ints, Ints, bool, Ints, std::int64_t, Out, std::int8_t> kConvolution{
    "aclnnConvolution"};
// x, smooth scales, y (int8), a scale a row
inline constexpr AclOperator<In, In, In, In> kDynamicQuant{"aclnnDynamicQuant"};
// x, least scale, rounding, dtype of y (aclDataType), rows and columns of a block, y, a scale a block; newer than 8.1
inline constexpr AclOperator<In, double, char*, std::int64_t, std::int64_t, std::int64_t, In, In> kDynamicBlockQuant{
    "aclnnDynamicBlockQuant"};
// x1, x2, scale a column, offset, scale a row, bias, transposes, y
inline constexpr AclOperator<In, In, In, In, In, In, bool, bool, In> kQuantMatmulV4{"aclnnQuantMatmulV4"};

// Norms
inline constexpr AclOperator<In, In, double, In, In> kRmsNorm{"aclnnRmsNorm"};
inline constexpr AclOperator<In, Ints, In, In, double, Out, Out, Out> kLayerNorm{"aclnnLayerNorm"};
inline constexpr AclOperator<In, In, In, std::int64_t, std::int64_t, std::int64_t, std::int64_t, double, Out, Out, Out>
    kGroupNorm{"aclnnGroupNorm"};
// x, scale, shift, weight, bias, epsilon, y, moments; newer than 8.1
inline constexpr AclOperator<In, In, In, In, In, double, Out, Out, Out> kAdaLayerNorm{"aclnnAdaLayerNormV2"};

// Elements
inline constexpr AclOperator<In, std::int64_t, Out> kGelu{"aclnnGeluV2"};
inline constexpr AclOperator<In, Out> kSilu{"aclnnSilu"};
inline constexpr AclOperator<In, Out> kSigmoid{"aclnnSigmoid"};
inline constexpr AclOperator<In, In> kRelu{"aclnnRelu"};
inline constexpr AclOperator<In, Out> kMish{"aclnnMish"};
inline constexpr AclOperator<In, Out> kCos{"aclnnCos"};
inline constexpr AclOperator<In, Out> kSin{"aclnnSin"};
inline constexpr AclOperator<In, Out> kExp{"aclnnExp"};
inline constexpr AclOperator<In, Out> kLog{"aclnnLog"};
inline constexpr AclOperator<In, Out> kRound{"aclnnRound"};
inline constexpr AclOperator<In, Out> kRsqrt{"aclnnRsqrt"};
inline constexpr AclOperator<In, Out> kLogicalNot{"aclnnLogicalNot"};
inline constexpr AclOperator<In, Scalar, Out> kClampMin{"aclnnClampMin"};
inline constexpr AclOperator<In, Scalar, Scalar, Out> kClamp{"aclnnClamp"};
// x, axes, whether they stay as 1, (dtype of the sum,) y
inline constexpr AclOperator<In, Ints, bool, Out> kAmax{"aclnnAmax"};
inline constexpr AclOperator<In, Ints, bool, AclDtype, Out> kReduceSum{"aclnnReduceSum"};
inline constexpr AclOperator<In, In, Scalar, Out> kSubtract{"aclnnSub"};
inline constexpr AclOperator<In, In, Out> kMaximum{"aclnnMaximum"};
inline constexpr AclOperator<In, In, Out> kDivide{"aclnnDiv"};
inline constexpr AclOperator<Out, In, Scalar> kMaskedFill{"aclnnInplaceMaskedFillScalar"};
inline constexpr AclOperator<In, In, Scalar, Out> kAdd{"aclnnAdd"};
inline constexpr AclOperator<In, Scalar, Scalar, Out> kAddScalar{"aclnnAdds"};
inline constexpr AclOperator<In, In, Out> kMultiply{"aclnnMul"};
inline constexpr AclOperator<In, Scalar, Out> kMultiplyScalar{"aclnnMuls"};
inline constexpr AclOperator<In, In, In, Scalar, Out> kAddcmul{"aclnnAddcmul"};
inline constexpr AclOperator<In, AclDtype, Out> kCast{"aclnnCast"};

// Moves
inline constexpr AclOperator<Out, In> kCopy{"aclnnInplaceCopy"};
inline constexpr AclOperator<Out, Scalar> kFill{"aclnnInplaceFillScalar"};
inline constexpr AclOperator<In, In, In> kEmbedding{"aclnnEmbedding"};
inline constexpr AclOperator<In, std::int64_t, In, Out> kIndexSelect{"aclnnIndexSelect"};

// x, cos, sin, mode (0 half, 1 interleaved), y; newer than 8.1
inline constexpr AclOperator<In, In, In, std::int64_t, Out> kRotaryPositionEmbedding{"aclnnRotaryPositionEmbedding"};

// Attention. FusedInferAttentionScore grew from version to version; what stands between is null for floating operands.
// query, key, value, pseShift, attenMask, lengths of queries and keys, deqScale1, quantScale1, deqScale2, quantScale2,
// quantOffset2, antiquantScale, antiquantOffset, blockTable, padding of queries and keys, antiquant scale and offset of
// keys and of values, shared prefixes of keys and values and their length; heads, scale, preTokens, nextTokens, layout,
// key heads, sparseMode, innerPrecise, blockSize, antiquantMode, whether to give the LSE, antiquant mode of keys and of
// values; output, LSE.
inline constexpr AclOperator<In, List, List, In, In, Ints, Ints, In, In, In, In, In, In, In, In, In, In, In, In, In, In,
                             In, In, Ints, std::int64_t, double, std::int64_t, std::int64_t, char*, std::int64_t,
                             std::int64_t, std::int64_t, std::int64_t, std::int64_t, bool, std::int64_t, std::int64_t,
                             In, In>
    kFusedInferAttentionV2{"aclnnFusedInferAttentionScoreV2"};
// Before the heads: queryRope, keyRope, keyRopeAntiquantScale.
inline constexpr AclOperator<In, List, List, In, In, Ints, Ints, In, In, In, In, In, In, In, In, In, In, In, In, In, In,
                             In, In, Ints, In, In, In, std::int64_t, double, std::int64_t, std::int64_t, char*,
                             std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, bool, std::int64_t,
                             std::int64_t, In, In>
    kFusedInferAttentionV3{"aclnnFusedInferAttentionScoreV3"};
// After those: dequantScaleQuery, learnableSink, first indices of queries and keys; before the output: queryQuantMode,
// pseType.
inline constexpr AclOperator<In, List, List, In, In, Ints, Ints, In, In, In, In, In, In, In, In, In, In, In, In, In, In,
                             In, In, Ints, In, In, In, In, In, Ints, Ints, std::int64_t, double, std::int64_t,
                             std::int64_t, char*, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                             bool, std::int64_t, std::int64_t, std::int64_t, std::int64_t, In, In>
    kFusedInferAttentionV5{"aclnnFusedInferAttentionScoreV5"};
// query, key, value, pseShift, attenMask, lengths, deqScale1, quantScale1, deqScale2, quantScale2, quantOffset2, heads,
// scale, preTokens, nextTokens, layout, key heads, sparseMode, innerPrecise, output
inline constexpr AclOperator<In, In, In, In, In, Ints, Ints, In, In, In, In, In, std::int64_t, double, std::int64_t,
                             std::int64_t, char*, std::int64_t, std::int64_t, std::int64_t, In>
    kPromptFlashAttention{"aclnnPromptFlashAttentionV3"};
// Of MindIE's custom operators. query, key, value, attenMask, alibiMask, dropMask, scale, heads, layout, keepProb,
// preTokens (rows of padding in key), nextTokens, high precision, logarithm of the sums, output
inline constexpr AclOperator<In, In, In, In, In, In, double, std::int64_t, char*, double, std::int64_t, std::int64_t,
                             bool, In, In>
    kLaserAttention{"aclnnLaserAttention"};

}  // namespace rondo::ascend
