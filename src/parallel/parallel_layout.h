// How a world of ranks is cut into groups: world = data x cfg x ring x ulysses, the last turning fastest. Ranks that
// exchange heads are neighbours, ranks of one ring stand `ulysses` apart (the layout of USP, arXiv 2405.07719).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "parallel/communicator.h"
#include "rondo/parallel.h"

namespace rondo {

/// Into how many parts work is cut. Every degree is at least 1.
struct ParallelDegrees {
  int data = 1;     // pictures
  int cfg = 1;      // branches of classifier-free guidance, 1 or 2
  int ring = 1;     // tokens: keys and values travel
  int ulysses = 1;  // tokens: they are exchanged for heads

  bool operator==(const ParallelDegrees&) const = default;
  /// Ranks that share the tokens of one picture.
  int sequence() const { return ring * ulysses; }
  std::int64_t world() const { return std::int64_t{data} * cfg * ring * ulysses; }
  /// "data 1 x cfg 2 x ring 1 x ulysses 2"
  std::string to_string() const;
};

/// Throws InvalidArgument unless the degrees are possible and make up a world of so many ranks.
void check_degrees(const ParallelDegrees& degrees, int world);

/// The degrees that a caller asks for, those that are not set filled in. Throws as check_degrees().
ParallelDegrees parallel_degrees(const ParallelOptions& options, int world);

/// Where a rank stands.
struct ParallelPlace {
  int data = 0;
  int cfg = 0;
  int ring = 0;
  int ulysses = 0;
  /// In the order in which ranks of one sequence hold its tokens.
  int sequence(const ParallelDegrees& degrees) const { return ring * degrees.ulysses + ulysses; }
};

ParallelPlace place_of(int rank, const ParallelDegrees& degrees);

/// The communicators of one rank.
class ProcessGroups {
 public:
  /// Every rank of `world`, which must outlive this, makes its own at the same time. Throws as check_degrees().
  ProcessGroups(Communicator& world, const ParallelDegrees& degrees);

  const ParallelDegrees& degrees() const { return degrees_; }
  const ParallelPlace& place() const { return place_; }
  Communicator& world() const { return world_; }
  /// Ranks that share a picture's tokens, in the order of ParallelPlace::sequence().
  Communicator& sequence() const { return *sequence_; }
  Communicator& ulysses() const { return *ulysses_; }
  Communicator& ring() const { return *ring_; }
  Communicator& cfg() const { return *cfg_; }
  /// The ranks of all pictures that stand where this one does.
  Communicator& data() const { return *data_; }
  /// Which ranks stand together in each group, a line a kind: "ulysses: [0, 1] [2, 3]".
  std::vector<std::string> describe() const;

 private:
  Communicator& world_;
  ParallelDegrees degrees_;
  ParallelPlace place_;
  std::unique_ptr<Communicator> sequence_;
  std::unique_ptr<Communicator> ulysses_;
  std::unique_ptr<Communicator> ring_;
  std::unique_ptr<Communicator> cfg_;
  std::unique_ptr<Communicator> data_;
};

}  // namespace rondo
