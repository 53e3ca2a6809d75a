#include "core/memory.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>

#include "rondo/error.h"

namespace rondo {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
// Below this the unused rest of the last page would weigh more than the pages gain.
constexpr std::size_t kHugePagesFrom = 4 * kHugePage;

constexpr std::uint64_t kUnknown = std::numeric_limits<std::uint64_t>::max();

std::uint64_t read_number(const char* path) {
  std::ifstream file(path);
  std::uint64_t value = 0;
  return file >> value ? value : kUnknown;  // "max" is no number
}

/// A line of /proc/meminfo, in bytes.
std::uint64_t system_memory(const std::string& wanted) {
  std::ifstream info("/proc/meminfo");
  std::string key;
  std::uint64_t kibibytes = 0;
  std::string unit;
  while (info >> key >> kibibytes >> unit) {
    if (key == wanted) return kibibytes * 1024;
  }
  return kUnknown;
}

std::uint64_t cgroup_available() {
  const std::uint64_t limit = read_number("/sys/fs/cgroup/memory.max");
  const std::uint64_t used = read_number("/sys/fs/cgroup/memory.current");
  if (limit == kUnknown || used == kUnknown) return kUnknown;
  return limit > used ? limit - used : 0;
}

}  // namespace

std::uint64_t available_memory() { return std::min(system_memory("MemAvailable:"), cgroup_available()); }

std::uint64_t total_memory() {
  const std::uint64_t bytes = system_memory("MemTotal:");
  return bytes == kUnknown ? 0 : bytes;
}

std::uint64_t resident_memory() {
  std::ifstream file("/proc/self/statm");
  std::uint64_t total = 0;
  std::uint64_t resident = 0;
  if (!(file >> total >> resident)) return 0;
  return resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

std::uint64_t peak_memory() {
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
}

std::shared_ptr<void> allocate_aligned(std::size_t bytes) {
  const std::size_t alignment = bytes >= kHugePagesFrom ? kHugePage : kAlignment;
  const std::size_t rounded = (std::max<std::size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  void* memory = std::aligned_alloc(alignment, (rounded + alignment - 1) / alignment * alignment);
  if (memory == nullptr) throw Error(fmt::format("memory: cannot allocate {} bytes", rounded));
  // Advice only: where the kernel has no huge pages the block is as good as any other.
  if (alignment == kHugePage) ::madvise(memory, rounded / kHugePage * kHugePage, MADV_HUGEPAGE);
  return {memory, [](void* p) { std::free(p); }};
}

}  // namespace rondo
