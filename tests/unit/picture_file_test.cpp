#include <gtest/gtest.h>

#include "io/output_file.h"
#include "io/png.h"
#include "rondo/error.h"
#include "support/paths.h"

namespace rondo::test {
namespace {

TEST(Png, PictureAndTextsComeBack) {
  const TemporaryFolder folder;
  const std::string path = folder.path() / "a.png";
  Image image{3, 2, {}};
  for (std::uint8_t i = 0; i < 18; ++i) image.pixels.push_back(static_cast<std::uint8_t>(i * 13));
  const std::string text = "{\"prompt\": \"naïve 🚀\"}\n" + std::string(100'000, 'x');
  write_output(path, encode_png(image, {{"rondo", text}, {"Software", "Rondo"}}));
  const Image back = read_png(path);
  EXPECT_EQ(back.width, 3);
  EXPECT_EQ(back.height, 2);
  EXPECT_EQ(back.pixels, image.pixels);
  EXPECT_EQ(read_png_texts(path).at("rondo"), text);
}

TEST(Png, DamagedFilesAreRefused) {
  const TemporaryFolder folder;
  const std::string path = folder.path() / "a.png";
  const Image image{4, 4, std::vector<std::uint8_t>(48, 7)};
  const std::vector<std::byte> good = encode_png(image, {{"rondo", "{}"}});
  EXPECT_THROW(read_png(path), FileError);
  for (std::size_t size = 0; size < good.size(); size += 3) {
    write_output(path, std::span(good).first(size));
    EXPECT_THROW(read_png(path), FileError) << size;
  }
  for (std::size_t at = 0; at < good.size(); ++at) {  // a flipped byte never crashes; most are noticed
    std::vector<std::byte> bad = good;
    bad[at] ^= std::byte{0x40};
    write_output(path, bad);
    try {
      read_png(path);
      read_png_texts(path);
    } catch (const FileError&) {
    }
  }
}

}  // namespace
}  // namespace rondo::test
