// `rondo launch -n 4 generate ...`: mpirun with the settings that suit Rondo on this host.
#include <fmt/format.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <vector>

#include "cli/commands.h"
#include "cli/run_flags.h"
#include "cli/stderr.h"
#include "cli/values.h"
#include "core/env.h"
#include "core/text.h"
#include "core/threads.h"
#include "rondo/error.h"

namespace rondo::cli {
namespace {

struct LaunchFlags {
  std::optional<std::string> ranks;
  std::optional<std::string> hostfile;
  std::optional<std::string> bind_to;
  bool dry_run = false;
};

/// Whether one process may read another's memory here, as Open MPI does to copy large messages once. Kernels in
/// containers often refuse it, and Open MPI would fail in place of falling back.
bool may_read_other_processes() {
  std::uint64_t word = 42;
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) return false;
  if (child == 0) {
    std::uint64_t copy = 0;
    const iovec to{&copy, sizeof copy};
    const iovec from{&word, sizeof word};
    _exit(process_vm_readv(parent, &to, 1, &from, 1, 0) == sizeof copy && copy == word ? 0 : 1);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/// As a shell reads it back.
std::string quoted(const std::string& argument) {
  constexpr std::string_view kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./,:@%";
  if (!argument.empty() && argument.find_first_not_of(kPlain) == std::string::npos) return argument;
  std::string text = "'";
  for (const char c : argument) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

std::vector<std::string> mpirun_arguments(const LaunchFlags& flags, const std::vector<std::string>& command) {
  constexpr std::int64_t kMostRanks = 1024;
  const auto ranks = static_cast<int>(bounded("-n", flags.ranks, 0, 1, kMostRanks));
  std::vector<std::string> arguments{"mpirun", "-n", std::to_string(ranks)};
  const auto add = [&](std::initializer_list<std::string> more) {
    arguments.insert(arguments.end(), more.begin(), more.end());
  };
  if (geteuid() == 0) add({"--allow-run-as-root"});
  const bool binds = one_of("--bind-to", flags.bind_to.value_or("core"), {"core", "none"}) == 0;
  if (flags.hostfile) {
    add({"--hostfile", *flags.hostfile, "--bind-to", "none"});
  } else {
    const int cores = default_threads();
    if (ranks > cores) {
      print_error("launch: {} ranks share {} cores: one thread each, waiting ranks give their core away\n", ranks,
                  cores);
      add({"--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"});
    } else if (!binds) {
      add({"--bind-to", "none"});
    } else {
      add({"--map-by", fmt::format("slot:PE={}", cores / ranks), "--bind-to", "core"});
    }
    if (!env_value("RONDO_THREADS")) add({"-x", fmt::format("RONDO_THREADS={}", std::max(1, cores / ranks))});
    if (!may_read_other_processes()) {
      print_error("launch: this kernel lets no process read another's memory: messages are copied twice\n");
      add({"--mca", "btl_vader_single_copy_mechanism", "none"});
    }
  }
  for (const EnvVariable& variable : env_variables()) {
    const std::string name(variable.name);
    if (name.starts_with("RONDO_") && env_value(name)) add({"-x", name});
  }
  add({std::filesystem::read_symlink("/proc/self/exe").string()});
  arguments.insert(arguments.end(), command.begin(), command.end());
  return arguments;
}

void run(const LaunchFlags& flags, const std::vector<std::string>& command) {
  if (!flags.ranks) throw UsageError("-n: is missing; it says how many ranks to start");
  if (command.empty()) throw UsageError("launch: what to run is missing, such as generate");
  if (command[0] != "generate" && (command[0] != "bench" || command.size() < 2 || command[1] != "step")) {
    throw UsageError(fmt::format("launch: '{}' does not run on several ranks; allowed are generate and bench step",
                                 printable(command[0])));
  }
  for (const std::string& argument : command) {
    if (argument == ":") throw UsageError("launch: ':' alone separates mpirun's programs; allowed is --prompt=:");
  }
  const std::vector<std::string> arguments = mpirun_arguments(flags, command);
  if (flags.dry_run) {
    for (const std::string& argument : arguments)
      fmt::print("{}{}", &argument == arguments.data() ? "" : " ", quoted(argument));
    fmt::print("\n");
    return;
  }
  std::vector<char*> pointers;
  pointers.reserve(arguments.size() + 1);
  for (const std::string& argument : arguments) pointers.push_back(const_cast<char*>(argument.c_str()));
  pointers.push_back(nullptr);
  execvp(pointers[0], pointers.data());
  throw Unsupported(
      fmt::format("mpirun: cannot be started: {}; install openmpi-bin (Debian's name)", std::strerror(errno)));
}

}  // namespace

void add_launch_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("launch", "Start several ranks that work on one picture, with mpirun");
  auto flags = std::make_shared<LaunchFlags>();
  add_value(*command, "-n,--ranks", flags->ranks, "how many ranks to start");
  add_value(*command, "--hostfile", flags->hostfile, "hosts to start them on, as mpirun reads it (default: this one)");
  add_value(*command, "--bind-to", flags->bind_to,
            "core (each rank keeps cores of its own, the default) or none, for several launches on one host");
  command->add_flag("--dry-run", flags->dry_run, "print the command in place of running it");
  command->prefix_command();
  command->callback([flags, command] { run(*flags, command->remaining()); });
}

}  // namespace rondo::cli
