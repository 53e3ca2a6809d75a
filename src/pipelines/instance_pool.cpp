#include "pipelines/instance_pool.h"

#include <mutex>
#include <new>
#include <thread>

#include "core/trace.h"
#include "rondo/error.h"

namespace rondo {

InstancePool::InstancePool(TextToImagePipeline& pipeline, int count) : first_(pipeline) {
  for (int i = 1; i < count; ++i) others_.push_back(pipeline.instance());
}

std::vector<InstanceResult> InstancePool::run(const std::vector<ResolvedTextToImageRequest>& requests,
                                              const std::function<void(std::size_t request, GeneratedImage&&)>& deliver,
                                              const std::atomic<bool>* cancel) {
  std::vector<InstanceResult> results(requests.size());
  std::atomic<std::size_t> next = 0;
  std::atomic<bool> cancelled = false;
  std::mutex delivering;
  const auto work = [&](TextToImagePipeline& pipeline, int instance) {
    RunObserver observer;
    observer.cancel = cancel;
    for (std::size_t i = next++; i < requests.size() && !cancelled; i = next++) {
      InstanceResult& result = results[i];
      result.instance = instance;
      const Trace clock;
      try {
        result.report = pipeline.generate(
            requests[i],
            [&](GeneratedImage&& picture) {
              const std::lock_guard lock(delivering);
              deliver(i, std::move(picture));
            },
            observer);
      } catch (const Cancelled&) {
        cancelled = true;
      } catch (const CommunicationError&) {
        throw;  // with other ranks there is one instance, and nothing left to do
      } catch (const std::bad_alloc&) {
        result.error = "memory: not enough for this request";
      } catch (const std::exception& error) {
        result.error = error.what();
      }
      result.duration_ms = clock.now_ms();
    }
  };
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < others_.size(); ++i)
    threads.emplace_back([&, i] { work(others_[i], static_cast<int>(i) + 1); });
  work(first_, 0);
  for (std::thread& thread : threads) thread.join();
  if (cancelled) throw Cancelled("generate: cancelled");
  return results;
}

}  // namespace rondo
