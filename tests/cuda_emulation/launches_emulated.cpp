// The device code, compiled for the CPU.
#include "backends/cuda/device/launches.cu"
