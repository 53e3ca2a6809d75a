// The parts of `rondo bench`.
#pragma once

#include <CLI/CLI.hpp>
#include <vector>

namespace rondo::cli {

void add_bench_step(CLI::App& bench);
void add_bench_attention(CLI::App& bench);
void add_bench_instances(CLI::App& bench);

struct Spread {
  double least;
  double median;
  double most;
};

/// Of at least one value.
Spread spread_of(std::vector<double> values);

}  // namespace rondo::cli
