// Several instances of one model: the same pictures as one draws, and one's failure is its own.
#include "pipelines/instance_pool.h"

#include <gtest/gtest.h>

#include "rondo/error.h"
#include "support/paths.h"

namespace rondo::test {
namespace {

TEST(InstancePool, InstancesDrawWhatOneDraws) {
  PipelineOptions options;
  options.threads = 1;
  options.quantization.format = "w8a8";  // packed integers are shared as well
  TextToImagePipeline pipeline = TextToImagePipeline::open(emoji_folder().string(), options);
  std::vector<ResolvedTextToImageRequest> requests;
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    TextToImageRequest request;
    request.prompt = "red heart";
    request.seed = seed;
    request.num_inference_steps = 1;
    request.true_cfg_scale = 1;
    request.width = request.height = seed == 3 ? 32 : 64;  // plans of two shapes, made while others run
    requests.push_back(pipeline.resolve(request));
  }
  const auto draw = [&](int instances) {
    std::vector<Image> pictures(requests.size());
    InstancePool pool(pipeline, instances);
    const auto results = pool.run(
        requests,
        [&](std::size_t i, GeneratedImage&& made) {
          if (i == 2) throw Error("the disk is full");
          pictures[i] = std::move(made.image);
        },
        nullptr);
    for (std::size_t i = 0; i < results.size(); ++i) EXPECT_EQ(results[i].error, i == 2 ? "the disk is full" : "");
    return pictures;
  };
  const std::vector<Image> together = draw(3);
  const std::vector<Image> alone = draw(1);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(together[i].pixels, alone[i].pixels) << i;
    EXPECT_EQ(together[i].pixels.empty(), i == 2);
  }
  const std::atomic<bool> cancel = true;
  EXPECT_THROW(InstancePool(pipeline, 2)
                   .run(
                       requests, [](std::size_t, GeneratedImage&&) {}, &cancel),
               Cancelled);
}

TEST(InstancePool, RequestsHaveAttentionPoliciesOfTheirOwn) {
  PipelineOptions options;
  options.threads = 1;
  options.kv_cache.dtype = KvCacheDtype::int8;
  TextToImagePipeline pipeline = TextToImagePipeline::open(emoji_folder().string(), options);
  TextToImageRequest request;
  request.prompt = "red heart";
  request.seed = 1;
  request.num_inference_steps = 2;
  request.width = request.height = 32;
  // As the pipeline, fp8, native, int8 nowhere: the last two are the same.
  std::vector<KvCacheOptions> policies(4);
  policies[1].dtype = KvCacheDtype::fp8;
  policies[2].dtype = KvCacheDtype::automatic;
  policies[3].skip_layers = "0-7";
  std::vector<ResolvedTextToImageRequest> requests;
  for (int round = 0; round < 2; ++round) {
    for (const KvCacheOptions& policy : policies) {
      request.kv_cache = policy;
      requests.push_back(pipeline.resolve(request));
    }
  }
  const auto draw = [&](int instances) {
    std::vector<Image> pictures(requests.size());
    InstancePool(pipeline, instances)
        .run(
            requests, [&](std::size_t i, GeneratedImage&& made) { pictures[i] = std::move(made.image); }, nullptr);
    return pictures;
  };
  const std::vector<Image> alone = draw(1);
  for (std::size_t i = 0; i < policies.size(); ++i) {
    EXPECT_EQ(alone[i].pixels, alone[i + policies.size()].pixels) << i;
    for (std::size_t j = 0; j < i; ++j) EXPECT_EQ(alone[i].pixels == alone[j].pixels, j == 2) << i << " and " << j;
  }
  const std::vector<Image> together = draw(3);
  for (std::size_t i = 0; i < requests.size(); ++i) EXPECT_EQ(together[i].pixels, alone[i].pixels) << i;
  request.kv_cache.skip_layers = "8";
  EXPECT_THROW(pipeline.resolve(request), InvalidArgument);
}

}  // namespace
}  // namespace rondo::test
