#include "backends/cuda/nccl_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include "core/opened_library.h"
#include "core/text.h"
#include "rondo/error.h"

namespace rondo::cuda {
namespace {

constexpr const char* kLibrary = "libnccl.so.2";

template <typename Function>
void load(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  if (function == nullptr) throw Error(fmt::format("{} has no {}: NCCL 2.7 or later is needed", kLibrary, name));
}

}  // namespace

NcclLibrary::NcclLibrary() {
  void* const library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* text = dlerror();  // NOLINT(concurrency-mt-unsafe): glibc keeps it per thread
    throw Error(
        fmt::format("{} cannot be opened ({})", kLibrary, text == nullptr ? "unknown reason" : printable(text, 300)));
  }
  load(library, "ncclGetVersion", ncclGetVersion);
  load(library, "ncclGetUniqueId", ncclGetUniqueId);
  load(library, "ncclCommInitRank", ncclCommInitRank);
  load(library, "ncclCommDestroy", ncclCommDestroy);
  load(library, "ncclCommAbort", ncclCommAbort);
  load(library, "ncclCommGetAsyncError", ncclCommGetAsyncError);
  load(library, "ncclGetErrorString", ncclGetErrorString);
  load(library, "ncclGroupStart", ncclGroupStart);
  load(library, "ncclGroupEnd", ncclGroupEnd);
  load(library, "ncclSend", ncclSend);
  load(library, "ncclRecv", ncclRecv);
}

const std::string& nccl_missing() { return OpenedLibrary<NcclLibrary>::get().missing; }

const NcclLibrary& nccl() { return *OpenedLibrary<NcclLibrary>::get().library; }

std::string nccl_version() {
  int version = 0;
  if (!nccl_missing().empty() || nccl().ncclGetVersion(&version) != NcclResult::success) return "";
  // 2708 was 2.7.8; from 2.9 on it is 20900.
  const int major = version < 10000 ? version / 1000 : version / 10000;
  return fmt::format("{}.{}.{}", major, version / 100 % (version < 10000 ? 10 : 100), version % 100);
}

}  // namespace rondo::cuda
