#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <sstream>

#include "io/output_file.h"
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

}  // namespace
}  // namespace rondo::test
