#include "support/paths.h"

#include <cstdlib>
#include <fstream>
#include <stdexcept>

namespace rondo::test {

std::filesystem::path data_folder() { return RONDO_TEST_DATA; }
std::filesystem::path emoji_folder() { return std::filesystem::path(RONDO_MODELS) / "emoji"; }

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "rondo-test-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("cannot make a temporary folder");
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void write_file(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary);
  file << bytes;
}

}  // namespace rondo::test
