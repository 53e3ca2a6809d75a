// Operators on elements, and reductions.
#include <algorithm>
#include <limits>

#include "operator.h"

namespace {

/// y = f(x), one dtype and shape, any strides.
template <typename Function>
int unary(const char* name, const aclTensor* x, const aclTensor* y, WORKSPACE_AND_EXECUTOR, Function function) {
  const bool known = x != nullptr && y != nullptr;
  const std::string broken =
      known ? rule(x->dims == y->dims, "shapes differ", x->dtype == y->dtype, "dtypes differ") : "";
  return plan(name, workspace_bytes, executor, {in(x, "self"), in(y, "out")}, broken,
              [x = view_of(x), y = view_of(y), function] {
                std::vector<double> values = x.values();
                for (double& value : values) value = function(value);
                y.store(values);
              });
}

/// y = f(a, b) with broadcasting.
template <typename Function>
int binary(const char* name, const aclTensor* a, const aclTensor* b, const aclTensor* y, WORKSPACE_AND_EXECUTOR,
           Function function) {
  const bool known = a != nullptr && b != nullptr && y != nullptr;
  const std::string broken =
      known ? rule(View(*a).broadcasts_to(y->dims) && View(*b).broadcasts_to(y->dims) &&
                       broadcast_dims(a->dims, b->dims) == y->dims,
                   "shapes do not broadcast to the output's", a->dtype == b->dtype && b->dtype == y->dtype,
                   "dtypes differ: promotion is not used here")
            : "";
  return plan(name, workspace_bytes, executor, {in(a, "self"), in(b, "other"), in(y, "out")}, broken,
              [a = view_of(a), b = view_of(b), y = view_of(y), function] {
                std::vector<double> left = a.broadcast(y.dims).values();
                const std::vector<double> right = b.broadcast(y.dims).values();
                for (std::size_t i = 0; i < left.size(); ++i) left[i] = function(left[i], right[i]);
                y.store(left);
              });
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

}  // namespace

extern "C" {

int aclnnGeluV2GetWorkspaceSize(const aclTensor* x, std::int64_t approximate, aclTensor* y, WORKSPACE_AND_EXECUTOR) {
  if (approximate != 0 && approximate != 1) return kInvalidArgument;
  return unary("aclnnGeluV2", x, y, workspace_bytes, executor, [approximate](double v) {
    if (approximate == 0) return 0.5 * v * (1 + std::erf(v / std::sqrt(2.0)));
    return 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
  });
}
int aclnnSiluGetWorkspaceSize(const aclTensor* x, aclTensor* y, WORKSPACE_AND_EXECUTOR) {
  return unary("aclnnSilu", x, y, workspace_bytes, executor, [](double v) { return v * sigmoid(v); });
}
int aclnnSigmoidGetWorkspaceSize(const aclTensor* x, aclTensor* y, WORKSPACE_AND_EXECUTOR) {
  return unary("aclnnSigmoid", x, y, workspace_bytes, executor, sigmoid);
}
int aclnnReluGetWorkspaceSize(const aclTensor* x, const aclTensor* y, WORKSPACE_AND_EXECUTOR) {
  return unary("aclnnRelu", x, y, workspace_bytes, executor, [](double v) { return v > 0 || std::isnan(v) ? v : 0; });
}
int aclnnMishGetWorkspaceSize(const aclTensor* x, aclTensor* y, WORKSPACE_AND_EXECUTOR) {
  return unary("aclnnMish", x, y, workspace_bytes, executor,
               [](double v) { return v * std::tanh(v > 0 ? v + std::log1p(std::exp(-v)) : std::log1p(std::exp(v))); });
}
int aclnnCosGetWorkspaceSize(const aclTensor* x, aclTensor* y, WORKSPACE_AND_EXECUTOR) {
  return unary("aclnnCos", x, y, workspace_bytes, executor, [](double v) { return std::cos(v); });
}
int aclnnSinGetWorkspaceSize(const aclTensor* x, aclTensor* y, WORKSPACE_AND_EXECUTOR) {
  return unary("aclnnSin", x, y, workspace_bytes, executor, [](double v) { return std::sin(v); });
}
int aclnnExpGetWorkspaceSize(const aclTensor* x, aclTensor* y, WORKSPACE_AND_EXECUTOR) {
  return unary("aclnnExp", x, y, workspace_bytes, executor, [](double v) { return std::exp(v); });
}
int aclnnLogGetWorkspaceSize(const aclTensor* x, aclTensor* y, WORKSPACE_AND_EXECUTOR) {
  return unary("aclnnLog", x, y, workspace_bytes, executor, [](double v) { return std::log(v); });
}
int aclnnRoundGetWorkspaceSize(const aclTensor* x, aclTensor* y, WORKSPACE_AND_EXECUTOR) {
  return unary("aclnnRound", x, y, workspace_bytes, executor, [](double v) { return std::nearbyint(v); });
}
int aclnnRsqrtGetWorkspaceSize(const aclTensor* x, aclTensor* y, WORKSPACE_AND_EXECUTOR) {
  return unary("aclnnRsqrt", x, y, workspace_bytes, executor, [](double v) { return 1 / std::sqrt(v); });
}
int aclnnClampMinGetWorkspaceSize(const aclTensor* x, const aclScalar* least, aclTensor* y, WORKSPACE_AND_EXECUTOR) {
  if (least == nullptr) return kNullPointer;
  return unary("aclnnClampMin", x, y, workspace_bytes, executor,
               [least = least->value](double v) { return std::isnan(v) ? v : std::max(v, least); });
}
int aclnnClampGetWorkspaceSize(const aclTensor* x, const aclScalar* least, const aclScalar* most, aclTensor* y,
                               WORKSPACE_AND_EXECUTOR) {
  if (least == nullptr || most == nullptr) return kNullPointer;
  const std::string broken = x != nullptr && y != nullptr
                                 ? rule(x->dims == y->dims, "shapes differ", x->dtype == y->dtype, "dtypes differ")
                                 : "";
  return plan("aclnnClamp", workspace_bytes, executor, {in(x, "self", {}), in(y, "out", {})}, broken,
              [x = view_of(x), y = view_of(y), least = least->value, most = most->value] {
                std::vector<double> values = x.values();
                for (double& value : values) value = std::clamp(value, least, most);
                y.store(values);
              });
}
int aclnnMulsGetWorkspaceSize(const aclTensor* x, const aclScalar* factor, aclTensor* y, WORKSPACE_AND_EXECUTOR) {
  if (factor == nullptr) return kNullPointer;
  return unary("aclnnMuls", x, y, workspace_bytes, executor, [factor = factor->value](double v) { return v * factor; });
}
int aclnnAddsGetWorkspaceSize(const aclTensor* x, const aclScalar* other, const aclScalar* alpha, aclTensor* y,
                              WORKSPACE_AND_EXECUTOR) {
  if (other == nullptr || alpha == nullptr) return kNullPointer;
  return unary("aclnnAdds", x, y, workspace_bytes, executor,
               [more = other->value * alpha->value](double v) { return v + more; });
}

int aclnnAddGetWorkspaceSize(const aclTensor* a, const aclTensor* b, const aclScalar* alpha, aclTensor* y,
                             WORKSPACE_AND_EXECUTOR) {
  if (alpha == nullptr) return kNullPointer;
  return binary("aclnnAdd", a, b, y, workspace_bytes, executor,
                [alpha = alpha->value](double p, double q) { return p + alpha * q; });
}
int aclnnSubGetWorkspaceSize(const aclTensor* a, const aclTensor* b, const aclScalar* alpha, aclTensor* y,
                             WORKSPACE_AND_EXECUTOR) {
  if (alpha == nullptr) return kNullPointer;
  return binary("aclnnSub", a, b, y, workspace_bytes, executor,
                [alpha = alpha->value](double p, double q) { return p - alpha * q; });
}
int aclnnMulGetWorkspaceSize(const aclTensor* a, const aclTensor* b, aclTensor* y, WORKSPACE_AND_EXECUTOR) {
  return binary("aclnnMul", a, b, y, workspace_bytes, executor, [](double p, double q) { return p * q; });
}
int aclnnMaximumGetWorkspaceSize(const aclTensor* a, const aclTensor* b, aclTensor* y, WORKSPACE_AND_EXECUTOR) {
  return binary("aclnnMaximum", a, b, y, workspace_bytes, executor,
                [](double p, double q) { return std::isnan(p) || p > q ? p : q; });
}
int aclnnDivGetWorkspaceSize(const aclTensor* a, const aclTensor* b, aclTensor* y, WORKSPACE_AND_EXECUTOR) {
  return binary("aclnnDiv", a, b, y, workspace_bytes, executor, [](double p, double q) { return p / q; });
}

int aclnnAddcmulGetWorkspaceSize(const aclTensor* a, const aclTensor* b, const aclTensor* c, const aclScalar* value,
                                 aclTensor* y, WORKSPACE_AND_EXECUTOR) {
  if (value == nullptr) return kNullPointer;
  std::string broken;
  if (a != nullptr && b != nullptr && c != nullptr && y != nullptr) {
    broken =
        rule(broadcast_dims(a->dims, broadcast_dims(b->dims, c->dims)) == y->dims && View(*a).broadcasts_to(y->dims) &&
                 View(*b).broadcasts_to(y->dims) && View(*c).broadcasts_to(y->dims),
             "shapes do not broadcast to the output's",
             a->dtype == b->dtype && b->dtype == c->dtype && c->dtype == y->dtype, "dtypes differ");
  }
  return plan("aclnnAddcmul", workspace_bytes, executor,
              {in(a, "self"), in(b, "tensor1"), in(c, "tensor2"), in(y, "out")}, broken,
              [a = view_of(a), b = view_of(b), c = view_of(c), y = view_of(y), value = value->value] {
                std::vector<double> sum = a.broadcast(y.dims).values();
                const std::vector<double> left = b.broadcast(y.dims).values();
                const std::vector<double> right = c.broadcast(y.dims).values();
                for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += value * left[i] * right[i];
                y.store(sum);
              });
}

int aclnnLogicalNotGetWorkspaceSize(const aclTensor* x, aclTensor* y, WORKSPACE_AND_EXECUTOR) {
  const std::string broken = x != nullptr && y != nullptr ? rule(x->dims == y->dims, "shapes differ") : "";
  return plan("aclnnLogicalNot", workspace_bytes, executor,
              {in(x, "self", {Dtype::boolean}), in(y, "out", {Dtype::boolean})}, broken,
              [x = view_of(x), y = view_of(y)] {
                std::vector<double> values = x.values();
                for (double& value : values) value = value == 0 ? 1 : 0;
                y.store(values);
              });
}

int aclnnInplaceMaskedFillScalarGetWorkspaceSize(aclTensor* x, const aclTensor* mask, const aclScalar* value,
                                                 WORKSPACE_AND_EXECUTOR) {
  if (value == nullptr) return kNullPointer;
  const std::string broken =
      x != nullptr && mask != nullptr ? rule(View(*mask).broadcasts_to(x->dims), "the mask does not broadcast") : "";
  return plan("aclnnInplaceMaskedFillScalar", workspace_bytes, executor,
              {in(x, "selfRef"), in(mask, "mask", {Dtype::boolean})}, broken,
              [x = view_of(x), mask = view_of(mask), value = value->value] {
                std::vector<double> values = x.values();
                const std::vector<double> hidden = mask.broadcast(x.dims).values();
                for (std::size_t i = 0; i < values.size(); ++i) values[i] = hidden[i] != 0 ? value : values[i];
                x.store(values);
              });
}

}  // extern "C"

namespace {

/// Over the last axis, which stays as 1.
template <typename Function>
int reduce(const char* name, const aclTensor* x, const aclIntArray* axes, bool keeps, const aclTensor* y,
           WORKSPACE_AND_EXECUTOR, double start, Function function) {
  if (axes == nullptr) return kNullPointer;
  std::string broken;
  if (x != nullptr && y != nullptr) {
    Dims reduced = x->dims;
    if (!reduced.empty()) reduced.back() = 1;
    const auto last = static_cast<std::int64_t>(x->dims.size()) - 1;
    broken = rule(axes->values == Dims{last} && keeps, "this simulator reduces the last axis and keeps it",
                  y->dims == reduced, "the output's shape", x->dtype == y->dtype, "dtypes differ");
  }
  return plan(name, workspace_bytes, executor, {in(x, "self"), in(y, "out")}, broken,
              [x = view_of(x), y = view_of(y), start, function] {
                const std::vector<double> values = x.values();
                std::vector<double> results(static_cast<std::size_t>(y.elements()), start);
                const std::size_t width = values.size() / std::max<std::size_t>(results.size(), 1);
                for (std::size_t i = 0; i < values.size(); ++i)
                  results[i / width] = function(results[i / width], values[i]);
                y.store(results);
              });
}

}  // namespace

extern "C" {

int aclnnAmaxGetWorkspaceSize(const aclTensor* x, const aclIntArray* axes, bool keeps, aclTensor* y,
                              WORKSPACE_AND_EXECUTOR) {
  return reduce("aclnnAmax", x, axes, keeps, y, workspace_bytes, executor, -std::numeric_limits<double>::infinity(),
                [](double most, double value) { return std::isnan(value) || value > most ? value : most; });
}
int aclnnReduceSumGetWorkspaceSize(const aclTensor* x, const aclIntArray* axes, bool keeps, Dtype dtype, aclTensor* y,
                                   WORKSPACE_AND_EXECUTOR) {
  if (y != nullptr && y->dtype != dtype) return kInvalidArgument;
  return reduce("aclnnReduceSum", x, axes, keeps, y, workspace_bytes, executor, 0,
                [](double sum, double value) { return sum + value; });
}

}  // extern "C"

SECOND_PHASE(aclnnGeluV2)
SECOND_PHASE(aclnnSilu)
SECOND_PHASE(aclnnSigmoid)
SECOND_PHASE(aclnnRelu)
SECOND_PHASE(aclnnMish)
SECOND_PHASE(aclnnCos)
SECOND_PHASE(aclnnSin)
SECOND_PHASE(aclnnExp)
SECOND_PHASE(aclnnLog)
SECOND_PHASE(aclnnRound)
SECOND_PHASE(aclnnRsqrt)
SECOND_PHASE(aclnnClampMin)
SECOND_PHASE(aclnnClamp)
SECOND_PHASE(aclnnMuls)
SECOND_PHASE(aclnnAdds)
SECOND_PHASE(aclnnAdd)
SECOND_PHASE(aclnnSub)
SECOND_PHASE(aclnnMul)
SECOND_PHASE(aclnnMaximum)
SECOND_PHASE(aclnnDiv)
SECOND_PHASE(aclnnAddcmul)
SECOND_PHASE(aclnnLogicalNot)
SECOND_PHASE(aclnnInplaceMaskedFillScalar)
SECOND_PHASE(aclnnAmax)
SECOND_PHASE(aclnnReduceSum)
