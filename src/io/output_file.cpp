#include "io/output_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "io/file_writer.h"
#include "rondo/error.h"

namespace rondo {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const std::string& path, const char* what) {
  throw FileError(fmt::format("{}: {}: {}", path, what, std::strerror(errno)));
}

fs::path folder_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

/// The file that a chain of symbolic links ends at, so that a rename replaces the target and not the link. The target
/// need not exist.
fs::path resolve(fs::path path) {
  std::error_code error;
  constexpr int kLongestChain = 40;  // as the kernel's own limit
  for (int i = 0; fs::is_symlink(path, error); ++i) {
    if (i == kLongestChain) throw FileError(fmt::format("{}: is a loop of symbolic links", path.string()));
    const fs::path next = fs::read_symlink(path, error);
    path = next.is_absolute() ? next : folder_of(path) / next;
  }
  return path;
}

bool is_written_by_rename(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  return !fs::exists(status) || fs::is_regular_file(status);
}

void write_by_rename(const std::string& path, std::span<const std::byte> bytes) {
  const fs::path target = resolve(path);
  // A new file of an unforeseeable name: nobody can have put a link there.
  std::string temporary = (folder_of(target) / ".rondo-XXXXXX").string();
  FileWriter file(mkostemp(temporary.data(), O_CLOEXEC), path);
  if (file.descriptor() < 0) fail(path, "cannot be created");
  try {
    file.write(bytes);
    const mode_t mask = umask(0);
    umask(mask);
    struct stat old {};
    const bool replaces = stat(target.c_str(), &old) == 0;
    if (fchmod(file.descriptor(), replaces ? old.st_mode & 07777 : 0666 & ~mask) != 0) file.fail();
    file.finish();
    if (rename(temporary.c_str(), target.c_str()) != 0) file.fail();
  } catch (...) {
    unlink(temporary.c_str());
    throw;
  }
}

}  // namespace

void check_output(const std::string& path) {
  if (path == "-") return;
  if (path.empty()) throw FileError("output: the name is empty; allowed is a file name, or - for stdout");
  const fs::path target = resolve(path);
  std::error_code error;
  if (fs::is_directory(target, error) || path.back() == '/')
    throw FileError(fmt::format("{}: is a folder; a file is needed", path));
  const bool by_rename = is_written_by_rename(target);
  const fs::path folder = folder_of(target);
  if (!fs::is_directory(folder, error))
    throw FileError(fmt::format("{}: the folder {} does not exist", path, folder.string()));
  if (fs::exists(target, error) && access(target.c_str(), W_OK) != 0) fail(path, "cannot be written");
  if (by_rename && access(folder.c_str(), W_OK | X_OK) != 0) fail(path, "its folder cannot be written");
  if (target.filename().string().size() > 255)
    throw FileError(fmt::format("{}: the name is longer than 255 bytes", path));
}

void write_output(const std::string& path, std::span<const std::byte> bytes) {
  if (path == "-") {
    const int copy = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) fail("standard output", "cannot be written");
    FileWriter(copy, "standard output").write(bytes);
    return;
  }
  if (is_written_by_rename(path)) {
    write_by_rename(path, bytes);
    return;
  }
  FileWriter file(open(path.c_str(), O_WRONLY | O_CLOEXEC), path);
  if (file.descriptor() < 0) fail(path, "cannot be opened");
  file.write(bytes);
  file.finish();
}

void write_output(const std::string& path, std::string_view text) {
  write_output(path, std::as_bytes(std::span(text)));
}

}  // namespace rondo
