// What cuDNN is asked to compute, in its front end's words, before a device is there to plan it for.
#pragma once

#include <memory>

#include "backends/cuda/convolutions.h"
#include "backends/cuda/cudnn_library.h"
#include "backends/cuda/sdpa.h"

namespace rondo::cuda {

/// Throws Unsupported for what the version of cuDNN that is here does not compute.
std::shared_ptr<cudnn_frontend::graph::Graph> sdpa_graph(const SdpaProblem& problem);

std::shared_ptr<cudnn_frontend::graph::Graph> convolution_graph(const ConvolutionShape& shape);

}  // namespace rondo::cuda
