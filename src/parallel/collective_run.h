// What a run of a parallel graph carries: the ranks that share its sequence, and the exchanges that are under way.
#pragma once

#include <map>
#include <memory>

#include "ops/exchange.h"
#include "parallel/communicator.h"

namespace rondo {

class CollectiveRun {
 public:
  explicit CollectiveRun(Communicator& sequence) : sequence_(sequence) {}

  /// Posts the plan's messages; `input` and `output` hold elements of so many bytes.
  void start(const ExchangePlan& plan, std::span<const std::byte> input, std::span<std::byte> output,
             std::size_t element_bytes);
  /// Returns once the messages of a slot have left and come.
  void wait(int slot);

 private:
  Communicator& sequence_;
  std::map<int, std::unique_ptr<Exchange>> under_way_;
};

}  // namespace rondo
