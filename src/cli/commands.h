// The verbs. Each adds a subcommand; its callback returns nothing and throws on failure.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <string>

namespace rondo::cli {

/// `from_file` says which flags a config file gave; it is read when the command runs.
void add_generate_command(CLI::App& app, const std::map<std::string, std::string>& from_file);
void add_inspect_command(CLI::App& app);
void add_backends_command(CLI::App& app);
void add_bench_command(CLI::App& app);
void add_tune_command(CLI::App& app);
void add_cache_command(CLI::App& app);
void add_eval_command(CLI::App& app);
void add_profile_command(CLI::App& app);
/// `from_file` as for add_generate_command().
void add_config_command(CLI::App& app, const std::map<std::string, std::string>& from_file);
void add_quantize_command(CLI::App& app);
void add_contact_sheet_command(CLI::App& app);
void add_doctor_command(CLI::App& app);
void add_env_command(CLI::App& app);
void add_launch_command(CLI::App& app);
void add_plan_command(CLI::App& app);

}  // namespace rondo::cli
