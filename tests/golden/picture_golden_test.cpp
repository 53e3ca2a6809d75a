// Whole pictures: in float32 every 8-bit channel within one level of diffusers' FluxPipeline.
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <thread>

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

/// Draws every stored case and compares it, where this rank is given the pictures; returns how many it was given and
/// how many there are.
struct Checked {
  std::size_t pictures = 0;
  std::size_t cases = 0;
};
Checked check_pictures(const std::string& name, TextToImagePipeline& pipeline) {
  const JsonConfig golden = JsonConfig::load(data_folder() / (name + ".json"));
  const Checkpoint tensors = golden_tensors(name);
  const auto& cases = golden.object()["cases"];
  Checked checked{0, cases.size()};
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const Tensor expected = tensors.tensor("picture." + std::to_string(i));
    pipeline.generate(pipeline.resolve(request_of(cases[i])), [&](GeneratedImage&& picture) {
      ++checked.pictures;
      ASSERT_EQ(expected.shape(), (Shape{picture.image.height, picture.image.width, 3}));
      int most = 0;
      for (std::size_t p = 0; p < picture.image.pixels.size(); ++p) {
        most = std::max(most, std::abs(picture.image.pixels[p] - expected.as<std::uint8_t>()[p]));
      }
      EXPECT_LE(most, 1) << cases[i];
    });
  }
  return checked;
}

TEST_P(PictureGolden, WithinOneLevelOfDiffusers) {
  PipelineOptions options;
  options.dtype = DType::f32;
  options.threads = 2;
  TextToImagePipeline pipeline = TextToImagePipeline::open(pipeline_folder(GetParam()).string(), options);
  const Checked checked = check_pictures(GetParam(), pipeline);
  EXPECT_GT(checked.cases, 0U);
  EXPECT_EQ(checked.pictures, checked.cases);
}

// Threads as ranks: their world may go before the pipeline does.
TEST_P(PictureGolden, WithinOneLevelOfDiffusersOnSeveralRanks) {
  for (const auto& [ranks, ring] : {std::pair(2, 1), {2, 2}, {3, 3}, {4, 2}}) {
    const auto worlds = ParallelWorld::threads(ranks);
    std::vector<std::thread> threads;
    std::vector<Checked> checked(worlds.size());
    for (const std::shared_ptr<ParallelWorld>& world : worlds) {
      threads.emplace_back([&, ring_degree = ring] {
        PipelineOptions options;
        options.dtype = DType::f32;
        options.threads = 1;
        options.parallel.ring_degree = ring_degree;
        options.world = world;
        TextToImagePipeline pipeline = TextToImagePipeline::open(pipeline_folder(GetParam()).string(), options);
        options.world.reset();
        checked[static_cast<std::size_t>(world->rank())] = check_pictures(GetParam(), pipeline);
        world->finish();
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (std::size_t rank = 0; rank < checked.size(); ++rank)
      EXPECT_EQ(checked[rank].pictures, rank == 0 ? checked[0].cases : 0) << rank;
    EXPECT_GT(checked[0].cases, 0U);
  }
}

INSTANTIATE_TEST_SUITE_P(Pipelines, PictureGolden, ::testing::Values("tiny", "published", "emoji"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace rondo::test
