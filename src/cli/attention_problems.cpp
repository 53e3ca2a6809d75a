#include "cli/attention_problems.h"

#include <fmt/format.h>

#include <array>
#include <fstream>

#include "backends/attention_backends.h"
#include "backends/devices.h"
#include "cli/run_flags.h"
#include "core/threads.h"
#include "pipelines/kv_cache_options.h"
#include "rondo/error.h"

namespace rondo::cli {
namespace {

/// FLUX and Wan at several sizes, SD3 and cross-attention, CLIP; packed sequences, a mask.
constexpr std::array kDefaultProblems{
    "q=1x24x1024x128",          "q=1x24x4608x128",
    "q=1x12x3072x128",          "q=1x12x3072x128 causal=1",
    "q=1x16x1024x72",           "q=1x40x1024x128 kv=512",
    "q=1x24x4096x64",           "q=1x2x77x64",
    "q=8x12x2048x128 varlen=1", "q=1x24x1024x128 mask=boolean",
};

}  // namespace

void AttentionProblemFlags::add_to(CLI::App& app) {
  app.add_option("--problem", problems_, "such as \"q=1x24x4608x128 kv=4608\" (may be repeated)")->type_name("");
  add_value(app, "--shapes", shapes_, "a file with one problem a line");
  add_value(app, "--dtype", dtype_, "float32, bfloat16 or float16, for every problem");
  add_value(app, "--device", device_, "cpu (default), auto, cuda[:N] or ascend[:N], for every problem");
  kv_cache_.add_to(app);
  add_value(app, "--threads", threads_, "threads (default: RONDO_THREADS, else OMP_NUM_THREADS, else physical cores)");
}

std::vector<AttentionProblem> AttentionProblemFlags::problems() const {
  std::vector<std::string> texts = problems_;
  if (shapes_) {
    std::ifstream file(*shapes_);
    if (!file) throw FileError(fmt::format("{}: cannot be read", *shapes_));
    for (std::string line; std::getline(file, line);) {
      if (!line.empty() && line[0] != '#') texts.push_back(line);
    }
  }
  if (texts.empty()) texts.assign(kDefaultProblems.begin(), kDefaultProblems.end());
  const KvCacheOptions flags = kv_cache_.options();
  std::vector<AttentionProblem> problems;
  for (const std::string& text : texts) {
    AttentionProblem problem = parse_attention_problem(text);
    if (dtype_) problem.dtype = parse_dtype(*dtype_);
    if (device_) problem.device = find_device(*device_);
    open_device(problem.device);  // its kernels are known from here on, or it is refused
    KvCacheOptions own;           // what the problem says itself
    if (problem.quantization.active()) {
      own.dtype = problem.quantization.dtype;
      own.rotate = problem.quantization.rotates;
      own.smooth_k = problem.quantization.smooths;
    }
    refuse_without_dtype(flags, own);
    const KvCacheOptions how = layered(flags, own);
    problem.quantization = kv_cache_policy(how).quantization;
    if (!how.smooth_k) settle_smoothing(problem, {});
    problems.push_back(problem);
  }
  return problems;
}

int AttentionProblemFlags::threads() const {
  return available_threads(static_cast<int>(bounded("--threads", threads_, default_threads(), 1, 1024)));
}

}  // namespace rondo::cli
