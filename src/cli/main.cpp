// The command `rondo`. Exit code 0: done; 1: failed; 2: a wrong call; 130: interrupted.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <new>
#include <oneapi/dnnl/dnnl.hpp>
#include <system_error>

#include "cli/commands.h"
#include "cli/config_file.h"
#include "cli/parallel_flags.h"
#include "cli/stderr.h"
#include "cli/suggestions.h"
#include "cli/values.h"
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
    rondo::set_log_sink(level, [](LogLevel, std::string_view message) {
      rondo::cli::print_error("rondo: {}{}\n", rondo::cli::rank_prefix(), message);
    });
    return;
  }
  throw rondo::cli::UsageError(
      fmt::format("RONDO_LOG: '{}' is given; allowed are debug, info, warning, error, off", wanted));
}

int fail(int code, std::string_view message) {
  // One line: what a stranger's file put into a message must not break it.
  rondo::cli::print_error("rondo: {}{}\n", rondo::cli::rank_prefix(), rondo::printable(message, 2000));
  return code;
}

/// Opens /dev/null for standard streams that the caller closed: otherwise the next file opened would become one.
void hold_standard_streams() {
  for (int descriptor = STDIN_FILENO; descriptor <= STDERR_FILENO; ++descriptor) {
    if (fcntl(descriptor, F_GETFD) == -1 && open("/dev/null", O_RDWR) == -1) std::abort();
  }
}

/// The arguments as CLI11 2.1 understands them: "--flag=" as "--flag" with an empty value, for which it would take the
/// next argument; --negative_prompt as --negative-prompt, as people know flags from Python; `launch -n 2 -- generate`
/// without the dashes, which it would take for the end of the command.
std::vector<std::string> collect_arguments(int argc, char** argv) {
  std::vector<std::string> arguments;
  const bool launches = argc > 1 && std::string_view(argv[1]) == "launch";
  bool are_flags = true;
  for (int i = 1; i < argc; ++i) {
    std::string argument = argv[i];
    const std::string_view next = i + 1 < argc ? argv[i + 1] : "";
    if (argument == "--" && launches && are_flags && (next == "generate" || next == "bench")) continue;
    are_flags = are_flags && argument != "--";
    if (are_flags && argument.starts_with("--"))
      std::replace(argument.begin(),
                   argument.begin() + static_cast<std::ptrdiff_t>(std::min(argument.find('='), argument.size())), '_',
                   '-');
    if (argument.starts_with("--") && argument.size() > 3 && argument.ends_with("=") &&
        argument.find('=') + 1 == argument.size()) {
      argument.pop_back();
      arguments.push_back(argument);
      argument.clear();
    }
    arguments.push_back(argument);
  }
  return arguments;
}

constexpr const char* kExamples =
    "Examples:\n"
    "  rondo generate \"a red heart\" -o heart.png\n"
    "  rondo generate --model ~/models/FLUX.1-schnell \"a fox in the snow\" --size 512x512 --seed 7\n"
    "  rondo inspect ~/models/FLUX.1-schnell";

/// The verb that was called, how messages about it begin ("bench step: ", empty without a verb) and who knows more.
struct CalledVerb {
  const CLI::App* verb;
  std::string prefix;
  std::string help;
};

CalledVerb called_verb(const CLI::App& app) {
  const CLI::App* verb = &app;
  std::string path;
  while (!verb->get_subcommands().empty()) {
    verb = verb->get_subcommands().front();
    path += verb->get_name() + " ";
  }
  const std::string help = fmt::format("(see rondo {}--help)", path);
  if (!path.empty()) path.back() = ':';
  return {verb, path.empty() ? "" : path + " ", help};
}

std::vector<std::string> verbs_of(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(verb->get_name());
  return names;
}

/// What to say of arguments that no verb takes.
std::string describe_extras(const CLI::App& app) {
  const auto [verb, prefix, help] = called_verb(app);
  const std::vector<std::string> extras = app.remaining(true);
  const auto flag = std::find_if(extras.begin(), extras.end(), [](const std::string& e) { return e.starts_with("-"); });
  const std::string given = flag != extras.end() ? flag->substr(0, flag->find('=')) : extras.front();
  std::vector<std::string> known;
  if (flag == extras.end()) {
    known = verbs_of(*verb);
  } else {
    for (const CLI::Option* option : verb->get_options()) {
      for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
    }
  }
  if (flag != extras.end() && std::find(known.begin(), known.end(), given) != known.end())
    return fmt::format("{}{} stands behind --, where nothing is a flag {}", prefix, rondo::printable(given), help);
  const std::string nearest = rondo::cli::nearest_name(given, known);
  const std::string advice = nearest.empty() ? "" : fmt::format("; did you mean {}?", nearest);
  const bool is_verb = flag == extras.end() && !known.empty();
  const char* const what = flag != extras.end() ? "no flag" : is_verb ? "no command" : "not expected";
  return fmt::format("{}{} is {}{} {}", prefix, rondo::printable(given), what, advice, help);
}

int run(int argc, char** argv) {
  CLI::App app{"Pictures from diffusion transformers, fast", "rondo"};
  app.require_subcommand(0, 1);
  app.footer(kExamples);
  app.set_version_flag("--version", version_text);
  std::map<std::string, std::string> from_file;
  rondo::cli::add_generate_command(app, from_file);
  rondo::cli::add_inspect_command(app);
  rondo::cli::add_backends_command(app);
  rondo::cli::add_bench_command(app);
  rondo::cli::add_tune_command(app);
  rondo::cli::add_cache_command(app);
  rondo::cli::add_eval_command(app);
  rondo::cli::add_profile_command(app);
  rondo::cli::add_config_command(app, from_file);
  rondo::cli::add_quantize_command(app);
  rondo::cli::add_contact_sheet_command(app);
  rondo::cli::add_doctor_command(app);
  rondo::cli::add_env_command(app);
  rondo::cli::add_launch_command(app);
  rondo::cli::add_plan_command(app);
  try {
    std::vector<std::string> arguments = rondo::cli::with_config_file(app, collect_arguments(argc, argv), from_file);
    std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants them
    app.parse(std::move(arguments));
  } catch (const CLI::Success& success) {  // --help, --version
    app.exit(success);
    return std::fflush(stdout) == 0 ? 0 : fail(1, "standard output: cannot be written");
  } catch (const CLI::ExtrasError&) {
    return fail(2, describe_extras(app));
  } catch (const CLI::RequiredError& error) {
    if (!app.remaining(true).empty()) return fail(2, describe_extras(app));
    const auto [verb, prefix, help] = called_verb(app);
    if (verbs_of(*verb).empty()) return fail(2, fmt::format("{}{} {}", prefix, error.what(), help));
    return fail(2, fmt::format("{}a command is missing; allowed are {}", prefix, fmt::join(verbs_of(*verb), ", ")));
  } catch (const CLI::ArgumentMismatch& error) {
    const std::string_view text = error.what();
    return fail(2, fmt::format("{}: needs a value (see rondo --help)", text.substr(0, text.find(':'))));
  } catch (const CLI::ParseError& error) {
    return fail(2, fmt::format("{} (see rondo --help)", error.what()));
  }
  if (app.get_subcommands().empty()) fmt::print("{}", app.help());
  if (std::fflush(stdout) != 0) return fail(1, "standard output: cannot be written");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a closed stdout is an error that is told, not a silent death
  std::signal(SIGXFSZ, SIG_IGN);  // so is a file that grows beyond the limit
  hold_standard_streams();
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
  } catch (const std::filesystem::filesystem_error& error) {
    return fail(1, fmt::format("{}: {}", error.path1().string(), error.code().message()));
  } catch (const std::system_error& error) {  // fmt's, for a standard output that is full or closed
    return fail(1, fmt::format("standard output: cannot be written: {}", error.code().message()));
  } catch (const std::exception& error) {
    return fail(1, error.what());
  }
}
