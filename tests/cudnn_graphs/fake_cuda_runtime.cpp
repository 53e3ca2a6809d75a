// As much of the CUDA runtime as cuDNN's front end asks before it plans anything: a GPU of the compute capability that
// FAKE_COMPUTE_CAPABILITY says, 90 for 9.0.
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>

namespace {

int capability() {
  const char* const text = std::getenv("FAKE_COMPUTE_CAPABILITY");
  return text == nullptr ? 90 : std::atoi(text);
}

}  // namespace

extern "C" {

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int /*device*/) {
  std::memset(properties, 0, sizeof *properties);
  properties->major = capability() / 10;
  properties->minor = capability() % 10;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int /*device*/) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor   ? capability() / 10
           : attribute == cudaDevAttrComputeCapabilityMinor ? capability() % 10
                                                            : 0;
  return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t /*status*/) { return "no error"; }

}  // extern "C"
