// Any bytes as a safetensors header: refused, or every record lies inside the data.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "io/safetensors.h"
#include "rondo/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::size_t kDataBytes = 64;
  try {
    const auto records =
        rondo::parse_safetensors_header({reinterpret_cast<const char*>(data), size}, kDataBytes, "fuzz");
    for (const auto& [name, record] : records) {
      if (record.offset + record.bytes > kDataBytes) std::abort();
    }
  } catch (const rondo::FileError&) {
  }
  return 0;
}
