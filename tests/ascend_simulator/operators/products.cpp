// Matrix products.
#include <algorithm>

#include "operator.h"

namespace ascend_simulator {

void multiply_matrices(const float* a, const float* b, float* c, std::int64_t m, std::int64_t k, std::int64_t n) {
#pragma omp parallel for
  for (std::int64_t i = 0; i < m; ++i) {
    float* row = c + i * n;
    std::fill_n(row, n, 0.0F);
    for (std::int64_t j = 0; j < k; ++j) {
      const float factor = a[i * k + j];
      const float* from = b + j * n;
      for (std::int64_t l = 0; l < n; ++l) row[l] += factor * from[l];
    }
  }
}

}  // namespace ascend_simulator

namespace {

int batched(const char* name, const aclTensor* a, const aclTensor* b, const aclTensor* y, std::int8_t math,
            std::size_t rank, WORKSPACE_AND_EXECUTOR) {
  std::string broken = math_rule(a, math);
  if (broken.empty() && a != nullptr && b != nullptr && y != nullptr) {
    const bool shapes = a->dims.size() == rank && b->dims.size() == rank && y->dims.size() == rank &&
                        a->dims[rank - 1] == b->dims[rank - 2] && y->dims[rank - 2] == a->dims[rank - 2] &&
                        y->dims[rank - 1] == b->dims[rank - 1] &&
                        (rank == 2 || (a->dims[0] == b->dims[0] && a->dims[0] == y->dims[0]));
    broken = rule(shapes, "shapes do not fit", a->dtype == b->dtype && b->dtype == y->dtype, "dtypes differ");
  }
  return plan(name, workspace_bytes, executor, {in(a, "self"), in(b, "mat2"), dense(y, "out")}, broken,
              [a = view_of(a), b = view_of(b), y = view_of(y), rank] {
                const std::vector<float> left = product_operand(a);
                const std::vector<float> right = product_operand(b);
                std::vector<float> result(static_cast<std::size_t>(y.elements()));
                const std::int64_t m = a.dims[rank - 2];
                const std::int64_t k = a.dims[rank - 1];
                const std::int64_t n = b.dims[rank - 1];
                const std::int64_t count = rank == 2 ? 1 : a.dims[0];
                for (std::int64_t i = 0; i < count; ++i)
                  multiply_matrices(left.data() + i * m * k, right.data() + i * k * n, result.data() + i * m * n, m, k,
                                    n);
                y.store(result);
              });
}

}  // namespace

extern "C" {

int aclnnMatmulGetWorkspaceSize(const aclTensor* a, const aclTensor* b, aclTensor* y, std::int8_t math,
                                WORKSPACE_AND_EXECUTOR) {
  return batched("aclnnMatmul", a, b, y, math, 2, workspace_bytes, executor);
}
int aclnnBatchMatMulGetWorkspaceSize(const aclTensor* a, const aclTensor* b, aclTensor* y, std::int8_t math,
                                     WORKSPACE_AND_EXECUTOR) {
  return batched("aclnnBatchMatMul", a, b, y, math, 3, workspace_bytes, executor);
}

int aclnnAddmmGetWorkspaceSize(const aclTensor* bias, const aclTensor* a, const aclTensor* b, const aclScalar* beta,
                               const aclScalar* alpha, aclTensor* y, std::int8_t math, WORKSPACE_AND_EXECUTOR) {
  if (beta == nullptr || alpha == nullptr) return kNullPointer;
  std::string broken = math_rule(a, math);
  if (broken.empty() && bias != nullptr && a != nullptr && b != nullptr && y != nullptr) {
    broken = rule(a->dims.size() == 2 && b->dims.size() == 2 && a->dims[1] == b->dims[0] &&
                      y->dims == Dims{a->dims[0], b->dims[1]} && View(*bias).broadcasts_to(y->dims),
                  "shapes do not fit", a->dtype == b->dtype && b->dtype == y->dtype && bias->dtype == y->dtype,
                  "dtypes differ");
  }
  return plan(
      "aclnnAddmm", workspace_bytes, executor, {in(bias, "self"), in(a, "mat1"), in(b, "mat2"), dense(y, "out")},
      broken,
      [bias = view_of(bias), a = view_of(a), b = view_of(b), y = view_of(y), beta = beta->value, alpha = alpha->value] {
        std::vector<float> result(static_cast<std::size_t>(y.elements()));
        multiply_matrices(product_operand(a).data(), product_operand(b).data(), result.data(), a.dims[0], a.dims[1],
                          b.dims[1]);
        const std::vector<float> more = bias.broadcast(y.dims).floats();
        for (std::size_t i = 0; i < result.size(); ++i)
          result[i] = static_cast<float>(alpha) * result[i] + static_cast<float>(beta) * more[i];
        y.store(result);
      });
}

int aclnnDynamicQuantGetWorkspaceSize(const aclTensor* x, const aclTensor* smooth, const aclTensor* y,
                                      const aclTensor* scale, WORKSPACE_AND_EXECUTOR) {
  std::string broken;
  if (x != nullptr && y != nullptr && scale != nullptr) {
    Dims rows = x->dims;
    rows.pop_back();
    broken = rule(y->dims == x->dims, "y's shape", scale->dims == rows, "scale's shape", x->dims.size() >= 2, "rank");
  }
  return plan("aclnnDynamicQuant", workspace_bytes, executor,
              {in(x, "x", kHalves), optional_in(smooth, "smoothScales", kHalves), in(y, "y", {Dtype::int8}),
               in(scale, "scale", {Dtype::float32})},
              broken, [x = view_of(x), y = view_of(y), scale = view_of(scale)] {
                std::vector<double> values = x.values();
                std::vector<double> scales(static_cast<std::size_t>(scale.elements()));
                const std::size_t width = values.size() / std::max<std::size_t>(scales.size(), 1);
                for (std::size_t row = 0; row < scales.size(); ++row) {
                  double most = 0;
                  for (std::size_t i = 0; i < width; ++i) most = std::max(most, std::fabs(values[row * width + i]));
                  scales[row] = static_cast<float>(most / 127);
                  for (std::size_t i = 0; i < width; ++i) {
                    double& value = values[row * width + i];
                    value = most == 0 ? 0 : std::nearbyint(value / scales[row]);
                  }
                }
                y.store(values);
                scale.store(scales);
              });
}

int aclnnQuantMatmulV4GetWorkspaceSize(const aclTensor* a, const aclTensor* b, const aclTensor* scale,
                                       const aclTensor* offset, const aclTensor* row_scale, const aclTensor* bias,
                                       bool transposes_a, bool transposes_b, const aclTensor* y,
                                       WORKSPACE_AND_EXECUTOR) {
  std::string broken = rule(soc_has_bfloat16(), "this chip is not played here");
  if (broken.empty() && a != nullptr && b != nullptr && scale != nullptr && y != nullptr) {
    const bool shapes = a->dims.size() == 2 && b->dims.size() == 2 && a->dims[1] == b->dims[1] &&
                        y->dims == Dims{a->dims[0], b->dims[0]} && scale->dims == Dims{b->dims[0]} &&
                        (row_scale == nullptr || row_scale->dims == Dims{a->dims[0]}) &&
                        (bias == nullptr || bias->dims == Dims{b->dims[0]});
    broken = rule(!transposes_a && transposes_b, "this simulator takes x2 as [n, k] only", offset == nullptr, "offset",
                  shapes, "shapes do not fit", y->dtype != Dtype::float16 || row_scale != nullptr,
                  "float16 needs pertokenScale");
  }
  return plan("aclnnQuantMatmulV4", workspace_bytes, executor,
              {dense(a, "x1", {Dtype::int8}), dense(b, "x2", {Dtype::int8}), dense(scale, "scale", {Dtype::float32}),
               optional_dense(row_scale, "pertokenScale", {Dtype::float32}),
               optional_dense(bias, "bias", {Dtype::float32}), dense(y, "out", kHalves)},
              broken,
              [a = view_of(a), b = view_of(b), scale = view_of(scale), has_rows = row_scale != nullptr,
               row_scale = view_of(row_scale), has_bias = bias != nullptr, bias = view_of(bias), y = view_of(y)] {
                const std::vector<double> left = a.values();
                const std::vector<double> right = b.values();
                const std::vector<double> columns = scale.values();
                const std::vector<double> rows = has_rows ? row_scale.values() : std::vector<double>();
                const std::vector<double> more = has_bias ? bias.values() : std::vector<double>();
                const std::size_t k = static_cast<std::size_t>(a.dims[1]);
                const std::size_t n = static_cast<std::size_t>(b.dims[0]);
                std::vector<double> result(static_cast<std::size_t>(y.elements()));
#pragma omp parallel for
                for (std::size_t i = 0; i < static_cast<std::size_t>(a.dims[0]); ++i) {
                  for (std::size_t j = 0; j < n; ++j) {
                    double sum = 0;
                    for (std::size_t l = 0; l < k; ++l) sum += left[i * k + l] * right[j * k + l];
                    result[i * n + j] = sum * columns[j] * (has_rows ? rows[i] : 1) + (has_bias ? more[j] : 0);
                  }
                }
                y.store(result);
              });
}

}  // extern "C"

SECOND_PHASE(aclnnMatmul)
SECOND_PHASE(aclnnBatchMatMul)
SECOND_PHASE(aclnnAddmm)
SECOND_PHASE(aclnnDynamicQuant)
SECOND_PHASE(aclnnQuantMatmulV4)
