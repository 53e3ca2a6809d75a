// libnccl.so.2 without GPUs: messages between ranks that are threads or processes, at once, as files of a folder that
// the unique id names. Ends the process with 97 where NCCL's rules are broken or a communicator is left over.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "../message_folder/message_folder.h"

namespace {

namespace fs = std::filesystem;

constexpr int kSuccess = 0;
constexpr int kSystemError = 2;
constexpr int kInvalidArgument = 4;
constexpr std::chrono::seconds kTimeout{60};

[[noreturn]] void breach(const std::string& what) {
  std::fprintf(stderr, "nccl: %s\n", what.c_str());
  std::_Exit(97);
}

struct UniqueId {
  char bytes[128];
};

struct Communicator {
  fs::path folder;
  int rank;
  int ranks;
  std::map<int, std::uint64_t> sent = {};  // to each peer
  std::map<int, std::uint64_t> received = {};
  int failed = kSuccess;
};

struct Alive {
  std::atomic<int> communicators = 0;
  ~Alive() {
    if (communicators != 0) breach("communicators are left at the end");
  }
};
Alive& alive() {
  static Alive counter;
  return counter;
}

struct Message {
  Communicator* communicator;
  bool sends;
  std::span<std::byte> memory;
  fs::path file;
};

struct Group {
  int depth = 0;
  std::vector<Message> messages = {};
};
thread_local Group group;

/// A call of which a test wants a failure: "ncclSend" in EMULATED_NCCL_FAULT.
int fault(const char* call) {
  const char* const asked = std::getenv("EMULATED_NCCL_FAULT");
  return asked != nullptr && std::string(asked) == call ? 3 : kSuccess;
}

int carry(const std::vector<Message>& messages) {
  for (const Message& m : messages) {
    if (m.sends) message_folder::write(m.file, m.memory);
  }
  for (const Message& m : messages) {
    if (m.sends) continue;
    if (!message_folder::await([&] { return fs::exists(m.file); }, kTimeout))
      return m.communicator->failed = kSystemError;
    if (!message_folder::take(m.file, m.memory)) breach("a peer sent another number of bytes");
  }
  return kSuccess;
}

int post(const char* call, bool sends, void* memory, std::size_t count, int dtype, int peer, Communicator* c) {
  if (const int code = fault(call)) return code;
  if (dtype != 0) breach(std::string(call) + ": this NCCL knows int8 only");
  if (memory == nullptr || count == 0 || peer < 0 || peer >= c->ranks || peer == c->rank) return kInvalidArgument;
  if (group.depth == 0) breach(std::string(call) + ": outside a group both ends would wait for each other");
  const fs::path file = sends ? message_folder::message(c->folder, c->rank, peer, c->sent[peer]++)
                              : message_folder::message(c->folder, peer, c->rank, c->received[peer]++);
  group.messages.push_back({c, sends, {static_cast<std::byte*>(memory), count}, file});
  return kSuccess;
}

int end(Communicator* c) {
  message_folder::leave(c->folder, c->rank, c->ranks);
  delete c;
  --alive().communicators;
  return kSuccess;
}

}  // namespace

extern "C" {

int ncclGetVersion(int* version) {
  *version = 22705;
  return kSuccess;
}

int ncclGetUniqueId(UniqueId* id) {
  if (const int code = fault("ncclGetUniqueId")) return code;
  const std::string name = message_folder::make();
  if (name.empty() || name.size() >= sizeof id->bytes) return kSystemError;
  *id = {};
  std::memcpy(id->bytes, name.data(), name.size());
  return kSuccess;
}

int ncclCommInitRank(Communicator** communicator, int ranks, UniqueId id, int rank) {
  if (const int code = fault("ncclCommInitRank")) return code;
  const fs::path folder(std::string(id.bytes, strnlen(id.bytes, sizeof id.bytes)));
  if (rank < 0 || rank >= ranks || !fs::is_directory(folder)) return kInvalidArgument;
  if (!message_folder::meet(folder, rank, ranks, "here", kTimeout)) return kSystemError;
  *communicator = new Communicator{folder, rank, ranks};
  ++alive().communicators;
  return kSuccess;
}

int ncclCommDestroy(Communicator* c) {
  if (c->failed != kSuccess) breach("ncclCommDestroy: after a failure it would wait for ever");
  return end(c);
}
int ncclCommAbort(Communicator* c) { return end(c); }
int ncclCommGetAsyncError(Communicator* c, int* error) {
  *error = c->failed;
  return kSuccess;
}

int ncclGroupStart() {
  ++group.depth;
  return kSuccess;
}
int ncclGroupEnd() {
  if (group.depth == 0) breach("ncclGroupEnd: no group was started");
  if (--group.depth > 0) return kSuccess;
  const std::vector<Message> messages = std::move(group.messages);
  group.messages.clear();
  if (const int code = fault("ncclGroupEnd")) return code;
  return carry(messages);
}
int ncclSend(const void* memory, std::size_t count, int dtype, int peer, Communicator* c, void* /*stream*/) {
  return post("ncclSend", true, const_cast<void*>(memory), count, dtype, peer, c);
}
int ncclRecv(void* memory, std::size_t count, int dtype, int peer, Communicator* c, void* /*stream*/) {
  return post("ncclRecv", false, memory, count, dtype, peer, c);
}

const char* ncclGetErrorString(int code) {
  switch (code) {
    case kSuccess: return "no error";
    case kSystemError: return "unhandled system error";
    case 3: return "internal error";
    case kInvalidArgument: return "invalid argument";
    default: return "unknown result code";
  }
}

}  // extern "C"
