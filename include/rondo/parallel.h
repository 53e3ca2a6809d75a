// Several processes, on one host or many, that work on one picture together.
//
//   options.world = rondo::ParallelWorld::join_mpi();   // in a process that mpirun started
//   options.parallel.ulysses_degree = 2;
//   auto pipeline = rondo::TextToImagePipeline::open(folder, options);
//   ... generate(): every rank calls it alike, rank 0 is given the pictures
//   options.world->finish();
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "rondo/export.h"

namespace rondo RONDO_PUBLIC {

/// In which form keys and values travel round a ring: as they are computed, or in fewer bytes, each row rounded once.
/// int8 has a scale for each key and each value.
enum class RingWire : std::uint8_t { as_computed, bf16, int8 };

/// Into how many parts work is cut. The world's ranks are data x cfg x ring x Ulysses, the last turning fastest.
struct ParallelOptions {
  /// Ranks that exchange tokens for heads (DeepSpeed-Ulysses). Unset: what the others leave of the world.
  std::optional<int> ulysses_degree;
  /// Ranks between which keys and values travel in a ring (ring attention).
  int ring_degree = 1;
  /// Whether the two branches of true classifier-free guidance run on two halves of the ranks.
  bool cfg_parallel = false;
  /// Whether the ranks that are left draw other pictures: the i-th of n parts draws every n-th.
  bool data_parallel = false;
  /// Whether every rank computes all of the text's tokens, in place of its part: less is sent, more is computed.
  bool replicate_text = false;
  RingWire ring_wire = RingWire::as_computed;
};

/// All ranks of a run. Shared by the pipelines of its rank; a rank's calls come from one thread at a time.
class ParallelWorld {
 public:
  /// Joins the processes that mpirun started; once a process. A rank that gives no sign of life for `rank_timeout` is
  /// given up by all, however long they compute. Throws Unsupported in a build without MPI.
  static std::shared_ptr<ParallelWorld> join_mpi(std::chrono::milliseconds rank_timeout = std::chrono::seconds(8));
  /// Ranks of this process, each for a thread of the caller's. On GPUs and NPUs: where one fails, others may wait on
  /// their devices for as long as HCCL does, and NCCL does for ever; ranks of processes end then.
  static std::vector<std::shared_ptr<ParallelWorld>> threads(int ranks);

  class Implementation;
  explicit ParallelWorld(std::unique_ptr<Implementation> implementation);
  /// Without finish() the other ranks take this one for failed.
  ~ParallelWorld();
  ParallelWorld(const ParallelWorld&) = delete;
  ParallelWorld& operator=(const ParallelWorld&) = delete;

  int rank() const;
  int size() const;
  /// Tells the other ranks that this one gives up; what they wait for throws CommunicationError with the reason.
  void fail(const std::string& reason);
  /// Waits until all ranks are done.
  void finish();

  Implementation& implementation() const { return *implementation_; }

 private:
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace RONDO_PUBLIC
