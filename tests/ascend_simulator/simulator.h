// A stand-in for Huawei's CANN libraries: the same C symbols, computed on the CPU, with everything checked that CANN's
// documents state. Device memory cannot be touched by the host, work waits until somebody synchronises, new memory is
// full of NaNs, and what is left over at the end of the process is a failure. A breach ends the process with a line on
// stderr; what CANN reports, it reports.
//
// Environment: ASCEND_SIMULATOR_SOC (default Ascend910B2), ASCEND_SIMULATOR_DEVICES (1), ASCEND_SIMULATOR_MEMORY
// (bytes a device, default 4 GiB), ASCEND_SIMULATOR_FAULT ("aclrtMalloc=207001:5": from the fifth call on it returns
// that code; with a ! behind it, the fifth alone does), ASCEND_SIMULATOR_HCCL_TIMEOUT (the seconds that a message may
// take, default 60), ASCEND_SIMULATOR_EAGER_COPIES (copies run as soon as what they wait for is done, not when somebody
// waits for them: memory that is written too early shows).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace ascend_simulator {

constexpr int kSuccess = 0;
constexpr int kInvalidParam = 100000;
constexpr int kRepeatInitialize = 100002;
constexpr int kInvalidDevice = 107001;
constexpr int kNoContext = 107002;
constexpr int kOutOfMemory = 207001;
constexpr int kNullPointer = 161001;
constexpr int kInvalidArgument = 161002;

/// Ends the process: a use that CANN's documents forbid, of which real hardware would say nothing or something else.
[[noreturn]] void breach(const std::string& what);

/// The code that ASCEND_SIMULATOR_FAULT asks this call to fail with; 0 for none.
int fault(const char* call);
/// Keeps the words for aclGetRecentErrMsg and returns the code.
int fail(int code, const std::string& words);

/// All of the simulator's state is behind one lock.
std::recursive_mutex& lock();

/// Of the chip that is played.
bool soc_has_bfloat16();
/// "Ascend910B2"
std::string soc_name();

/// The current device of the calling thread; -1 before aclrtSetDevice.
int current_device();

/// A block of device memory that is in use.
struct Block {
  int device;
  std::uint64_t number;  // never used again
  std::byte* begin;      // the address that programs see
  std::size_t bytes;
};
/// The block that holds [address, address + bytes), or a breach.
Block block_of(const void* address, std::size_t bytes, const std::string& what);
/// Whether it is still in use.
bool is_live(const Block& block);
/// Where the simulator itself reads and writes what programs see at `address`.
std::byte* alias(const void* address);
bool is_device_memory(const void* address);

/// Work in order.
struct Stream;
void enqueue(void* stream, const std::string& what, std::function<void()> task);

}  // namespace ascend_simulator
