#include <gtest/gtest.h>

#include "io/exif.h"
#include "io/output_file.h"
#include "io/picture_file.h"
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

class PictureFile : public ::testing::TestWithParam<const char*> {
 protected:
  /// A smooth picture, which formats with loss keep.
  static Image picture() {
    Image image{40, 24, {}};
    for (int y = 0; y < image.height; ++y) {
      for (int x = 0; x < image.width; ++x) {
        for (const int value : {6 * x, 10 * y, 3 * (x + y)}) image.pixels.push_back(static_cast<std::uint8_t>(value));
      }
    }
    return image;
  }
  TemporaryFolder folder_;
};

TEST_P(PictureFile, PictureAndRequestComeBack) {
  const std::string path = folder_.path() / GetParam();
  const std::string request = R"({"prompt":"na\u00efve \ud83d\ude80 \"x\""})";
  const Image image = picture();
  write_output(path, encode_picture(image, picture_format(path), 95, request));
  EXPECT_EQ(read_picture_request(path), request);
  const Image back = read_picture(path);
  ASSERT_EQ(back.width, image.width);
  ASSERT_EQ(back.height, image.height);
  for (std::size_t i = 0; i < image.pixels.size(); ++i) EXPECT_NEAR(back.pixels[i], image.pixels[i], 12) << i;
  write_output(path, encode_picture(image, picture_format(path), 50, std::nullopt));
  EXPECT_EQ(read_picture_request(path), std::nullopt);
}

TEST_P(PictureFile, DamageIsRefusedOrHarmless) {
  const std::string path = folder_.path() / GetParam();
  const std::vector<std::byte> good = encode_picture(picture(), picture_format(path), 90, R"({"a":1})");
  const auto read_both = [&] {
    try {
      read_picture_request(path);
      read_picture(path);
    } catch (const FileError& error) {
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
      return false;
    }
    return true;
  };
  for (std::size_t size = 0; size < good.size(); size += 7) {
    write_output(path, std::span(good).first(size));
    EXPECT_FALSE(read_both()) << size;
  }
  for (std::size_t at = 0; at < good.size(); ++at) {
    std::vector<std::byte> bad = good;
    bad[at] ^= std::byte{0x40};
    write_output(path, bad);
    read_both();
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, PictureFile, ::testing::Values("a.png", "a.jpg", "a.webp"),
                         [](const auto& name) { return std::string(name.param).substr(2); });

/// Offsets of an Exif structure that point anywhere.
TEST(Exif, ReadsNothingOutside) {
  const std::vector<std::byte> good = encode_exif("Rondo", "rondo: {}");
  EXPECT_EQ(read_exif_comment(good), "rondo: {}");
  for (std::size_t size = 0; size < good.size(); ++size)
    EXPECT_FALSE(
        read_exif_comment(std::vector<std::byte>(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size))));
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (const int value : {0x00, 0x01, 0x7f, 0xff}) {
      std::vector<std::byte> bad = good;
      bad[at] = static_cast<std::byte>(value);
      read_exif_comment(bad);  // AddressSanitizer watches
    }
  }
}

}  // namespace
}  // namespace rondo::test
