// Several instances of a pipeline that work off one list of requests.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "rondo/text_to_image.h"

namespace rondo {

struct InstanceResult {
  double duration_ms = 0;
  int instance = 0;
  RunReport report;
  std::string error;  // empty when the picture was delivered
};

class InstancePool {
 public:
  /// `pipeline` is the first of `count` instances; it must outlive the pool.
  InstancePool(TextToImagePipeline& pipeline, int count);

  /// Runs every request; an instance takes the next when it is done with one. A request that fails leaves its message
  /// in its result and the others alone. `deliver` is called from the instances' threads, one call at a time. Throws
  /// Cancelled once all have stopped.
  std::vector<InstanceResult> run(const std::vector<ResolvedTextToImageRequest>& requests,
                                  const std::function<void(std::size_t request, GeneratedImage&&)>& deliver,
                                  const std::atomic<bool>* cancel);

 private:
  TextToImagePipeline& first_;
  std::vector<TextToImagePipeline> others_;
};

}  // namespace rondo
