// Which kernel and tiling a call gets: the one that it names, the one that was measured to be the fastest, or the
// first.
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "attention/attention_registry.h"
#include "attention/attention_request.h"
#include "attention/attention_stage.h"
#include "attention/tuning_file.h"

namespace rondo {

/// Results are kept in memory and in the tuning file. Safe to use from several threads.
class AttentionTuner {
 public:
  explicit AttentionTuner(const AttentionRegistry& registry, AttentionStages stages = cpu_attention_stages())
      : registry_(registry), stages_(std::move(stages)) {}

  /// A backend by name (the request's, else RONDO_ATTENTION_BACKEND) as AttentionRegistry::select gives it. Otherwise,
  /// in runtime mode: the measured winner, which TuneMode::on measures when there is none. Otherwise the first in the
  /// list. Throws as AttentionRegistry::select, InvalidArgument for manual mode without a backend.
  AttentionChoice choose(const AttentionProblem& problem, int threads, const AttentionRequest& request = {});

  /// Measures every kernel (but the reference) with every tiling, unless that has been done; callers that ask for the
  /// same at the same time wait for the first.
  TunedAttention tune(const AttentionProblem& problem, int threads);

 private:
  using Key = std::pair<AttentionProblem, int>;

  /// What a result holds for.
  std::string file_key(const Key& key) const;
  std::optional<TunedAttention> find(const Key& key);
  std::optional<AttentionChoice> usable(const TunedAttention& tuned, const AttentionProblem& problem) const;
  TunedAttention measure(const Key& key) const;
  void keep(const Key& key, const TunedAttention& tuned);

  const AttentionRegistry& registry_;
  AttentionStages stages_;
  std::mutex mutex_;
  std::condition_variable measured_;
  std::map<Key, std::optional<TunedAttention>> results_;  // nothing: the file has none either
  std::optional<TunedAttentions> file_;                   // once it is read
  std::set<Key> under_way_;
  std::mutex measuring_;  // one at a time: two would slow each other
};

}  // namespace rondo
