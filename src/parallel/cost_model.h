// How long one denoising step takes on so many ranks, by counting: which degrees suit a machine and its network.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "parallel/parallel_layout.h"

namespace rondo {

/// One step of a DiT: `layers` blocks, each of twelve products of width x width a token and one self-attention.
struct StepWorkload {
  std::int64_t tokens = 0;  // of text and picture
  std::int64_t width = 0;
  std::int64_t heads = 0;
  std::int64_t layers = 0;
  int branches = 1;
  int element_bytes = 2;
  /// Weights that every rank reads in full whatever it holds of the tokens (modulations), bytes.
  double shared_weight_bytes = 0;
};

/// What a rank can do, and what lies between ranks. Bytes and operations a second.
struct RankMachine {
  double linear_rate = 0;
  double attention_rate = 0;
  double memory_rate = 0;
  int ranks_per_host = 1;
  double host_rate = 5e9;   // between two ranks of one host
  double network_rate = 0;  // of a host's link, each way
  double latency = 50e-6;   // seconds a message
};

struct StepPrediction {
  ParallelDegrees degrees;
  double compute = 0;          // seconds, of the rank that has most
  double ulysses = 0;          // seconds of exchanges: nothing is computed meanwhile
  double ring = 0;             // seconds of hops that attention does not hide
  double sent_bytes = 0;       // by one rank
  double key_value_bytes = 0;  // a layer's keys and values on one rank
  double total() const { return compute + ulysses + ring; }
};

/// Counts operations and bytes. Tokens and heads are dealt out as evenly as whole ones can be; the slowest rank counts.
StepPrediction predict_step(const StepWorkload& workload, const RankMachine& machine, const ParallelDegrees& degrees);

/// Every way to use `ranks` ranks on one picture, fastest first; of equally fast ones (to 1 %) the one that needs less
/// memory for keys and values.
std::vector<StepPrediction> rank_degrees(const StepWorkload& workload, const RankMachine& machine, int ranks);

}  // namespace rondo
