// libhccl.so: messages between devices of one process or of several, as files of a folder that the root names.
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>
#include <thread>

#include "../message_folder/message_folder.h"
#include "state.h"

using namespace ascend_simulator;
namespace fs = std::filesystem;

namespace {

constexpr int kHcclParameter = 1;
constexpr int kHcclPointer = 2;
constexpr int kHcclNotSupported = 5;
constexpr int kHcclTimeout = 9;
constexpr int kStreamFailed = 507046;  // what waiting for a stream gives when a message did not come
constexpr std::size_t kRootBytes = 4108;

struct Root {
  char bytes[kRootBytes];
};
struct Item {
  int direction;  // 0 send, 1 receive
  void* buffer;
  std::uint64_t count;
  int dtype;
  std::uint32_t peer;
};

struct Communicator {
  fs::path folder;
  int rank = 0;
  int ranks = 0;
  int device = 0;
  int under_way = 0;
  bool broken = false;
  std::map<int, std::uint64_t> sent = {};  // to each peer
  std::map<int, std::uint64_t> received = {};
};

std::set<Communicator*>& communicators() {
  static std::set<Communicator*> alive;
  return alive;
}

std::chrono::seconds timeout() {
  const char* const text = std::getenv("ASCEND_SIMULATOR_HCCL_TIMEOUT");
  return std::chrono::seconds(text == nullptr ? 60 : std::strtol(text, nullptr, 10));
}

std::size_t dtype_bytes(int dtype) {
  switch (dtype) {
    case 0:  // int8
    case 7: return 1;
    case 3:  // float16
    case 11: return 2;
    case 2:  // int32
    case 4: return 4;
    default: return 0;
  }
}

struct Part {
  bool sends;
  std::byte* memory;
  std::size_t bytes;
  Block block;
  fs::path file;
};

/// Others go on meanwhile.
void sleep_unlocked(std::chrono::microseconds time) {
  lock().unlock();
  std::this_thread::sleep_for(time);
  lock().lock();
}

/// The messages of one call: what is sent leaves first, so that none waits for another of this rank.
void carry(Communicator& c, Stream& stream, const std::vector<Part>& parts) {
  const std::string call = "HcclBatchSendRecv";
  for (const Part& part : parts) {
    if (!is_live(part.block)) breach(call + ": its memory was freed before it ran");
    if (part.sends) message_folder::write(part.file, {alias(part.memory), part.bytes});
  }
  for (const Part& part : parts) {
    if (part.sends) continue;
    if (!message_folder::await([&] { return fs::exists(part.file); }, timeout(), sleep_unlocked)) {
      stream.failure = fail(kStreamFailed, call + ": " + part.file.filename().string() + " did not come in time");
      c.broken = true;
      break;
    }
    if (!message_folder::take(part.file, {alias(part.memory), part.bytes}))
      breach(call + ": the peer sent another number of bytes");
  }
  --c.under_way;
}

int parts_of(Communicator& c, const Item* items, std::uint32_t count, std::vector<Part>& parts) {
  std::set<std::pair<int, std::uint32_t>> seen;
  for (std::uint32_t i = 0; i < count; ++i) {
    const Item& item = items[i];
    if (item.direction != 0 && item.direction != 1) return fail(kHcclParameter, "direction");
    if (static_cast<int>(item.peer) >= c.ranks) return fail(kHcclParameter, "remoteRank");
    if (static_cast<int>(item.peer) == c.rank) breach("HcclBatchSendRecv: a message to oneself");
    if (!seen.emplace(item.direction, item.peer).second)
      breach("HcclBatchSendRecv: two messages of one direction and peer in one call");
    if (item.count == 0) return fail(kHcclParameter, "count");
    if (dtype_bytes(item.dtype) == 0) return fail(kHcclNotSupported, "dataType");
    const bool sends = item.direction == 0;
    const std::size_t bytes = item.count * dtype_bytes(item.dtype);
    auto* const memory = static_cast<std::byte*>(item.buffer);
    const Block block = block_of(memory, bytes, "HcclBatchSendRecv");
    if (block.device != c.device) breach("HcclBatchSendRecv: the memory is another device's than the communicator's");
    const int peer = static_cast<int>(item.peer);
    const fs::path file = sends ? message_folder::message(c.folder, c.rank, peer, c.sent[peer]++)
                                : message_folder::message(c.folder, peer, c.rank, c.received[peer]++);
    parts.push_back({sends, memory, bytes, block, file});
  }
  return kSuccess;
}

}  // namespace

extern "C" {

int HcclGetRootInfo(Root* root) {
  const std::lock_guard guard(lock());
  if (const int code = fault("HcclGetRootInfo")) return code;
  if (root == nullptr) return kHcclPointer;
  if (current_device() < 0) breach("HcclGetRootInfo: no device was set for this thread");
  const std::string name = message_folder::make();
  if (name.empty()) breach("HcclGetRootInfo: cannot make a folder");
  *root = {};
  std::memcpy(root->bytes, name.data(), name.size());
  return kSuccess;
}

int HcclCommInitRootInfo(std::uint32_t ranks, const Root* root, std::uint32_t rank, void** communicator) {
  if (const int code = fault("HcclCommInitRootInfo")) return code;
  if (root == nullptr || communicator == nullptr) return kHcclPointer;
  if (rank >= ranks) return fail(kHcclParameter, "rank");
  if (current_device() < 0) breach("HcclCommInitRootInfo: no device was set for this thread");
  const fs::path folder(std::string(root->bytes, strnlen(root->bytes, kRootBytes)));
  if (!fs::is_directory(folder)) return fail(kHcclParameter, "the root is none that HcclGetRootInfo gave");
  const std::string device = std::to_string(current_device());
  if (!message_folder::meet(folder, static_cast<int>(rank), static_cast<int>(ranks), device, timeout()))
    return fail(kHcclTimeout, "a rank did not come in time");
  for (std::uint32_t r = 0; r < ranks; ++r) {
    if (r != rank && message_folder::read_text(message_folder::rank_file(folder, static_cast<int>(r))) == device)
      return fail(kHcclParameter, "ranks " + std::to_string(rank) + " and " + std::to_string(r) + " have one device");
  }
  const std::lock_guard guard(lock());
  auto* const made = new Communicator{folder, static_cast<int>(rank), static_cast<int>(ranks), current_device()};
  communicators().insert(made);
  ++state().descriptors["communicators"];
  *communicator = made;
  return kSuccess;
}

int HcclCommDestroy(void* communicator) {
  const std::lock_guard guard(lock());
  auto* const gone = static_cast<Communicator*>(communicator);
  if (communicators().erase(gone) == 0) breach("HcclCommDestroy: this is no communicator");
  if (gone->under_way != 0 && !gone->broken) breach("HcclCommDestroy: messages are under way that nobody waited for");
  if (const int code = fault("HcclCommDestroy")) return code;
  --state().descriptors["communicators"];
  message_folder::leave(gone->folder, gone->rank, gone->ranks);
  delete gone;
  return kSuccess;
}

int HcclBatchSendRecv(Item* items, std::uint32_t count, void* communicator, void* stream) {
  const std::lock_guard guard(lock());
  if (const int code = fault("HcclBatchSendRecv")) return code;
  if (items == nullptr || communicator == nullptr || stream == nullptr) return kHcclPointer;
  auto* const own = static_cast<Communicator*>(communicator);
  if (communicators().count(own) == 0) breach("HcclBatchSendRecv: this is no communicator");
  if (soc_name().rfind("Ascend310P", 0) == 0) return fail(kHcclNotSupported, "this chip has none");
  Stream& target = state().stream(stream, "HcclBatchSendRecv");
  if (target.device != own->device) breach("HcclBatchSendRecv: the stream is another device's");
  std::vector<Part> parts;
  if (const int code = parts_of(*own, items, count, parts)) return code;
  ++own->under_way;
  enqueue(stream, "HcclBatchSendRecv", [own, &target, parts = std::move(parts)] { carry(*own, target, parts); });
  return kSuccess;
}

const char* HcclGetErrorString(int code) {
  switch (code) {
    case kSuccess: return "success";
    case kHcclParameter: return "parameter error";
    case kHcclPointer: return "empty pointer";
    case kHcclNotSupported: return "not supported";
    case kHcclTimeout: return "timeout";
    default: return "unknown error";
  }
}

}  // extern "C"
