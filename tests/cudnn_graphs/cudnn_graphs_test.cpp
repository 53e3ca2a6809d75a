// cuDNN's front end looks at every graph of ours, for each architecture, and accepts it or says the documented no.
// Needs cuDNN, no GPU.
#include <gtest/gtest.h>

#include <cstdlib>

#include "backends/cuda/cudnn_graphs.h"
#include "rondo/error.h"

namespace rondo::cuda {
namespace {

/// Why not; empty where it is accepted.
std::string refusal(const SdpaProblem& problem) {
  try {
    auto status = sdpa_graph(problem)->validate();
    return status.is_good() ? "" : status.get_message();
  } catch (const Unsupported& error) {
    return error.what();
  }
}

SdpaProblem attention(DType dtype, DType output, std::int64_t keys = 384) {
  const auto prototype = [](std::int64_t tokens, std::int64_t heads, DType element) {
    return Tensor::borrow(nullptr, {2, tokens, heads, 128}, element);
  };
  SdpaProblem problem{{DeviceKind::cuda, 0},
                      prototype(256, 24, dtype),
                      prototype(keys, 8, dtype),
                      prototype(keys, 8, dtype),
                      prototype(256, 24, output)};
  problem.scale = 0.1F;
  return problem;
}

class CudnnGraphs : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override { setenv("FAKE_COMPUTE_CAPABILITY", std::to_string(GetParam()).c_str(), 1); }
  bool hopper() const { return GetParam() >= 90; }
  bool blackwell() const { return GetParam() >= 100; }
};

TEST_P(CudnnGraphs, Attention) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    for (const bool causal : {false, true}) {
      for (const bool lse : {false, true}) {
        for (const bool packed : {false, true}) {
          SdpaProblem problem = attention(dtype, dtype);
          problem.causal = causal;
          problem.lse = lse;
          problem.packed = packed;
          EXPECT_EQ(refusal(problem), "") << problem.key_text();
        }
      }
    }
  }
}

TEST_P(CudnnGraphs, AttentionInE4m3) {
  for (const bool lse : {false, true}) {
    SdpaProblem narrow = attention(DType::f8_e4m3, DType::f8_e4m3);
    narrow.lse = lse;
    EXPECT_EQ(refusal(narrow).empty(), hopper()) << refusal(narrow);
    SdpaProblem wide = attention(DType::f8_e4m3, DType::bf16);
    wide.lse = lse;
    EXPECT_EQ(refusal(wide).empty(), blackwell()) << refusal(wide);
    SdpaProblem square = attention(DType::f8_e4m3, DType::f8_e4m3, 256);
    square.lse = lse;
    square.causal = true;
    EXPECT_EQ(refusal(square).empty(), hopper()) << refusal(square);
    narrow.causal = true;
    EXPECT_EQ(refusal(narrow).empty(), blackwell()) << refusal(narrow);
  }
}

TEST_P(CudnnGraphs, Convolutions) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const bool has_bias : {false, true}) {
      for (const std::int64_t stride : {1, 2}) {
        ConvolutionShape shape{};
        shape.dtype = dtype;
        shape.x = {2, 64, 48, 32};
        shape.weight = {64, 32, 3, 3};
        shape.y = {2, 64 / stride, 48 / stride, 64};
        shape.stride = stride;
        shape.padding = stride == 1 ? Conv2dOp::Padding{1, 1, 1, 1} : Conv2dOp::Padding{0, 1, 0, 1};
        shape.has_bias = has_bias;
        auto status = convolution_graph(shape)->validate();
        EXPECT_TRUE(status.is_good()) << status.get_message();
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Capabilities, CudnnGraphs, ::testing::Values(80, 89, 90, 100));

}  // namespace
}  // namespace rondo::cuda

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  setenv("CUDNN_FRONTEND_CUDART_LIB_NAME", FAKE_CUDA_RUNTIME, 1);
  if (const std::string missing = rondo::cuda::sdpa_missing(); !missing.empty()) {
    std::printf("skipped: %s\n", missing.c_str());
    return 77;
  }
  return RUN_ALL_TESTS();
}
