// Weights that do not fit on a device: they stay in pinned host memory, a group for every layer, and come to it when
// their layer's turn is near. Groups take turns in two slots of device memory: while one is worked with, the next is on
// its way. A weight's address on the device is the same in every run, so that kernels keep it.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "device/device_runtime.h"
#include "rondo/tensor.h"

namespace rondo {

class ExecutionDevice;

class OffloadedWeights {
 public:
  struct GroupSize {
    std::string name;
    std::size_t bytes;  // at most; place() refuses what is more
  };
  struct Group;

  /// Groups in the order in which they run. Throws DeviceError where the slots or the host memory cannot be had.
  OffloadedWeights(std::shared_ptr<const ExecutionDevice> device, const std::vector<GroupSize>& groups);
  ~OffloadedWeights();
  OffloadedWeights(const OffloadedWeights&) = delete;
  OffloadedWeights& operator=(const OffloadedWeights&) = delete;

  /// Null: its weights stay on the device.
  Group* find(const std::string& name) const;
  /// A group's weight, which lies on the device while the group is entered; undefined where the group has no room left.
  static Tensor place(Group& group, const Tensor& host);

  std::size_t groups() const { return groups_.size(); }
  /// Of device memory.
  std::size_t slot_bytes() const;
  /// What comes to the device in a run of all groups.
  std::size_t bytes_a_run() const;

  /// One run's use of them; others wait until it ends.
  class Run {
   public:
    Run(OffloadedWeights& weights, DeviceStream& work);
    /// Waits for the work: the next run may be in another stream.
    ~Run();
    Run(const Run&) = delete;
    Run& operator=(const Run&) = delete;

    /// Work given from now on finds the group's weights; null: none. The group before is done with.
    void enter(Group* group);

   private:
    void leave();

    OffloadedWeights& weights_;
    DeviceStream& work_;
    std::unique_lock<std::mutex> lock_;
    Group* entered_ = nullptr;
  };

 private:
  struct Slot;

  /// Has the copies' stream bring the group's weights, once the slot is free.
  void fetch(Group& group);

  std::shared_ptr<const ExecutionDevice> device_;
  std::vector<std::unique_ptr<Group>> groups_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::unique_ptr<DeviceStream> copies_;  // goes first: it may hold the slots' events
  std::mutex mutex_;                      // of runs
};

/// Where a kernel's weights lie.
struct WeightHome {
  const ExecutionDevice* device = nullptr;   // null: the CPU
  OffloadedWeights::Group* group = nullptr;  // null where they stay on the device

  bool operator==(const WeightHome&) const = default;
};

}  // namespace rondo
