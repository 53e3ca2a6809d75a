#include "device/caching_allocator.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/text.h"
#include "rondo/error.h"

namespace rondo {
namespace {

/// Blocks are multiples of this, so that requests of nearly one size share them.
constexpr std::size_t kGranule = 512;

/// How much larger than asked for a cached block may be: what is larger is kept for those who need it.
std::size_t most_for(std::size_t bytes) {
  constexpr std::size_t kSmall = std::size_t{1} << 20;
  return bytes + std::max(bytes / 4, kSmall);
}

}  // namespace

std::uint64_t BlockLease::term() const {
  const std::lock_guard lock(mutex_);
  return term_;
}

bool BlockLease::within(std::uint64_t term, const std::function<void()>& work) {
  const std::lock_guard lock(mutex_);
  if (term != term_) return false;
  work();
  return true;
}

void BlockLease::end_term() {
  const std::lock_guard lock(mutex_);
  ++term_;
}

std::shared_ptr<CachingAllocator> CachingAllocator::make(std::shared_ptr<DeviceRuntime> runtime, std::uint64_t limit) {
  return std::shared_ptr<CachingAllocator>(new CachingAllocator(std::move(runtime), limit));
}

CachingAllocator::~CachingAllocator() {
  for (auto& [stream, cache] : cached_) release(cache);
}

CachingAllocator::Recording::Recording(CachingAllocator& allocator)
    : allocator_(allocator), lock_(allocator.recording_) {
  const std::lock_guard lock(allocator_.mutex_);
  allocator_.recording_threads_.insert(std::this_thread::get_id());
}

CachingAllocator::Recording::~Recording() {
  const std::lock_guard lock(allocator_.mutex_);
  allocator_.recording_threads_.erase(std::this_thread::get_id());
}

std::shared_ptr<void> CachingAllocator::allocate(std::size_t bytes, const DeviceStream* stream) {
  if (bytes == 0) return nullptr;
  const std::size_t whole = (bytes + kGranule - 1) / kGranule * kGranule;
  const auto count_in = [&](const Block& block) {
    statistics_.used_bytes += block.bytes;
    statistics_.peak_used_bytes = std::max(statistics_.peak_used_bytes, statistics_.used_bytes);
  };
  Block block{};
  {
    const std::lock_guard lock(mutex_);
    ++statistics_.requests;
    block = take(whole, stream);
    if (block.memory != nullptr)
      count_in(block);
    else if (recording_threads_.contains(std::this_thread::get_id()))
      throw DeviceError(fmt::format("{}: out of memory while steps are recorded: {} are asked for",
                                    to_string(runtime_->info().device), human_bytes(bytes)));
  }
  if (block.memory == nullptr) {
    const std::unique_lock nobody_records(recording_);
    const std::lock_guard lock(mutex_);
    block = take_after_release(whole);
    count_in(block);
  }
  return {block.memory,
          [self = shared_from_this(), block, stream](void* /*memory*/) { self->give_back(block, stream); }};
}

CachingAllocator::Block CachingAllocator::take(std::size_t bytes, const DeviceStream* stream) {
  Cache& cache = cached_[stream];
  const auto found = cache.lower_bound(bytes);
  if (found != cache.end() && found->first <= most_for(bytes)) {
    const Block block{found->second, found->first};
    cache.erase(found);
    statistics_.cached_bytes -= block.bytes;
    ++statistics_.requests_from_cache;
    return block;
  }
  return {allocate_new(bytes), bytes};
}

CachingAllocator::Block CachingAllocator::take_after_release(std::size_t bytes) {
  release_all();
  void* const memory = allocate_new(bytes);
  if (memory != nullptr) return {memory, bytes};
  const DeviceInfo info = runtime_->info();
  throw DeviceError(fmt::format("{}: out of memory: {} are asked for; {} are in use, {} of {} are free{}",
                                to_string(info.device), human_bytes(bytes), human_bytes(statistics_.used_bytes),
                                human_bytes(info.free_memory), human_bytes(info.total_memory),
                                limit_ == 0 ? "" : fmt::format(", the limit is {}", human_bytes(limit_))));
}

void* CachingAllocator::allocate_new(std::size_t bytes) {
  const bool fits = limit_ == 0 || statistics_.used_bytes + statistics_.cached_bytes + bytes <= limit_;
  return fits ? runtime_->allocate(bytes) : nullptr;
}

void CachingAllocator::give_back(const Block& block, const DeviceStream* stream) noexcept {
  const std::lock_guard lock(mutex_);
  cached_[stream].emplace(block.bytes, block.memory);
  statistics_.used_bytes -= block.bytes;
  statistics_.cached_bytes += block.bytes;
}

void CachingAllocator::release(Cache& cache) noexcept {
  for (const auto& [bytes, memory] : cache) {
    runtime_->release(memory);
    statistics_.cached_bytes -= bytes;
  }
  cache.clear();
}

void CachingAllocator::release_all() {
  for (const auto& [stream, lease] : leases_) lease->end_term();
  runtime_->synchronize();  // work may still use what its stream's cache holds
  for (auto& [stream, cache] : cached_) release(cache);
}

void CachingAllocator::release_cached() {
  const std::unique_lock nobody_records(recording_);
  const std::lock_guard lock(mutex_);
  release_all();
}

void CachingAllocator::release_cached(const DeviceStream& stream) {
  const std::unique_lock nobody_records(recording_);
  const std::lock_guard lock(mutex_);
  if (const auto lease = leases_.find(&stream); lease != leases_.end()) {
    lease->second->end_term();
    leases_.erase(lease);
  }
  const auto found = cached_.find(&stream);
  if (found == cached_.end()) return;
  release(found->second);
  cached_.erase(found);
}

std::shared_ptr<BlockLease> CachingAllocator::lease(const DeviceStream& stream) {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<BlockLease>& lease = leases_[&stream];
  if (lease == nullptr) lease = std::make_shared<BlockLease>();
  return lease;
}

DeviceMemoryStatistics CachingAllocator::statistics() const {
  const std::lock_guard lock(mutex_);
  return statistics_;
}

}  // namespace rondo
