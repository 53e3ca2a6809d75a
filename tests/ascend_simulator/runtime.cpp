// libascendcl.so
#include <cstdlib>
#include <cstring>

#include "state.h"

using namespace ascend_simulator;

namespace {

/// What every call after aclInit begins with.
int begin(const char* call, bool needs_device = true) {
  if (const int code = fault(call)) return code;
  if (!state().initialised) breach(std::string(call) + ": aclInit was not called");
  if (needs_device && current_device() < 0) return fail(kNoContext, "no device was set for this thread");
  return kSuccess;
}

/// The host's side of a copy.
enum class Side { host, device };

struct CopySides {
  Side to;
  Side from;
};

CopySides sides_of(int kind, const std::string& call) {
  switch (kind) {
    case 1: return {Side::device, Side::host};
    case 2: return {Side::host, Side::device};
    case 3: return {Side::device, Side::device};
    default: breach(call + ": copies from host to host are not supported");
  }
}

int copy(const std::string& call, void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
         std::size_t width, std::size_t rows, int kind, void* stream) {
  const CopySides sides = sides_of(kind, call);
  const std::size_t to_bytes = rows == 0 ? 0 : (rows - 1) * to_pitch + width;
  const std::size_t from_bytes = rows == 0 ? 0 : (rows - 1) * from_pitch + width;
  Block to_block{};
  Block from_block{};
  const bool to_device = sides.to == Side::device;
  const bool from_device = sides.from == Side::device;
  if (to_device) to_block = block_of(to, to_bytes, call);
  if (from_device) from_block = block_of(from, from_bytes, call);
  if (!to_device && is_device_memory(to)) breach(call + ": the target is device memory, the kind says host");
  if (!from_device && is_device_memory(from)) breach(call + ": the source is device memory, the kind says host");
  const bool pinned =
      (to_device || state().is_pinned(to, to_bytes)) && (from_device || state().is_pinned(from, from_bytes));
  enqueue(stream, call, [=] {
    if (to_device && !is_live(to_block)) breach(call + ": its target was freed before it ran");
    if (from_device && !is_live(from_block)) breach(call + ": its source was freed before it ran");
    if (pinned && !from_device && !state().is_pinned(from, from_bytes))
      breach(call + ": its source was freed before it ran");
    if (pinned && !to_device && !state().is_pinned(to, to_bytes)) breach(call + ": its target was freed before it ran");
    std::byte* target = to_device ? alias(to) : static_cast<std::byte*>(to);
    const std::byte* source = from_device ? alias(from) : static_cast<const std::byte*>(from);
    for (std::size_t row = 0; row < rows; ++row) std::memcpy(target + row * to_pitch, source + row * from_pitch, width);
  });
  // Memory that is not pinned is copied before the call returns.
  if (!pinned) state().stream(stream, call).run_until(state().tickets);
  return kSuccess;
}

}  // namespace

extern "C" {

int aclInit(const char* /*config*/) {
  const std::lock_guard guard(lock());
  if (const int code = fault("aclInit")) return code;
  if (state().initialised) return kRepeatInitialize;
  state().initialised = true;
  return kSuccess;
}

const char* aclGetRecentErrMsg() { return take_recent_words(); }

int aclrtGetVersion(std::int32_t* major, std::int32_t* minor, std::int32_t* patch) {
  *major = 1;
  *minor = 17;
  *patch = 0;
  return kSuccess;
}

int aclrtGetDeviceCount(std::uint32_t* count) {
  const std::lock_guard guard(lock());
  if (const int code = begin("aclrtGetDeviceCount", false)) return code;
  *count = static_cast<std::uint32_t>(device_count());
  return kSuccess;
}

int aclrtSetDevice(std::int32_t device) {
  const std::lock_guard guard(lock());
  if (const int code = begin("aclrtSetDevice", false)) return code;
  if (device < 0 || device >= device_count()) return fail(kInvalidDevice, "there is no such device");
  set_current_device(device);
  return kSuccess;
}

const char* aclrtGetSocName() {
  static const std::string name = soc_name();
  return name.c_str();
}

int aclrtGetMemInfo(std::int32_t attribute, std::size_t* free, std::size_t* total) {
  const std::lock_guard guard(lock());
  if (const int code = begin("aclrtGetMemInfo")) return code;
  *free = *total = 0;
  if (attribute != 0 && attribute != 1) return kSuccess;
  *total = device_memory();
  *free = *total - state().used[current_device()];
  return kSuccess;
}

int aclrtMalloc(void** memory, std::size_t bytes, std::int32_t policy) {
  const std::lock_guard guard(lock());
  if (const int code = begin("aclrtMalloc")) return code;
  if (memory == nullptr || bytes == 0 || policy < 0 || policy > 7) return fail(kInvalidParam, "aclrtMalloc: arguments");
  *memory = state().allocate(current_device(), bytes);
  return *memory == nullptr ? fail(kOutOfMemory, "the device's memory is full") : kSuccess;
}

int aclrtFree(void* memory) {
  const std::lock_guard guard(lock());
  if (const int code = begin("aclrtFree")) return code;
  if (memory == nullptr) return fail(kInvalidParam, "aclrtFree: null");
  state().release(memory);
  return kSuccess;
}

int aclrtMallocHost(void** memory, std::size_t bytes) {
  const std::lock_guard guard(lock());
  if (const int code = begin("aclrtMallocHost")) return code;
  if (memory == nullptr || bytes == 0) return fail(kInvalidParam, "aclrtMallocHost: arguments");
  *memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  std::memset(*memory, 0xFF, bytes);
  state().pinned[static_cast<std::byte*>(*memory)] = bytes;
  return kSuccess;
}

int aclrtFreeHost(void* memory) {
  const std::lock_guard guard(lock());
  if (const int code = begin("aclrtFreeHost")) return code;
  if (state().pinned.erase(static_cast<std::byte*>(memory)) == 0) breach("aclrtFreeHost: this is no pinned memory");
  std::free(memory);
  return kSuccess;
}

int aclrtMemcpyAsync(void* to, std::size_t room, const void* from, std::size_t bytes, std::int32_t kind, void* stream) {
  const std::lock_guard guard(lock());
  if (const int code = begin("aclrtMemcpyAsync")) return code;
  if (bytes > room) return fail(kInvalidParam, "aclrtMemcpyAsync: more than the target has room for");
  return copy("aclrtMemcpyAsync", to, bytes, from, bytes, bytes, 1, kind, stream);
}

int aclrtMemcpy2dAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t width,
                       std::size_t height, std::int32_t kind, void* stream) {
  const std::lock_guard guard(lock());
  if (const int code = begin("aclrtMemcpy2dAsync")) return code;
  constexpr std::size_t kWidest = 5'000'000;
  constexpr std::size_t kHighest = std::size_t{5} << 20;
  if (width == 0 || height == 0 || width > kWidest || height > kHighest || width > to_pitch || width > from_pitch)
    return fail(kInvalidParam, "aclrtMemcpy2dAsync: width, height or pitch");
  return copy("aclrtMemcpy2dAsync", to, to_pitch, from, from_pitch, width, height, kind, stream);
}

int aclrtCreateStream(void** stream) {
  const std::lock_guard guard(lock());
  if (const int code = begin("aclrtCreateStream")) return code;
  auto* const made = new Stream;
  made->device = current_device();
  state().streams.insert(made);
  *stream = made;
  return kSuccess;
}

int aclrtDestroyStream(void* stream) {
  const std::lock_guard guard(lock());
  if (const int code = begin("aclrtDestroyStream")) return code;
  Stream& gone = state().stream(stream, "aclrtDestroyStream");
  if (!gone.tasks.empty()) breach("aclrtDestroyStream: it has work that nobody waited for");
  state().streams.erase(&gone);
  for (Event* event : state().events) {
    if (event->stream == &gone) *event = {};  // all of it is done
  }
  delete &gone;
  return kSuccess;
}

int aclrtSynchronizeDevice() {
  const std::lock_guard guard(lock());
  const int code = begin("aclrtSynchronizeDevice");
  int failure = kSuccess;
  const std::set<Stream*> streams = state().streams;  // others may make some while a task waits
  for (Stream* stream : streams) {
    if (state().streams.count(stream) == 0 || stream->device != current_device()) continue;
    stream->run_until(state().tickets);
    failure = failure == kSuccess ? stream->failure : failure;
  }
  return code != kSuccess ? code : failure;
}

int aclrtSynchronizeStream(void* stream) {
  const std::lock_guard guard(lock());
  Stream& waited = state().stream(stream, "aclrtSynchronizeStream");
  const int code = begin("aclrtSynchronizeStream");
  waited.run_until(state().tickets);
  return code != kSuccess ? code : waited.failure;
}

int aclrtCreateEventExWithFlag(void** event, std::uint32_t flag) {
  const std::lock_guard guard(lock());
  if (const int code = begin("aclrtCreateEventExWithFlag")) return code;
  if ((flag & 1U) == 0) breach("aclrtCreateEventExWithFlag: without ACL_EVENT_SYNC no stream may wait for it");
  auto* const made = new Event;
  state().events.insert(made);
  *event = made;
  return kSuccess;
}

int aclrtDestroyEvent(void* event) {
  const std::lock_guard guard(lock());
  if (const int code = begin("aclrtDestroyEvent", false)) return code;
  if (state().events.erase(static_cast<Event*>(event)) == 0) breach("aclrtDestroyEvent: this is no event");
  delete static_cast<Event*>(event);
  return kSuccess;
}

int aclrtRecordEvent(void* event, void* stream) {
  const std::lock_guard guard(lock());
  if (const int code = begin("aclrtRecordEvent")) return code;
  if (state().events.count(static_cast<Event*>(event)) == 0) breach("aclrtRecordEvent: this is no event");
  enqueue(stream, "aclrtRecordEvent", [] {});
  *static_cast<Event*>(event) = {&state().stream(stream, "aclrtRecordEvent"), state().tickets};
  return kSuccess;
}

int aclrtStreamWaitEvent(void* stream, void* event) {
  const std::lock_guard guard(lock());
  if (const int code = begin("aclrtStreamWaitEvent")) return code;
  if (state().events.count(static_cast<Event*>(event)) == 0) breach("aclrtStreamWaitEvent: this is no event");
  const Event recorded = *static_cast<Event*>(event);
  if (recorded.stream == nullptr)
    breach("aclrtStreamWaitEvent: the event was never recorded, of which no document says what it does");
  auto* const waiting = static_cast<Stream*>(stream);
  enqueue(stream, "aclrtStreamWaitEvent", [recorded, waiting] {
    if (state().streams.count(recorded.stream) == 0) return;
    recorded.stream->run_until(recorded.ticket);
    waiting->failure = waiting->failure == kSuccess ? recorded.stream->failure : waiting->failure;
  });
  return kSuccess;
}

int aclrtSynchronizeEvent(void* event) {
  const std::lock_guard guard(lock());
  if (const int code = begin("aclrtSynchronizeEvent")) return code;
  if (state().events.count(static_cast<Event*>(event)) == 0) breach("aclrtSynchronizeEvent: this is no event");
  const Event recorded = *static_cast<Event*>(event);
  if (recorded.stream != nullptr) recorded.stream->run_until(recorded.ticket);
  return kSuccess;
}

}  // extern "C"
