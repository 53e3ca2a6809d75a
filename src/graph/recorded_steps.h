// Steps that a session gives to its device once and the device does again and again: what it records (CUDA graphs)
// costs one launch, whatever number of kernels it has.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backends/device_work.h"

namespace rondo {

/// Of one session. Belongs to its thread.
class RecordedSteps {
 public:
  /// Steps from `first` on up to the next on the CPU. What runs where operators fall back is a recording of its own.
  struct Stretch {
    std::size_t first;
    std::vector<bool> falls_back;
    bool operator<(const Stretch& other) const {
      return first != other.first ? first < other.first : falls_back < other.falls_back;
    }
  };

  /// `required`: what cannot be recorded throws, in place of being given each time.
  RecordedSteps(const DeviceWork& work, bool required);

  /// Has the stretch done. `give` gives its steps to the stream: the first time they are done so, which also prepares
  /// what cannot be while work is recorded; the second time they are recorded.
  void run(const Stretch& stretch, const std::function<void()>& give);

  /// "2 recorded"; with how many were made anew, and with the reason where one could not be.
  std::string to_string() const;

 private:
  struct Recording {
    bool was_done = false;
    bool fails = false;
    int times = 0;  // it was recorded
    int lost = 0;   // recordings since the last that was launched
    std::uint64_t term = 0;
    std::unique_ptr<RecordedWork> work;
  };
  bool launch(Recording& recording);
  /// Whatever went wrong may go well the next time, a few times: another thread waited for the device, or had its
  /// memory.
  void lose(Recording& recording, const std::string& reason);
  void record(Recording& recording, const std::function<void()>& give);

  const DeviceWork& work_;
  bool required_;
  std::shared_ptr<BlockLease> lease_;
  std::map<Stretch, Recording> recordings_;
  std::string failure_;
};

}  // namespace rondo
