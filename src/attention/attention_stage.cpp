#include "attention/attention_stage.h"

#include <fmt/format.h>

#include "core/cpu_level.h"
#include "core/threads.h"

namespace rondo {
namespace {

class CpuStage final : public AttentionStage {
 public:
  CpuStage(const RandomAttention& operands, int threads) : call_(operands.call(threads)), threads_(threads) {}
  void run(const AttentionRunner& runner) override {
    const auto bytes = static_cast<std::int64_t>(runner.scratch_bytes());
    if (!scratch_.defined() || scratch_.elements() < bytes) scratch_ = Tensor::empty({bytes}, DType::u8);
    const ThreadTeamScope team(threads_);
    runner.run(call_, {scratch_.as<std::byte>(), scratch_.bytes()});
  }

 private:
  AttentionCall call_;
  Tensor scratch_;
  int threads_;
};

}  // namespace

AttentionStages cpu_attention_stages() {
  return {[](const RandomAttention& operands, int threads) { return std::make_unique<CpuStage>(operands, threads); },
          [](const Device&) { return fmt::format("{} | {}", cpu_model_name(), cpu_level_name(cpu_level())); }};
}

}  // namespace rondo
