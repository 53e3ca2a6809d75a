// What the ranks of a run tell each other around the transformer: who does what, and how results come together.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "parallel/agreement.h"
#include "parallel/parallel_layout.h"
#include "pipelines/component_files.h"
#include "rondo/text_to_image.h"

namespace rondo {

class ExecutionDevice;

class Ranks {
 public:
  /// Null: this process is alone, and everything is its own. Else all ranks make theirs at the same time.
  /// `device` is what this rank's model runs on; null: the CPU.
  Ranks(std::shared_ptr<const ProcessGroups> groups, const ExecutionDevice* device);

  bool alone() const { return groups_ == nullptr || groups_->world().size() == 1; }
  ParallelDegrees degrees() const { return alone() ? ParallelDegrees{} : groups_->degrees(); }
  ParallelPlace place() const { return alone() ? ParallelPlace{} : groups_->place(); }
  /// Rank 0 of the world, which delivers.
  bool delivers() const { return alone() || groups_->world().rank() == 0; }
  /// The first of the ranks that share a sequence: it encodes for all.
  bool leads_sequence() const { return place().sequence(degrees()) == 0; }
  /// Whether this rank's part of the ranks turns latents into pixels.
  bool decodes() const { return place().cfg == 0; }
  /// Of so many branches of guidance, those that this rank computes.
  std::vector<int> branches_of(int count) const;

  /// Throws as require_agreement().
  void require_same(std::span<const AgreedValue> values) const;
  /// The ranks that share the host's memory with this one, or the device's where it runs on one; itself included.
  int on_this_memory() const { return on_this_memory_; }
  /// The least of the ranks' numbers. What decides how a graph is made must come from here, or ranks would differ.
  std::uint64_t least(std::uint64_t number) const;
  /// Whether it holds on all of them: of what depends on a rank's own part, which may be larger than another's.
  bool all(bool holds) const { return least(holds ? 1 : 0) == 1; }
  /// Rank 0's number.
  std::uint64_t agree_on(std::uint64_t number) const;
  /// The tensor of the rank that leads the sequence, on all that share it.
  void share(Tensor& tensor) const;
  /// The branches' velocities, one behind the other.
  std::vector<float> join_branches(std::vector<float> own) const;
  /// A picture of another part of the ranks; `pixels` are sent by the part's first rank and received by rank 0.
  void send_picture(const Image& image) const;
  Image receive_picture(int part, int width, int height) const;
  /// The most memory that each rank has had, by rank; on all ranks.
  std::vector<std::uint64_t> peak_memory() const;
  /// Tells the others why this one gives up.
  void fail(const std::string& reason) const;

 private:
  std::shared_ptr<const ProcessGroups> groups_;
  int on_this_memory_ = 1;
};

/// What a folder's files hold, in short: names, sizes, and a hash of samples of each.
std::string fingerprint(const DiffusersFolder& folder);

}  // namespace rondo
