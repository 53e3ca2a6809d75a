// Device memory that is kept for the next who asks: the runtime's own allocation waits for the device, and takes a
// hundred times as long as a kernel's launch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <shared_mutex>
#include <string>
#include <thread>

#include "device/device_runtime.h"

namespace rondo {

/// Tells who recorded a stream's work, and with it addresses of blocks that lie in the stream's cache by now, whether
/// they are still the stream's.
class BlockLease {
 public:
  std::uint64_t term() const;
  /// Calls `work` unless blocks have been given up since that term; none is meanwhile. False where it did not.
  bool within(std::uint64_t term, const std::function<void()>& work);
  /// The blocks are about to be given up. Work that was given before must be waited for.
  void end_term();

 private:
  mutable std::mutex mutex_;
  std::uint64_t term_ = 0;
};

/// Blocks go back to a cache when their last owner lets go. A block that was asked for with a stream goes to that
/// stream's next caller: work that still uses it comes first there. One that was asked for without a stream may only be
/// let go once the work on it is done. Safe to use from several threads.
class CachingAllocator : public std::enable_shared_from_this<CachingAllocator> {
 public:
  /// `limit`: bytes that blocks in use and in the cache may take; 0: what the device has.
  static std::shared_ptr<CachingAllocator> make(std::shared_ptr<DeviceRuntime> runtime, std::uint64_t limit);
  ~CachingAllocator();
  CachingAllocator(const CachingAllocator&) = delete;
  CachingAllocator& operator=(const CachingAllocator&) = delete;

  /// Throws DeviceError, with what is in use, where there is not enough once the cache is empty. Nothing is a null.
  std::shared_ptr<void> allocate(std::size_t bytes, const DeviceStream* stream = nullptr);
  /// Waits for the device's work and gives the cached blocks back to it. Throws DeviceError.
  void release_cached();
  /// The same for those of a stream, which must be done with them: it ends.
  void release_cached(const DeviceStream& stream);

  /// Of the stream's blocks; as long as the stream is.
  std::shared_ptr<BlockLease> lease(const DeviceStream& stream);

  /// While one lives its thread records work, during which no thread may wait for the device as a whole: who gives the
  /// cache back waits for its end, and where its own thread finds no memory allocate() throws at once.
  class Recording {
   public:
    explicit Recording(CachingAllocator& allocator);
    ~Recording();
    Recording(const Recording&) = delete;
    Recording& operator=(const Recording&) = delete;

   private:
    CachingAllocator& allocator_;
    std::shared_lock<std::shared_mutex> lock_;
  };

  DeviceMemoryStatistics statistics() const;
  std::uint64_t limit() const { return limit_; }

 private:
  CachingAllocator(std::shared_ptr<DeviceRuntime> runtime, std::uint64_t limit)
      : runtime_(std::move(runtime)), limit_(limit) {}

  struct Block {
    void* memory;
    std::size_t bytes;
  };
  using Cache = std::multimap<std::size_t, void*>;  // by size

  /// From the cache, or new; null where there is not enough. The lock is held.
  Block take(std::size_t bytes, const DeviceStream* stream);
  /// The same once the cache has been given back. Throws DeviceError.
  Block take_after_release(std::size_t bytes);
  void* allocate_new(std::size_t bytes);
  void give_back(const Block& block, const DeviceStream* stream) noexcept;
  void release(Cache& cache) noexcept;
  /// Of all streams, once their work is done. Both locks are held.
  void release_all();

  std::shared_ptr<DeviceRuntime> runtime_;
  std::uint64_t limit_;
  // Shared by those who record, whole to those who wait for the device; taken before the other.
  std::shared_mutex recording_;
  mutable std::mutex mutex_;
  std::set<std::thread::id> recording_threads_;
  std::map<const DeviceStream*, Cache> cached_;
  std::map<const DeviceStream*, std::shared_ptr<BlockLease>> leases_;
  DeviceMemoryStatistics statistics_;
};

}  // namespace rondo
