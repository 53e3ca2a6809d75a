#include "backends/cuda/cuda_stream.h"

#include "backends/cuda/cudnn_library.h"

namespace rondo::cuda {
namespace {

class CudaGraphWork final : public RecordedWork {
 public:
  CudaGraphWork(cudaGraph_t graph, int device) : device_(device) {
    check(cudaGraphInstantiate(&executable_, graph, 0), "cudaGraphInstantiate", device);
  }
  ~CudaGraphWork() override { note(cudaGraphExecDestroy(executable_), "cudaGraphExecDestroy", device_); }
  CudaGraphWork(const CudaGraphWork&) = delete;
  CudaGraphWork& operator=(const CudaGraphWork&) = delete;

  void launch(DeviceStream& stream) override {
    auto& own = static_cast<CudaStream&>(stream);
    own.runtime().use();
    check(cudaGraphLaunch(executable_, own.handle()), "cudaGraphLaunch", device_);
  }

 private:
  int device_;
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace

CudaStream::CudaStream(const CudaRuntime& runtime) : runtime_(runtime) {
  runtime.use();
  check(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags", runtime.index());
}

CudaStream::~CudaStream() {
  note(cudaSetDevice(runtime_.index()), "cudaSetDevice", runtime_.index());
  note(cudaStreamDestroy(handle_), "cudaStreamDestroy", runtime_.index());
}

void CudaStream::synchronize() {
  runtime_.use();
  check(cudaStreamSynchronize(handle_), "cudaStreamSynchronize", runtime_.index());
}

void CudaStream::begin_recording() {
  runtime_.use();
  if (cudnn_missing().empty()) cudnn_handle(handle_);  // the thread's first would be made while it records
  // Relaxed: memory may be asked for meanwhile, here and by other threads.
  check(cudaStreamBeginCapture(handle_, cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture", runtime_.index());
}

std::unique_ptr<RecordedWork> CudaStream::end_recording() {
  runtime_.use();
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(handle_, &graph), "cudaStreamEndCapture", runtime_.index());
  const std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, void (*)(cudaGraph_t)> owner(
      graph, [](cudaGraph_t recorded) { cudaGraphDestroy(recorded); });
  return std::make_unique<CudaGraphWork>(graph, runtime_.index());
}

}  // namespace rondo::cuda
