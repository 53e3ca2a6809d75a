#include "io/file_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "rondo/error.h"

namespace rondo {
namespace {

[[noreturn]] void fail_with(const std::string& path, const char* what) {
  throw FileError(fmt::format("{}: {}: {}", path, what, std::strerror(errno)));
}

}  // namespace

FileWriter::FileWriter(const std::filesystem::path& path, std::string shown)
    : descriptor_(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)),
      shown_(shown.empty() ? path.string() : std::move(shown)) {
  if (descriptor_ < 0) fail_with(shown_, "cannot be created");
}

FileWriter::~FileWriter() {
  if (descriptor_ >= 0) close(descriptor_);
}

void FileWriter::fail() const { fail_with(shown_, "cannot be written"); }

void FileWriter::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail();
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void FileWriter::flush_to_disk() {
  if (fsync(descriptor_) != 0) fail();
}

void FileWriter::finish() {
  const int descriptor = descriptor_;
  descriptor_ = -1;
  if (close(descriptor) != 0) fail();
}

void copy_file(const std::filesystem::path& from, const std::filesystem::path& to, const std::string& shown) {
  constexpr std::size_t kChunk = std::size_t{1} << 20;
  struct Reader {
    int descriptor;
    ~Reader() {
      if (descriptor >= 0) close(descriptor);
    }
  };
  const Reader reader{open(from.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};  // a FIFO would wait for its writer
  if (reader.descriptor < 0) fail_with(from.string(), "cannot be opened");
  struct stat status {};
  if (fstat(reader.descriptor, &status) != 0 || !S_ISREG(status.st_mode))
    throw FileError(fmt::format("{}: is not a regular file", from.string()));
  FileWriter writer(to, shown);
  std::vector<std::byte> chunk(kChunk);
  while (true) {
    const ssize_t count = read(reader.descriptor, chunk.data(), chunk.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_with(from.string(), "cannot be read");
    if (count == 0) break;
    writer.write(chunk.data(), static_cast<std::size_t>(count));
  }
  writer.finish();
}

}  // namespace rondo
