// Operators that came after CANN 8.1: the variant of this library that plays 8.1 is without them.
#include "operator.h"

extern "C" {

int aclnnAdaLayerNormV2GetWorkspaceSize(const aclTensor* x, const aclTensor* scale, const aclTensor* shift,
                                        const aclTensor* weight, const aclTensor* bias, double epsilon, aclTensor* y,
                                        aclTensor* mean_out, aclTensor* rstd_out, WORKSPACE_AND_EXECUTOR) {
  std::string broken = rule(soc_has_bfloat16(), "this chip has no AdaLayerNorm", weight == nullptr && bias == nullptr,
                            "this simulator takes no weight and bias", mean_out == nullptr && rstd_out == nullptr,
                            "this simulator gives no moments");
  if (broken.empty() && x != nullptr && scale != nullptr && shift != nullptr && y != nullptr) {
    const bool three = x->dims.size() == 3;
    const Dims one = three ? Dims{x->dims[0], 1, x->dims[2]} : Dims{};
    const Dims flat = three ? Dims{x->dims[0], x->dims[2]} : Dims{};
    const auto fits = [&](const aclTensor* m) { return m->dims == one || m->dims == flat; };
    broken = rule(three && fits(scale) && fits(shift) && y->dims == x->dims, "shapes do not fit", x->elements() > 0,
                  "empty tensors are not taken",
                  scale->dtype == x->dtype && shift->dtype == x->dtype && y->dtype == x->dtype, "dtypes differ");
  }
  return plan("aclnnAdaLayerNormV2", workspace_bytes, executor,
              {in(x, "x"), dense(scale, "scale"), dense(shift, "shift"), dense(y, "out")}, broken,
              [x = view_of(x), scale = view_of(scale), shift = view_of(shift), epsilon, y = view_of(y)] {
                std::vector<double> values = x.values();
                const std::vector<double> factors = scale.values();
                const std::vector<double> offsets = shift.values();
                const auto width = static_cast<std::size_t>(x.dims[2]);
                const auto tokens = static_cast<std::size_t>(x.dims[1]);
                for (std::size_t row = 0; row * width < values.size(); ++row) {
                  double* const at = values.data() + row * width;
                  double mean = 0;
                  for (std::size_t i = 0; i < width; ++i) mean += at[i] / static_cast<double>(width);
                  double variance = 0;
                  for (std::size_t i = 0; i < width; ++i)
                    variance += (at[i] - mean) * (at[i] - mean) / static_cast<double>(width);
                  const double factor = 1 / std::sqrt(variance + epsilon);
                  const std::size_t first = row / tokens * width;
                  for (std::size_t i = 0; i < width; ++i)
                    at[i] = (at[i] - mean) * factor * (1 + factors[first + i]) + offsets[first + i];
                }
                y.store(values);
              });
}

int aclnnRotaryPositionEmbeddingGetWorkspaceSize(const aclTensor* x, const aclTensor* cos, const aclTensor* sin,
                                                 std::int64_t mode, aclTensor* y, WORKSPACE_AND_EXECUTOR) {
  std::string broken = rule(soc_has_bfloat16(), "this chip rotates halves of narrow heads only, or nothing");
  if (broken.empty() && x != nullptr && cos != nullptr && sin != nullptr && y != nullptr) {
    const bool four = x->dims.size() == 4;
    const Dims table = four ? Dims{1, x->dims[1], 1, x->dims[3]} : Dims{};
    broken = rule(four && cos->dims == table && sin->dims == table && y->dims == x->dims, "shapes do not fit",
                  mode == 0 || mode == 1, "this chip takes modes 0 and 1 only",
                  four && x->dims[3] % 2 == 0 && x->dims[3] < 896, "the head dim",
                  four && x->dims[0] * x->dims[2] < 1000, "batch times heads",
                  cos->dtype == x->dtype && sin->dtype == x->dtype && y->dtype == x->dtype, "dtypes differ");
  }
  return plan("aclnnRotaryPositionEmbedding", workspace_bytes, executor,
              {in(x, "x"), in(cos, "cos"), in(sin, "sin"), dense(y, "out")}, broken,
              [x = view_of(x), cos = view_of(cos), sin = view_of(sin), mode, y = view_of(y)] {
                const std::vector<double> values = x.values();
                const std::vector<double> c = cos.values();
                const std::vector<double> s = sin.values();
                std::vector<double> result(values.size());
                const auto width = static_cast<std::size_t>(x.dims[3]);
                const auto heads = static_cast<std::size_t>(x.dims[2]);
                const auto tokens = static_cast<std::size_t>(x.dims[1]);
                for (std::size_t i = 0; i < values.size(); ++i) {
                  const std::size_t element = i % width;
                  const std::size_t at = i / (width * heads) % tokens * width + element;
                  const std::size_t half = width / 2;
                  double turned = 0;
                  if (mode == 0) turned = element < half ? -values[i + half] : values[i - half];
                  if (mode == 1) turned = element % 2 == 0 ? -values[i + 1] : values[i - 1];
                  result[i] = values[i] * c[at] + turned * s[at];
                }
                y.store(result);
              });
}

int aclnnDynamicBlockQuantGetWorkspaceSize(const aclTensor* x, double least, char* rounding, std::int64_t dtype,
                                           std::int64_t rows, std::int64_t columns, const aclTensor* y,
                                           const aclTensor* scale, WORKSPACE_AND_EXECUTOR) {
  std::string broken = rule(soc_name().rfind("Ascend950", 0) == 0, "this chip quantises to int8 only",
                            rounding != nullptr && std::string(rounding) == "rint", "roundMode", least == 0, "minScale",
                            dtype == static_cast<std::int64_t>(Dtype::float8_e4m3fn), "dstType",
                            (rows == 1 || rows == 128 || rows == 256 || rows == 512) && columns == 128, "the blocks");
  if (broken.empty() && x != nullptr && y != nullptr && scale != nullptr) {
    const bool three = x->dims.size() == 3;
    const auto blocks = [](std::int64_t count, std::int64_t size) { return (count + size - 1) / size; };
    broken = rule(three, "this simulator takes [B, M, N] only", y->dims == x->dims, "y's shape",
                  three && scale->dims == Dims{x->dims[0], blocks(x->dims[1], rows), blocks(x->dims[2], columns)},
                  "scale's shape");
  }
  return plan("aclnnDynamicBlockQuant", workspace_bytes, executor,
              {dense(x, "x"), dense(y, "y", {Dtype::float8_e4m3fn}), dense(scale, "scale", {Dtype::float32})}, broken,
              [x = view_of(x), rows, columns, y = view_of(y), scale = view_of(scale)] {
                constexpr double kMost = 448;
                std::vector<double> values = x.values();
                std::vector<double> scales(static_cast<std::size_t>(scale.elements()), 0.0);
                const auto scale_of = [&](std::size_t i) -> double& {
                  const auto at = static_cast<std::int64_t>(i);
                  const std::int64_t column = at % x.dims[2] / columns;
                  const std::int64_t row = at / x.dims[2] % x.dims[1] / rows;
                  const std::int64_t sample = at / (x.dims[2] * x.dims[1]);
                  return scales[static_cast<std::size_t>((sample * scale.dims[1] + row) * scale.dims[2] + column)];
                };
                for (std::size_t i = 0; i < values.size(); ++i) {
                  double& most = scale_of(i);
                  if (std::isnan(values[i]) || std::fabs(values[i]) > most) most = std::fabs(values[i]);
                }
                for (double& most : scales) most = static_cast<float>(most / kMost);
                for (std::size_t i = 0; i < values.size(); ++i) {
                  if (const double by = scale_of(i); by != 0) values[i] /= by;
                }
                y.store(values);
                scale.store(scales);
              });
}

}  // extern "C"

SECOND_PHASE(aclnnAdaLayerNormV2)
SECOND_PHASE(aclnnRotaryPositionEmbedding)
SECOND_PHASE(aclnnDynamicBlockQuant)
