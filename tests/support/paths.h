// Where tests find their data, and folders of their own to write to.
#pragma once

#include <filesystem>
#include <string>

namespace rondo::test {

std::filesystem::path data_folder();
std::filesystem::path emoji_folder();

/// A new folder under the system's temporary one, removed with everything in it at the end.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

void write_file(const std::filesystem::path& path, const std::string& bytes);

}  // namespace rondo::test
