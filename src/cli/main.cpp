// The command `rondo`. Exit code 0: done; 1: failed; 2: a wrong call; 130: interrupted.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdlib>
#include <new>
#include <oneapi/dnnl/dnnl.hpp>

#include "cli/commands.h"
#include "cli/run_flags.h"
#include "core/cpu_level.h"
#include "core/env.h"
#include "core/text.h"
#include "rondo/error.h"
#include "rondo/log.h"
#include "rondo/version.h"

namespace {

std::string version_text() {
  const dnnl_version_t* onednn = dnnl_version();
  return fmt::format("rondo {} ({})\ncpu: {}, level {}\noneDNN {}.{}.{}", rondo::version(), rondo::commit(),
                     rondo::cpu_model_name(), rondo::cpu_level_name(rondo::cpu_level()), onednn->major, onednn->minor,
                     onednn->patch);
}

void log_to_stderr() {
  using rondo::LogLevel;
  const std::pair<std::string_view, LogLevel> levels[]{{"debug", LogLevel::debug},
                                                       {"info", LogLevel::info},
                                                       {"warning", LogLevel::warning},
                                                       {"error", LogLevel::error},
                                                       {"off", LogLevel::off}};
  const std::string wanted = rondo::env_value("RONDO_LOG").value_or("warning");
  for (const auto& [name, level] : levels) {
    if (wanted != name) continue;
    rondo::set_log_sink(level, [](LogLevel, std::string_view message) { fmt::print(stderr, "rondo: {}\n", message); });
    return;
  }
  throw rondo::cli::UsageError(
      fmt::format("RONDO_LOG: '{}' is given; allowed are debug, info, warning, error, off", wanted));
}

int fail(int code, std::string_view message) {
  // One line: what a stranger's file put into a message must not break it.
  fmt::print(stderr, "rondo: {}\n", rondo::printable(message, 2000));
  return code;
}

int run(int argc, char** argv) {
  CLI::App app{"Pictures from diffusion transformers, fast"};
  app.require_subcommand(1);
  app.set_version_flag("--version", version_text);
  rondo::cli::add_generate_command(app);
  rondo::cli::add_inspect_command(app);
  rondo::cli::add_bench_command(app);
  rondo::cli::add_contact_sheet_command(app);
  rondo::cli::add_env_command(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return fail(2, fmt::format("{} (see rondo --help)", error.what()));
  }
  if (std::fflush(stdout) != 0) return fail(1, "standard output: cannot be written");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a closed stdout is an error that is told, not a silent death
  try {
    log_to_stderr();
    return run(argc, argv);
  } catch (const rondo::cli::UsageError& error) {
    return fail(2, error.what());
  } catch (const rondo::InvalidArgument& error) {
    return fail(2, error.what());
  } catch (const rondo::Cancelled&) {
    return fail(130, "interrupted");
  } catch (const std::bad_alloc&) {
    return fail(1, "memory: not enough for this request");
  } catch (const std::exception& error) {
    return fail(1, error.what());
  }
}
