#include "support/ranks.h"

#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "parallel/local_communicator.h"

namespace rondo::test {

void run_ranks(int ranks, const std::function<void(Communicator& world)>& body) {
  const auto communicators = local_communicators(ranks);
  std::mutex mutex;
  std::exception_ptr first;
  std::vector<std::thread> threads;
  for (const auto& world : communicators) {
    threads.emplace_back([&, rank = world.get()] {
      rank->set_timeout(std::chrono::seconds(60));
      try {
        body(*rank);
      } catch (const std::exception& error) {
        {
          const std::lock_guard lock(mutex);
          if (first == nullptr) first = std::current_exception();
        }
        rank->fail(error.what());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (first != nullptr) std::rethrow_exception(first);
}

}  // namespace rondo::test
