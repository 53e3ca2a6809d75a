#include "core/threads.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cmath>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "core/env.h"
#include "core/log.h"
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

constexpr int kMostThreads = 1024;

/// A whole number from 1 to kMostThreads; nothing for any other text.
std::optional<int> parse_threads(std::string_view text) {
  int threads = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), threads);
  const bool valid =
      error == std::errc() && end == text.data() + text.size() && threads >= 1 && threads <= kMostThreads;
  return valid ? std::optional(threads) : std::nullopt;
}

/// OMP_NUM_THREADS may be a list, a number for each level of nesting: the first is ours.
std::optional<int> openmp_threads() {
  const auto text = env_value("OMP_NUM_THREADS");
  if (!text) return std::nullopt;
  std::string_view first = std::string_view(*text).substr(0, text->find(','));
  while (!first.empty() && first.front() == ' ') first.remove_prefix(1);
  while (!first.empty() && first.back() == ' ') first.remove_suffix(1);
  return parse_threads(first);
}

#if defined(_OPENMP)

std::atomic<bool> threads_have_started = false;
std::atomic<bool> threads_are_lost = false;

/// A child of fork() has the OpenMP runtime's books and none of its threads.
void remember_fork() { threads_are_lost = threads_have_started.load(); }

/// Called before every region of more than one thread.
void note_team() {
  if (threads_are_lost.load(std::memory_order_relaxed)) {
    throw Error(
        "openmp: this process was forked after its threads had started, and they do not exist here; start processes by "
        "spawn (Python: multiprocessing.set_start_method('spawn')), fork before the first call, or allow 1 thread");
  }
  if (threads_have_started.load(std::memory_order_relaxed)) return;
  static const bool watches = pthread_atfork(nullptr, nullptr, remember_fork) == 0;
  threads_have_started = watches;
}

/// Everything that decides about the size of a team: while it stays, the size that was measured holds.
struct TeamConditions {
  int threads;
  int limit;
  int level;
  int most_levels;
  bool operator==(const TeamConditions&) const = default;
};

int measure_team(int threads) {
  const bool dynamic = omp_get_dynamic() != 0;
  omp_set_dynamic(0);
  int team = 1;
#pragma omp parallel num_threads(threads)
  {
#pragma omp master
    team = omp_get_num_threads();
  }
  omp_set_dynamic(dynamic ? 1 : 0);
  return team;
}

int team_of(int threads) {
  if (threads <= 1) return 1;
  note_team();
  const TeamConditions now{threads, omp_get_thread_limit(), omp_get_active_level(), omp_get_max_active_levels()};
  thread_local TeamConditions measured{};
  thread_local int team = 0;
  if (now != measured) {
    team = measure_team(threads);
    measured = now;
  }
  return team;
}

#endif

}  // namespace

int default_threads() {
  if (const auto text = env_value("RONDO_THREADS")) {
    const auto threads = parse_threads(*text);
    if (!threads) {
      throw InvalidArgument(
          fmt::format("RONDO_THREADS: '{}' is given; allowed is a number from 1 to {}", *text, kMostThreads));
    }
    return *threads;
  }
  if (const auto threads = openmp_threads()) return *threads;
  static const int quota = cgroup_cpu_quota();
  return std::max(1, std::min(physical_cores_in_affinity_mask(), quota));
}

#if defined(_OPENMP)

int available_threads(int threads) {
  if (threads <= 1) return 1;
  // By OpenMP's rules, not by a region: threads that are started before there is work for them wait busily.
  const bool is_nested = omp_get_active_level() >= omp_get_max_active_levels();
  const int team = is_nested ? 1 : std::min(threads, omp_get_thread_limit());
  if (team < threads) {
    static std::atomic<bool> told = false;
    if (!told.exchange(true)) {
      log(LogLevel::warning,
          "threads: OpenMP gives {} of the {} threads that are asked for (OMP_THREAD_LIMIT, or a call from inside a "
          "parallel region): {} run",
          team, threads, team);
    }
  }
  return team;
}

ThreadTeamScope::ThreadTeamScope(int threads) : previous_(omp_get_max_threads()), was_dynamic_(omp_get_dynamic() != 0) {
  const int team = team_of(threads);
  if (team < threads) {
    throw Error(
        fmt::format("openmp: {} threads are needed here and OpenMP gives {} (OMP_THREAD_LIMIT, or a call from inside a "
                    "parallel region); work prepared for {} cannot run on fewer: ask for {}",
                    threads, team, threads, team));
  }
  omp_set_dynamic(0);
  omp_set_num_threads(threads);
}

ThreadTeamScope::~ThreadTeamScope() {
  omp_set_num_threads(previous_);
  omp_set_dynamic(was_dynamic_ ? 1 : 0);
}

#else  // a build without OpenMP (the tsan preset: libgomp is unknown to ThreadSanitizer) runs every loop serially

int available_threads(int threads) { return threads; }

ThreadTeamScope::ThreadTeamScope(int /*threads*/) : previous_(1), was_dynamic_(false) {}
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
  note_team();
#pragma omp parallel for schedule(static, 1) num_threads(team)
#endif
  for (int part = 0; part < team; ++part) body(count * part / team, count * (part + 1) / team);
}

void parallel_items(int threads, std::int64_t count, const std::function<void(std::int64_t, int)>& body) {
  const int team = static_cast<int>(std::max<std::int64_t>(1, std::min<std::int64_t>(threads, count)));
  std::atomic<std::int64_t> next = 0;
#if defined(_OPENMP)
  if (team > 1) note_team();
#pragma omp parallel for schedule(static, 1) num_threads(team) if (team > 1)
#endif
  for (int worker = 0; worker < team; ++worker) {
    for (std::int64_t i = next++; i < count; i = next++) body(i, worker);
  }
}

}  // namespace rondo
