#include "core/env.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>

#include "rondo/error.h"

namespace rondo {
namespace {

constexpr std::array kVariables{
    EnvVariable{"RONDO_ATTENTION_BACKEND", "NAME", "attention kernel to use, as rondo backends lists them"},
    EnvVariable{"RONDO_CACHE_DIR", "DIR",
                "folder of measured results (default: $XDG_CACHE_HOME/rondo, else $HOME/.cache/rondo)"},
    EnvVariable{"RONDO_CPU_LEVEL", "baseline|avx2|avx512|avx512_vnni|avx512_bf16|avx512_amx",
                "highest instruction set that kernels and oneDNN may use"},
    EnvVariable{"RONDO_DEVICE", "auto|cpu|cuda[:N]|ascend[:N]", "where models run (default auto: the best there is)"},
    EnvVariable{"RONDO_DEVICE_MEMORY_LIMIT", "BYTES", "what one process takes of a device's memory, such as 8GB"},
    EnvVariable{"RONDO_DISABLE_BACKENDS", "NAME[,NAME...]",
                "attention kernels never to use; cuda or ascend: a plug-in never to open"},
    EnvVariable{"RONDO_DISABLE_COMPILE", "0|1", "1: graphs run as they are built, without any pass"},
    EnvVariable{"RONDO_LOG", "debug|info|warning|error|off", "what the command logs to stderr (default warning)"},
    EnvVariable{"RONDO_MODEL", "DIR", "model folder used when --model is not given"},
    EnvVariable{"RONDO_PLUGIN_PATH", "DIR[:DIR...]", "folders of device plug-ins, after the library's own"},
    EnvVariable{"RONDO_REFERENCE_KERNELS", "NAME[,NAME...]|all",
                "operators that run their plain float64 reference in place of a kernel"},
    EnvVariable{"RONDO_THREADS", "N",
                "threads of one run (default: OMP_NUM_THREADS, else physical cores within affinity and cgroup quota)"},
    EnvVariable{"RONDO_TUNE", "off|cached|on",
                "measured attention kernels: not used, used (default), or measured where they are not yet"},
    EnvVariable{"RONDO_WEIGHT_CACHE", "DIR", "folder of packed weights, which processes share (default: none)"},
    EnvVariable{"ASCEND_CUSTOM_OPP_PATH", "DIR[:DIR...]", "folders of custom Ascend operators, set by CANN"},
    EnvVariable{"ASCEND_RT_VISIBLE_DEVICES", "N[,N...]", "the NPUs that the driver shows to the process, as 0, 1, ..."},
    EnvVariable{"ASCEND_OPP_PATH", "DIR", "folder of Ascend's operators, set by CANN; vendors' operators lie below it"},
    EnvVariable{"HOME", "DIR", "where .cache/rondo is, without RONDO_CACHE_DIR and XDG_CACHE_HOME"},
    EnvVariable{"OMPI_COMM_WORLD_RANK", "N", "this process's rank, set by Open MPI's mpirun"},
    EnvVariable{"OMPI_COMM_WORLD_SIZE", "N", "how many processes mpirun started; above 1 they work together"},
    EnvVariable{"OMP_NUM_THREADS", "N[,N...]", "threads of one run, without RONDO_THREADS; the first number counts"},
    EnvVariable{"PMI_RANK", "N", "the same, set by other launchers"},
    EnvVariable{"PMI_SIZE", "N", "the same, set by other launchers"},
    EnvVariable{"XDG_CACHE_HOME", "DIR", "where the folder rondo is, without RONDO_CACHE_DIR"},
};

}  // namespace

std::span<const EnvVariable> env_variables() { return kVariables; }

std::optional<std::string> env_value(std::string_view name) {
  const bool listed =
      std::any_of(kVariables.begin(), kVariables.end(), [&](const EnvVariable& v) { return v.name == name; });
  if (!listed) throw Error(fmt::format("environment: {} is read but not listed", name));
  const char* value = std::getenv(std::string(name).c_str());
  if (value == nullptr || *value == '\0') return std::nullopt;
  return std::string(value);
}

}  // namespace rondo
