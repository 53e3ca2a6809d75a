#include "attention/attention_tuner.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <memory>

#include "attention/random_attention.h"
#include "core/env.h"
#include "core/log.h"
#include "core/threads.h"
#include "rondo/error.h"
#include "rondo/version.h"

namespace rondo {
namespace {

class Candidate {
 public:
  Candidate(std::shared_ptr<const AttentionKernel> kernel, const AttentionTiling& tiling,
            const AttentionProblem& problem, int threads)
      : kernel_(std::move(kernel)), tiling_(tiling), runner_(kernel_->make(problem, tiling, threads)) {}

  /// Runs once and remembers the best time, in milliseconds.
  void run(AttentionStage& stage) {
    const auto start = std::chrono::steady_clock::now();
    stage.run(*runner_);
    const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
    best_ = std::min(best_, elapsed.count());
  }
  void forget() { best_ = std::numeric_limits<double>::infinity(); }

  double best() const { return best_; }
  const AttentionTiling& tiling() const { return tiling_; }
  const std::shared_ptr<const AttentionKernel>& kernel() const { return kernel_; }

 private:
  std::shared_ptr<const AttentionKernel> kernel_;
  AttentionTiling tiling_;
  std::unique_ptr<AttentionRunner> runner_;
  double best_ = std::numeric_limits<double>::infinity();
};

bool faster(const Candidate& a, const Candidate& b) { return a.best() < b.best(); }

/// Two runs of each, of which the second counts; then those stay that are at most `factor` times slower than the best.
/// The first stays always, to compare with.
void thin_out(std::vector<Candidate>& candidates, AttentionStage& stage, double factor) {
  for (int run = 0; run < 2; ++run) {
    for (Candidate& candidate : candidates) {
      candidate.forget();
      candidate.run(stage);
    }
  }
  const double limit = factor * std::min_element(candidates.begin(), candidates.end(), faster)->best();
  candidates.erase(std::remove_if(candidates.begin() + 1, candidates.end(),
                                  [&](const Candidate& candidate) { return candidate.best() > limit; }),
                   candidates.end());
}

/// Alternating runs, of which the best counts: five, or as few as keep a slow problem within seconds.
void race(std::vector<Candidate>& candidates, AttentionStage& stage) {
  constexpr double kBudgetMs = 3000;
  const double best = std::min_element(candidates.begin(), candidates.end(), faster)->best();
  const double round = best * static_cast<double>(candidates.size());
  const int rounds = static_cast<int>(std::clamp(kBudgetMs / round, 1.0, 5.0));
  for (int i = 0; i < rounds; ++i) {
    for (Candidate& candidate : candidates) candidate.run(stage);
  }
}

}  // namespace

AttentionChoice AttentionTuner::choose(const AttentionProblem& problem, int threads, const AttentionRequest& request) {
  if (request.mode == AttentionOptMode::manual && request.backend.empty())
    throw InvalidArgument("attention: opt_mode manual needs a backend");
  // Without queries, keys or heads there is nothing to measure.
  const bool empty = problem.batch * problem.heads * problem.key_heads * problem.queries * problem.keys == 0;
  const bool named = !request.named_backend().name.empty();
  if (named || empty || request.mode != AttentionOptMode::runtime) return registry_.select(problem, request);
  const TuneMode mode =
      request.tune ? *request.tune : parse_tune_mode(env_value("RONDO_TUNE").value_or("cached"), "RONDO_TUNE");
  std::optional<TunedAttention> tuned;
  if (mode == TuneMode::on) tuned = tune(problem, threads);
  if (mode == TuneMode::cached) tuned = find({problem, threads});
  if (tuned) {
    if (auto choice = usable(*tuned, problem)) return std::move(*choice);
  }
  return registry_.select(problem, request);
}

TunedAttention AttentionTuner::tune(const AttentionProblem& problem, int threads) {
  const Key key{problem, threads};
  while (true) {
    if (auto known = find(key)) return *known;
    std::unique_lock lock(mutex_);
    if (results_[key]) continue;  // somebody finished between the two looks
    if (under_way_.insert(key).second) break;
    measured_.wait(lock, [&] { return under_way_.count(key) == 0; });
  }
  const auto finish = [&] {
    const std::lock_guard lock(mutex_);
    under_way_.erase(key);
    measured_.notify_all();
  };
  try {
    const std::lock_guard alone(measuring_);
    TunedAttention tuned = measure(key);
    keep(key, tuned);
    finish();
    return tuned;
  } catch (...) {
    finish();
    throw;
  }
}

std::string AttentionTuner::file_key(const Key& key) const {
  return fmt::format("{} | rondo {} | threads={} | {}", stages_.fingerprint(key.first.device), version(), key.second,
                     to_string(key.first));
}

std::optional<TunedAttention> AttentionTuner::find(const Key& key) {
  const std::lock_guard lock(mutex_);
  const auto known = results_.find(key);
  if (known != results_.end()) return known->second;
  if (!file_) file_ = read_tuning_file();
  const auto stored = file_->empty() ? file_->end() : file_->find(file_key(key));
  return results_[key] = stored == file_->end() ? std::nullopt : std::optional(stored->second);
}

std::optional<AttentionChoice> AttentionTuner::usable(const TunedAttention& tuned,
                                                      const AttentionProblem& problem) const {
  for (auto& kernel : registry_.kernels()) {
    if (kernel->name() != tuned.kernel || registry_.answer(*kernel, problem)) continue;
    // The file comes from outside: only tilings that the kernel offers are passed on.
    const std::vector<AttentionTiling> tilings = kernel->tilings(problem);
    if (std::find(tilings.begin(), tilings.end(), tuned.tiling) == tilings.end()) continue;
    return AttentionChoice{std::move(kernel), tuned.tiling, "measured to be the fastest"};
  }
  return std::nullopt;
}

TunedAttention AttentionTuner::measure(const Key& key) const {
  const auto& [problem, threads] = key;
  const RandomAttention operands(problem);
  const ThreadTeamScope team(threads);  // oneDNN looks at it when a candidate is made
  std::vector<Candidate> candidates;
  for (const auto& kernel : registry_.kernels()) {
    if (kernel->name() != "reference" && !registry_.answer(*kernel, problem))
      candidates.emplace_back(kernel, AttentionTiling{}, problem, threads);
  }
  if (candidates.empty()) return {std::string(registry_.select(problem, {}).kernel->name()), {}, 0, 0};
  const auto stage = stages_.make(operands, threads);
  // A kernel that is far behind with its own tiling is not saved by another one.
  thin_out(candidates, *stage, 1.5);
  const std::size_t kernels = candidates.size();
  for (std::size_t i = 0; i < kernels; ++i) {
    const auto kernel = candidates[i].kernel();
    for (const AttentionTiling& tiling : kernel->tilings(problem)) {
      if (tiling != AttentionTiling{}) candidates.emplace_back(kernel, tiling, problem, threads);
    }
  }
  thin_out(candidates, *stage, 1.25);
  race(candidates, *stage);
  const Candidate& usual = candidates.front();
  const Candidate* winner = &usual;
  constexpr double kBetter = 0.98;  // less is noise
  for (const Candidate& candidate : candidates) {
    const bool beats_usual = candidate.best() < kBetter * usual.best();
    if (beats_usual && candidate.best() < winner->best()) winner = &candidate;
  }
  log(LogLevel::info, "attention: tuned {}: {}{}: {:.3f} ms (untuned {:.3f} ms)", to_string(problem),
      winner->kernel()->name(), to_string(winner->tiling()), winner->best(), usual.best());
  return {std::string(winner->kernel()->name()), winner->tiling(), winner->best(), usual.best()};
}

void AttentionTuner::keep(const Key& key, const TunedAttention& tuned) {
  {
    const std::lock_guard lock(mutex_);
    results_[key] = tuned;
  }
  try {
    write_tuning_entry(file_key(key), tuned);
  } catch (const Error& error) {
    log(LogLevel::warning, "{} (the measured attention kernel is kept for this process only)", error.what());
  }
}

}  // namespace rondo
