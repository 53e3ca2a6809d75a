#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <functional>
#include <sstream>

#include "io/file_writer.h"
#include "io/output_file.h"
#include "io/safetensors_writer.h"
#include "rondo/error.h"
#include "support/paths.h"

namespace rondo::test {
namespace {

std::span<const std::byte> bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

std::string read(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

TEST(OutputFile, WritesNewAndReplacesOld) {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "a.txt";
  for (const std::string text : {"one", "another one"}) {
    check_output(path);
    write_output(path, bytes(text));
    EXPECT_EQ(read(path), text);
  }
  std::size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder.path())) ++files;
  EXPECT_EQ(files, 1U) << "nothing temporary is left";
}

TEST(OutputFile, KeepsALinkAndWritesItsTarget) {
  const TemporaryFolder folder;
  write_file(folder.path() / "target", "old");
  std::filesystem::create_symlink("target", folder.path() / "link");
  write_output(folder.path() / "link", bytes("new"));
  EXPECT_TRUE(std::filesystem::is_symlink(folder.path() / "link"));
  EXPECT_EQ(read(folder.path() / "target"), "new");
}

TEST(OutputFile, ChecksBeforeWork) {
  const TemporaryFolder folder;
  EXPECT_NO_THROW(check_output("-"));
  EXPECT_NO_THROW(check_output("/dev/null"));
  EXPECT_THROW(check_output(""), FileError);
  EXPECT_THROW(check_output(folder.path()), FileError);
  EXPECT_THROW(check_output((folder.path() / "absent" / "a.png").string()), FileError);
  EXPECT_THROW(check_output((folder.path() / std::string(300, 'x')).string()), FileError);
  write_output("/dev/null", bytes("x"));
}

TEST(OutputFile, AFullDiskIsAnErrorAndLeavesNothing) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  EXPECT_THROW(write_output("/dev/full", bytes("x")), FileError);
}

TEST(FileWriter, NamesTheDestinationAndTheReason) {
  const TemporaryFolder folder;
  const auto failure = [](const std::function<void()>& work) -> std::string {
    try {
      work();
    } catch (const FileError& error) {
      return error.what();
    }
    return "";
  };
  write_file(folder.path() / "source", "text");
  EXPECT_EQ(failure([&] { copy_file(folder.path() / "source", folder.path() / "copy", "copy"); }), "");
  EXPECT_EQ(read(folder.path() / "copy"), "text");
  EXPECT_EQ(failure([&] { copy_file(folder.path() / "source", "/dev/full", "out/model"); }),
            "out/model: cannot be written: No space left on device");
  ASSERT_EQ(mkfifo((folder.path() / "fifo").c_str(), 0600), 0);
  for (const std::string& special : {(folder.path() / "fifo").string(), std::string("/dev/zero")})
    EXPECT_EQ(failure([&] { copy_file(special, folder.path() / "copy", "copy"); }),
              special + ": is not a regular file");
  EXPECT_EQ(failure([&] { copy_file(folder.path() / "absent", folder.path() / "copy", "copy"); }),
            (folder.path() / "absent").string() + ": cannot be opened: No such file or directory");
  EXPECT_EQ(failure([&] { FileWriter(folder.path() / "no" / "file").write("x", 1); }),
            (folder.path() / "no" / "file").string() + ": cannot be created: No such file or directory");
  EXPECT_EQ(failure([&] {
              write_safetensors(
                  "/dev/full", {{"a", DType::f32, {1}}},
                  [](const std::string&) { return Tensor::zeros({1}, DType::f32); }, {}, "q");
            }),
            "q: cannot be written: No space left on device");
}

}  // namespace
}  // namespace rondo::test
