#include "core/threads.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cmath>
#include <fstream>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "core/env.h"
#include "rondo/error.h"

namespace rondo {
namespace {

std::string read_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// The physical core of each CPU of this machine, both by number; read once.
const std::vector<int>& cores_by_cpu() {
  static const std::vector<int> cores = [] {
    std::map<std::pair<std::string, std::string>, int> numbers;  // by package and core
    std::vector<int> found;
    for (int cpu = 0; cpu < sysconf(_SC_NPROCESSORS_CONF); ++cpu) {
      const std::string topology = fmt::format("/sys/devices/system/cpu/cpu{}/topology/", cpu);
      const std::string core = read_line(topology + "core_id");
      const auto name = core.empty() ? std::pair(std::string("cpu"), std::to_string(cpu))
                                     : std::pair(read_line(topology + "physical_package_id"), core);
      found.push_back(numbers.emplace(name, static_cast<int>(numbers.size())).first->second);
    }
    return found;
  }();
  return cores;
}

/// Distinct cores among the CPUs that this process may run on now.
int physical_cores_in_affinity_mask() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof mask, &mask) != 0) return static_cast<int>(std::thread::hardware_concurrency());
  const std::vector<int>& cores = cores_by_cpu();
  std::vector<char> used(cores.size());
  for (std::size_t cpu = 0; cpu < cores.size(); ++cpu) {
    if (CPU_ISSET(cpu, &mask)) used[static_cast<std::size_t>(cores[cpu])] = 1;
  }
  return static_cast<int>(std::count(used.begin(), used.end(), 1));
}

/// CPUs' worth of time that cgroup v2 allows this process, rounded up; a large number when there is no limit.
int cgroup_cpu_quota() {
  constexpr int kUnlimited = 1 << 20;
  const std::string membership = read_line("/proc/self/cgroup");  // "0::/path" under cgroup v2
  const std::size_t colons = membership.find("::");
  const std::string group = colons == std::string::npos ? "" : membership.substr(colons + 2);
  for (const std::string& folder : {"/sys/fs/cgroup" + group, std::string("/sys/fs/cgroup")}) {
    const std::string limit = read_line(folder + "/cpu.max");  // "200000 100000" or "max 100000"
    double quota = 0;
    double period = 0;
    if (std::sscanf(limit.c_str(), "%lf %lf", &quota, &period) == 2 && period > 0) {
      return std::max(1, static_cast<int>(std::ceil(quota / period)));
    }
  }
  return kUnlimited;
}

}  // namespace

int default_threads() {
  if (const auto text = env_value("RONDO_THREADS")) {
    int threads = 0;
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), threads);
    if (error != std::errc() || end != text->data() + text->size() || threads < 1 || threads > 1024) {
      throw InvalidArgument(fmt::format("RONDO_THREADS: '{}' is given; allowed is a number from 1 to 1024", *text));
    }
    return threads;
  }
  static const int quota = cgroup_cpu_quota();
  return std::max(1, std::min(physical_cores_in_affinity_mask(), quota));
}

#if defined(_OPENMP)

ThreadTeamScope::ThreadTeamScope(int threads) : previous_(omp_get_max_threads()) { omp_set_num_threads(threads); }
ThreadTeamScope::~ThreadTeamScope() { omp_set_num_threads(previous_); }

#else  // a build without OpenMP (the tsan preset: libgomp is unknown to ThreadSanitizer) runs every loop serially

ThreadTeamScope::ThreadTeamScope(int /*threads*/) : previous_(1) {}
ThreadTeamScope::~ThreadTeamScope() = default;

#endif

void parallel_ranges(int threads, std::int64_t count, std::int64_t grain,
                     const std::function<void(std::int64_t, std::int64_t)>& body) {
  if (count <= 0) return;
  const std::int64_t most = std::max<std::int64_t>(1, count / std::max<std::int64_t>(1, grain));
  const int team = static_cast<int>(std::min<std::int64_t>(threads, most));
  if (team <= 1) {
    body(0, count);
    return;
  }
#if defined(_OPENMP)
#pragma omp parallel for schedule(static, 1) num_threads(team)
#endif
  for (int part = 0; part < team; ++part) body(count * part / team, count * (part + 1) / team);
}

void parallel_items(int threads, std::int64_t count, const std::function<void(std::int64_t, int)>& body) {
  const int team = static_cast<int>(std::max<std::int64_t>(1, std::min<std::int64_t>(threads, count)));
  std::atomic<std::int64_t> next = 0;
#if defined(_OPENMP)
#pragma omp parallel for schedule(static, 1) num_threads(team) if (team > 1)
#endif
  for (int worker = 0; worker < team; ++worker) {
    for (std::int64_t i = next++; i < count; i = next++) body(i, worker);
  }
}

}  // namespace rondo
