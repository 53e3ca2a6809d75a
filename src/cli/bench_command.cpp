#include "cli/bench.h"

#include <algorithm>

#include "cli/commands.h"

namespace rondo::cli {

Spread spread_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  const double median = values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {values.front(), median, values.back()};
}

void add_bench_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("bench", "Measure");
  command->require_subcommand(1);
  add_bench_step(*command);
  add_bench_instances(*command);
  add_bench_attention(*command);
}

}  // namespace rondo::cli
