// What processes (or threads) that work on one picture say to each other.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "device/device_communicator.h"

namespace rondo {

/// Bytes for one rank. Messages of one pair of ranks and one tag arrive in the order in which they were sent.
struct Outgoing {
  int peer;
  std::span<const std::byte> bytes;
};
struct Incoming {
  int peer;
  std::span<std::byte> bytes;
};

/// Messages on their way. Their memory belongs to the communicator until wait() returns; destroyed before, it waits.
class Exchange {
 public:
  virtual ~Exchange() = default;
  /// Returns once all have left and arrived. Throws as Communicator does.
  virtual void wait() = 0;
};

enum class ReduceKind : std::uint8_t { sum, maximum };

/// A group of ranks 0 to size() - 1. Every rank makes the same calls in the same order; a rank's calls come from one
/// thread at a time. Any call may throw CommunicationError: a peer failed, does not answer, or the timeout passed.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// "mpi" or "threads".
  virtual std::string engine() const = 0;

  /// Posts messages and returns; empty ones are left out on both sides. A message to oneself is allowed. `tag`, 0 to
  /// kMostTag, tells exchanges that are under way at the same time apart.
  std::unique_ptr<Exchange> start(std::span<const Outgoing> sends, std::span<const Incoming> receives, int tag);
  static constexpr int kMostTag = 32000;

  /// This rank gives up: what the others are waiting for, and what they call next, throws with this reason.
  virtual void fail(const std::string& reason) = 0;

  /// Ranks that give one colour become one communicator, ordered by rank here; this one must outlive it.
  std::unique_ptr<Communicator> split(int colour);

  /// The same ranks, for messages between their devices: made at the first call, which all make together, each with a
  /// device of its own. Throws DeviceError too.
  DeviceCommunicator& between_devices(DeviceRuntime& own);

  /// Calls that wait longer than this throw, and with MPI the run has failed; nothing: they wait as long as all ranks
  /// live.
  void set_timeout(std::optional<std::chrono::milliseconds> timeout) { timeout_ = timeout; }
  std::optional<std::chrono::milliseconds> timeout() const { return timeout_; }

  void send(int peer, std::span<const std::byte> bytes);
  void receive(int peer, std::span<std::byte> bytes);
  /// Part i of `sent` goes to rank i, part i of `received` comes from it; parts are equally large.
  void all_to_all(std::span<const std::byte> sent, std::span<std::byte> received);
  /// Parts have the given bytes, one after the other.
  void all_to_all(std::span<const std::byte> sent, std::span<const std::size_t> sent_bytes,
                  std::span<std::byte> received, std::span<const std::size_t> received_bytes);
  /// `all` becomes what each rank gave, in the order of ranks; parts are equally large.
  void all_gather(std::span<const std::byte> own, std::span<std::byte> all);
  /// Parts have the given bytes: own.size() of them are this rank's.
  void all_gather(std::span<const std::byte> own, std::span<std::byte> all, std::span<const std::size_t> bytes);
  /// What each rank gave.
  std::vector<std::string> all_gather(const std::string& own);
  /// Element by element; in the order of ranks, so that all get the same bits.
  void all_reduce(std::span<float> values, ReduceKind kind);
  /// Everybody gets `root`'s bytes, in O(log size) steps.
  void broadcast(std::span<std::byte> bytes, int root);
  std::string broadcast(const std::string& text, int root);
  /// Returns once all ranks have called it.
  void barrier();

 protected:
  Communicator() = default;
  /// What start() does, with a tag that no other communicator of the same ranks uses.
  virtual std::unique_ptr<Exchange> post(std::span<const Outgoing> sends, std::span<const Incoming> receives,
                                         int unique_tag) = 0;

 private:
  class Part;
  /// The tag of collectives.
  static constexpr int kCollectiveTag = kMostTag + 1;
  static constexpr int kTagsEach = 1 << 15;
  /// So that unique tags fit an int.
  static constexpr int kMostContexts = 1 << 15;

  /// The first number that no part of the whole has for its tags yet.
  virtual int& next_context() { return next_context_; }

  std::optional<std::chrono::milliseconds> timeout_;
  std::map<const DeviceRuntime*, std::unique_ptr<DeviceCommunicator>> between_devices_;
  int context_ = 0;
  int next_context_ = 1;
};

}  // namespace rondo
