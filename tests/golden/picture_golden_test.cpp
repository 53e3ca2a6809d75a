// Whole pictures: in float32 every 8-bit channel within one level of diffusers' FluxPipeline.
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "io/json_config.h"
#include "rondo/text_to_image.h"
#include "support/golden.h"

namespace rondo::test {
namespace {

class PictureGolden : public ::testing::TestWithParam<std::string> {};

TextToImageRequest request_of(const nlohmann::json& stored) {
  TextToImageRequest request;
  const auto text = [&](const char* key, std::optional<std::string>& target) {
    if (stored.contains(key)) target = stored[key].get<std::string>();
  };
  const auto integer = [&](const char* key, std::optional<std::int64_t>& target) {
    if (stored.contains(key)) target = stored[key].get<std::int64_t>();
  };
  const auto number = [&](const char* key, std::optional<double>& target) {
    if (stored.contains(key)) target = stored[key].get<double>();
  };
  text("prompt", request.prompt);
  text("prompt_2", request.prompt_2);
  text("negative_prompt", request.negative_prompt);
  integer("width", request.width);
  integer("height", request.height);
  integer("num_inference_steps", request.num_inference_steps);
  integer("max_sequence_length", request.max_sequence_length);
  number("guidance_scale", request.guidance_scale);
  request.true_cfg_scale = 1.0;  // what diffusers does when the case says nothing
  number("true_cfg_scale", request.true_cfg_scale);
  request.seed = stored["seed"].get<std::uint64_t>();
  return request;
}

TEST_P(PictureGolden, WithinOneLevelOfDiffusers) {
  PipelineOptions options;
  options.dtype = DType::f32;
  options.threads = 2;
  TextToImagePipeline pipeline = TextToImagePipeline::open(pipeline_folder(GetParam()).string(), options);
  const JsonConfig golden = JsonConfig::load(data_folder() / (GetParam() + ".json"));
  const Checkpoint tensors = golden_tensors(GetParam());
  const auto& cases = golden.object()["cases"];
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const Tensor expected = tensors.tensor("picture." + std::to_string(i));
    pipeline.generate(pipeline.resolve(request_of(cases[i])), [&](GeneratedImage&& picture) {
      ASSERT_EQ(expected.shape(), (Shape{picture.image.height, picture.image.width, 3}));
      int most = 0;
      for (std::size_t p = 0; p < picture.image.pixels.size(); ++p) {
        most = std::max(most, std::abs(picture.image.pixels[p] - expected.as<std::uint8_t>()[p]));
      }
      EXPECT_LE(most, 1) << cases[i];
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Pipelines, PictureGolden, ::testing::Values("tiny", "published", "emoji"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace rondo::test
