// Memory, streams and events: what libascendcl.so's functions work on.
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <set>

#include "state.h"

namespace ascend_simulator {
namespace {

thread_local int device_of_thread = -1;
thread_local std::string recent_words;

std::size_t number_from(const char* variable, std::size_t absent) {
  const char* text = std::getenv(variable);
  return text == nullptr || *text == '\0' ? absent : std::strtoull(text, nullptr, 10);
}

}  // namespace

void breach(const std::string& what) {
  std::fprintf(stderr, "ascend simulator: %s\n", what.c_str());
  std::fflush(stderr);
  std::_Exit(97);
}

State& state() {
  static State instance;
  return instance;
}

std::recursive_mutex& lock() { return state().mutex; }

std::string soc_name() {
  const char* name = std::getenv("ASCEND_SIMULATOR_SOC");
  return name == nullptr ? "Ascend910B2" : name;
}

bool soc_has_bfloat16() {
  const std::string name = soc_name();
  return name.rfind("Ascend950", 0) == 0 || name.rfind("Ascend910_93", 0) == 0 ||
         (name.rfind("Ascend910B", 0) == 0 && name.size() > 10);
}

int current_device() { return device_of_thread; }
void set_current_device(int device) { device_of_thread = device; }

int fault(const char* call) {
  const char* text = std::getenv("ASCEND_SIMULATOR_FAULT");
  const std::lock_guard guard(lock());
  if (text == nullptr) {
    state().calls.clear();  // the next fault counts from one
    return 0;
  }
  const std::string wanted(text);
  const std::size_t equals = wanted.find('=');
  if (equals == std::string::npos || wanted.substr(0, equals) != call) return 0;
  const std::size_t colon = wanted.find(':', equals);
  const long from = colon == std::string::npos ? 1 : std::strtol(wanted.c_str() + colon + 1, nullptr, 10);
  const bool once = wanted.back() == '!';
  const long count = ++state().calls[wanted];
  if (count < from || (once && count > from)) return 0;
  return fail(static_cast<int>(std::strtol(wanted.c_str() + equals + 1, nullptr, 10)), "a fault that was asked for");
}

int fail(int code, const std::string& words) {
  recent_words = words;
  return code;
}
const char* take_recent_words() {
  thread_local std::string handed_out;
  if (recent_words.empty()) return nullptr;
  handed_out.swap(recent_words);
  recent_words.clear();
  return handed_out.c_str();
}

int device_count() { return static_cast<int>(number_from("ASCEND_SIMULATOR_DEVICES", 1)); }
std::size_t device_memory() { return number_from("ASCEND_SIMULATOR_MEMORY", std::size_t{4} << 30); }

State::State() {
  constexpr std::size_t kArena = std::size_t{64} << 30;  // of addresses; pages come as they are touched
  const int file = memfd_create("ascend_simulator", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, kArena) != 0) breach("cannot make its memory");
  visible = static_cast<std::byte*>(mmap(nullptr, kArena, PROT_NONE, MAP_SHARED | MAP_NORESERVE, file, 0));
  hidden = static_cast<std::byte*>(mmap(nullptr, kArena, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0));
  if (visible == MAP_FAILED || hidden == MAP_FAILED) breach("cannot map its memory");
  arena_bytes = kArena;
}

State::~State() {
  std::string left;
  if (!blocks.empty()) left += " " + std::to_string(blocks.size()) + " blocks of device memory";
  if (!pinned.empty()) left += " " + std::to_string(pinned.size()) + " blocks of pinned memory";
  if (!streams.empty()) left += " " + std::to_string(streams.size()) + " streams";
  if (!events.empty()) left += " " + std::to_string(events.size()) + " events";
  for (const auto& [kind, count] : descriptors) {
    if (count != 0) left += " " + std::to_string(count) + " " + kind;
  }
  if (!left.empty()) breach("at the end there are left:" + left);
}

void* State::allocate(int device, std::size_t bytes) {
  if (used[device] + bytes > device_memory()) return nullptr;
  constexpr std::size_t kAlignment = 64;
  const std::size_t rounded = (bytes + 32 + kAlignment - 1) / kAlignment * kAlignment;
  // First gap: addresses of freed blocks come again, as they do on hardware.
  std::byte* at = visible;
  for (const auto& [begin, block] : blocks) {
    if (static_cast<std::size_t>(begin - at) >= rounded) break;
    at = begin + (block.bytes + 32 + kAlignment - 1) / kAlignment * kAlignment;
  }
  if (at + rounded > visible + arena_bytes) return nullptr;
  blocks[at] = {device, ++numbers, at, bytes};
  used[device] += bytes;
  std::memset(hidden + (at - visible), 0xFF, bytes);  // NaN in every floating dtype
  return at;
}

void State::release(void* memory) {
  const auto found = blocks.find(static_cast<std::byte*>(memory));
  if (found == blocks.end()) breach("aclrtFree: this is no block of device memory");
  used[found->second.device] -= found->second.bytes;
  blocks.erase(found);
}

Block block_of(const void* address, std::size_t bytes, const std::string& what) {
  const std::lock_guard guard(lock());
  const auto& blocks = state().blocks;
  auto found = blocks.upper_bound(static_cast<std::byte*>(const_cast<void*>(address)));
  if (found == blocks.begin()) breach(what + ": the address is not device memory in use");
  --found;
  const Block& block = found->second;
  const auto offset = static_cast<std::size_t>(static_cast<const std::byte*>(address) - block.begin);
  if (offset + bytes > block.bytes) {
    breach(what + ": " + std::to_string(bytes) + " bytes at offset " + std::to_string(offset) + " of a block of " +
           std::to_string(block.bytes));
  }
  return block;
}

bool is_live(const Block& block) {
  const auto found = state().blocks.find(block.begin);
  return found != state().blocks.end() && found->second.number == block.number;
}

bool is_device_memory(const void* address) {
  const auto* at = static_cast<const std::byte*>(address);
  return at >= state().visible && at < state().visible + state().arena_bytes;
}

std::byte* alias(const void* address) {
  return state().hidden + (static_cast<const std::byte*>(address) - state().visible);
}

bool State::is_pinned(const void* address, std::size_t bytes) const {
  auto found = pinned.upper_bound(static_cast<std::byte*>(const_cast<void*>(address)));
  if (found == pinned.begin()) return false;
  --found;
  const auto offset = static_cast<std::size_t>(static_cast<const std::byte*>(address) - found->first);
  return offset < found->second && offset + bytes <= found->second;
}

Stream& State::stream(void* handle, const std::string& what) {
  const auto found = streams.find(static_cast<Stream*>(handle));
  if (found == streams.end()) breach(what + ": this is no stream");
  if ((*found)->device != current_device()) breach(what + ": the stream belongs to another device than the thread's");
  return **found;
}

void enqueue(void* stream, const std::string& what, std::function<void()> task) {
  const std::lock_guard guard(lock());
  Stream& own = state().stream(stream, what);
  own.tasks.push_back({++state().tickets, what, std::move(task)});
  static const bool copies_are_eager = std::getenv("ASCEND_SIMULATOR_EAGER_COPIES") != nullptr;
  if (copies_are_eager && what.rfind("aclrtMemcpy", 0) == 0) own.run_until(state().tickets);
}

void Stream::run_until(std::uint64_t ticket) {
  const std::thread::id own = std::this_thread::get_id();
  const auto others_run = [&] { return runner != std::thread::id() && runner != own && done < ticket; };
  while (others_run()) {
    lock().unlock();
    std::this_thread::sleep_for(std::chrono::microseconds(200));
    lock().lock();
  }
  while (!tasks.empty() && tasks.front().ticket <= ticket) {
    Task task = std::move(tasks.front());
    tasks.pop_front();
    state().running = task.what;
    const std::thread::id before = runner;
    runner = own;
    if (failure == kSuccess) task.run();
    runner = before;
    done = task.ticket;
  }
}

}  // namespace ascend_simulator
