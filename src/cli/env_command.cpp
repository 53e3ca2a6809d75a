#include <fmt/format.h>

#include "cli/commands.h"
#include "core/env.h"

namespace rondo::cli {

void add_env_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("env", "List every environment variable that Rondo reads");
  command->callback([] {
    for (const EnvVariable& variable : env_variables()) {
      const auto value = env_value(variable.name);
      fmt::print("{}={}\n    {}\n    values: {}\n", variable.name, value ? *value : "(not set)", variable.meaning,
                 variable.values);
    }
  });
}

}  // namespace rondo::cli
