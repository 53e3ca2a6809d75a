#include "io/lfs_pointer.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdint>

#include "rondo/error.h"

namespace rondo {

void refuse_lfs_pointer(const std::string& path, std::string_view content) {
  constexpr std::string_view kVersionLine = "version https://git-lfs.github.com/spec/";
  constexpr std::string_view kSize = "\nsize ";
  constexpr std::size_t kLongestPointer = 1024;  // the specification's limit
  if (content.size() >= kLongestPointer || !content.starts_with(kVersionLine)) return;
  std::string missing = "its content is";
  if (const std::size_t at = content.find(kSize); at != std::string_view::npos) {
    const std::string_view number = content.substr(at + kSize.size());
    std::uint64_t bytes = 0;
    if (std::from_chars(number.data(), number.data() + number.size(), bytes).ec == std::errc())
      missing = fmt::format("{} bytes are", bytes);
  }
  throw FileError(fmt::format(
      "{}: is a Git LFS pointer, not the file: {} missing; run git lfs pull in the model's folder", path, missing));
}

}  // namespace rondo
