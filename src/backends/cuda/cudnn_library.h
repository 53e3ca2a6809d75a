// cuDNN, opened at run time through its front end: where it is missing, its kernels say so and the rest works.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>

// The front end's own headers are not written for these warnings.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wpedantic"
#include <cudnn_frontend.h>
#pragma GCC diagnostic pop

namespace rondo::cuda {

class CudaRun;

/// Why cuDNN cannot be used in this process; empty when it can. Opens it at the first call.
const std::string& cudnn_missing();

/// "9.12.0"
std::string cudnn_version();

/// A handle for the calling thread's device and this stream (a cudaStream_t); of the thread, which keeps it.
cudnnHandle_t cudnn_handle(void* stream);

/// Runs a graph that has been built, with memory for it from the run.
void execute_cudnn(cudnn_frontend::graph::Graph& graph, const CudaRun& run,
                   std::unordered_map<std::int64_t, void*>& operands);

/// Throws DeviceError, with the front end's words, unless `status` is good.
void check_cudnn(cudnn_frontend::error_t status, const char* call);

}  // namespace rondo::cuda
