#include "backends/offloaded_weights.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "backends/execution_device.h"
#include "core/log.h"
#include "rondo/error.h"

namespace rondo {
namespace {

constexpr std::size_t kSlots = 2;
constexpr std::size_t kAlignment = 512;  // what operators and copies of every device are content with

std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

struct OffloadedWeights::Group {
  OffloadedWeights& owner;
  std::string name;
  std::size_t index;
  std::size_t capacity;
  std::shared_ptr<void> host;  // pinned
  std::atomic<std::size_t> used = 0;
};

struct OffloadedWeights::Slot {
  Tensor memory;
  std::unique_ptr<DeviceEvent> loaded;
  std::unique_ptr<DeviceEvent> free;  // the work that read it is done
  const Group* content = nullptr;
};

OffloadedWeights::OffloadedWeights(std::shared_ptr<const ExecutionDevice> device, const std::vector<GroupSize>& groups)
    : device_(std::move(device)) {
  DeviceRuntime& runtime = device_->runtime();
  std::size_t largest = 0;
  for (const GroupSize& group : groups) {
    const std::size_t capacity = aligned(std::max<std::size_t>(group.bytes, 1));
    largest = std::max(largest, capacity);
    groups_.push_back(std::unique_ptr<Group>(
        new Group{*this, group.name, groups_.size(), capacity, runtime.allocate_pinned(capacity)}));
  }
  for (std::size_t i = 0; i < std::min(kSlots, groups_.size()); ++i) {
    slots_.push_back(std::make_unique<Slot>());
    slots_.back()->memory = device_->empty({static_cast<std::int64_t>(largest)}, DType::u8);
    slots_.back()->loaded = runtime.make_event();
    slots_.back()->free = runtime.make_event();
  }
  copies_ = runtime.make_stream();
  for (const auto& slot : slots_) slot->free->record(*copies_);  // no document says what waiting for a new one does
}

OffloadedWeights::~OffloadedWeights() {
  try {
    copies_->synchronize();
  } catch (const std::exception& error) {
    log(LogLevel::info, "{}", error.what());  // whoever ran was told
  }
}

OffloadedWeights::Group* OffloadedWeights::find(const std::string& name) const {
  for (const auto& group : groups_) {
    if (group->name == name) return group.get();
  }
  return nullptr;
}

Tensor OffloadedWeights::place(Group& group, const Tensor& host) {
  OffloadedWeights& owner = group.owner;
  const std::lock_guard lock(owner.mutex_);
  const std::size_t offset = group.used;
  if (offset + host.bytes() > group.capacity) return {};
  std::memcpy(static_cast<std::byte*>(group.host.get()) + offset, host.dense_copy().data(), host.bytes());
  group.used = offset + aligned(host.bytes());
  Slot& slot = *owner.slots_[group.index % owner.slots_.size()];
  if (slot.content == &group) slot.content = nullptr;  // it has less than the group has now
  const auto memory = std::make_shared<Tensor>(slot.memory);
  return Tensor::share(memory, slot.memory.as<std::byte>() + offset, host.shape(), host.dtype(),
                       owner.device_->device());
}

std::size_t OffloadedWeights::slot_bytes() const {
  std::size_t bytes = 0;
  for (const auto& slot : slots_) bytes += slot->memory.bytes();
  return bytes;
}

std::size_t OffloadedWeights::bytes_a_run() const {
  std::size_t bytes = 0;
  for (const auto& group : groups_) bytes += group->used;
  return bytes;
}

void OffloadedWeights::fetch(Group& group) {
  Slot& slot = *slots_[group.index % slots_.size()];
  if (slot.content == &group) return;
  slot.content = nullptr;  // nor the one before, whatever fails now
  slot.free->hold_back(*copies_);
  if (group.used > 0) {
    device_->runtime().copy({slot.memory.data(), group.used, group.host.get(), group.used, group.used, 1},
                            CopyKind::to_device, *copies_);
  }
  slot.loaded->record(*copies_);
  slot.content = &group;
}

OffloadedWeights::Run::Run(OffloadedWeights& weights, DeviceStream& work)
    : weights_(weights), work_(work), lock_(weights.mutex_) {}

OffloadedWeights::Run::~Run() {
  try {
    leave();
    work_.synchronize();
  } catch (const std::exception& error) {
    log(LogLevel::info, "{}", error.what());  // of which the run tells
  }
}

void OffloadedWeights::Run::leave() {
  if (entered_ != nullptr) weights_.slots_[entered_->index % weights_.slots_.size()]->free->record(work_);
  entered_ = nullptr;
}

void OffloadedWeights::Run::enter(Group* group) {
  if (group == entered_) return;
  leave();
  if (group == nullptr) return;
  weights_.fetch(*group);
  const std::size_t slots = weights_.slots_.size();
  weights_.slots_[group->index % slots]->loaded->hold_back(work_);
  entered_ = group;
  // After the last one the next run's first.
  Group& next = *weights_.groups_[(group->index + 1) % weights_.groups_.size()];
  if (next.index % slots != group->index % slots) weights_.fetch(next);
}

}  // namespace rondo
