#include "io/png.h"

#include <fmt/format.h>
#include <png.h>

#include <cstdio>
#include <memory>

#include "io/picture_limits.h"
#include "rondo/error.h"

namespace rondo {
namespace {

/// libpng reports errors through a function that must not return. Exceptions may cross it: Debian builds it with unwind
/// tables, and nothing of libpng's lies on the stack that would need more than png_destroy_*_struct.
[[noreturn]] void throw_png_error(png_structp png, png_const_charp /*message*/) {
  const auto* source = static_cast<const std::string*>(png_get_error_ptr(png));
  throw FileError(fmt::format("{}: is no PNG, or a damaged one", *source));
}

void ignore_png_warning(png_structp /*png*/, png_const_charp /*message*/) {}

class PngWriter {
 public:
  explicit PngWriter(const std::string& source)
      : png_(png_create_write_struct(PNG_LIBPNG_VER_STRING, const_cast<std::string*>(&source), throw_png_error,
                                     ignore_png_warning)),
        info_(png_create_info_struct(png_)) {}
  ~PngWriter() { png_destroy_write_struct(&png_, &info_); }
  PngWriter(const PngWriter&) = delete;
  PngWriter& operator=(const PngWriter&) = delete;
  png_structp png() const { return png_; }
  png_infop info() const { return info_; }

 private:
  png_structp png_;
  png_infop info_;
};

class PngReader {
 public:
  explicit PngReader(const std::filesystem::path& path)
      : source_(path.string()),
        file_(std::fopen(path.c_str(), "rb"), &std::fclose),
        png_(png_create_read_struct(PNG_LIBPNG_VER_STRING, &source_, throw_png_error, ignore_png_warning)),
        info_(png_create_info_struct(png_)) {
    if (file_ == nullptr) {
      png_destroy_read_struct(&png_, &info_, nullptr);
      throw FileError(fmt::format("{}: cannot be opened", source_));
    }
    png_init_io(png_, file_.get());
    png_set_user_limits(png_, 1 << 16, 1 << 16);
    png_set_chunk_malloc_max(png_, 16 << 20);
    png_set_chunk_cache_max(png_, 64);
  }
  ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;
  png_structp png() const { return png_; }
  png_infop info() const { return info_; }

 private:
  std::string source_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  png_structp png_;
  png_infop info_;
};

}  // namespace

std::vector<std::byte> encode_png(const Image& image, const std::map<std::string, std::string>& texts) {
  const std::string source = "picture";
  std::vector<std::byte> bytes;
  const PngWriter writer(source);
  png_set_write_fn(
      writer.png(), &bytes,
      [](png_structp png, png_bytep data, std::size_t size) {
        auto* target = static_cast<std::vector<std::byte>*>(png_get_io_ptr(png));
        const auto* begin = reinterpret_cast<const std::byte*>(data);
        target->insert(target->end(), begin, begin + size);
      },
      nullptr);
  png_set_IHDR(writer.png(), writer.info(), static_cast<png_uint_32>(image.width),
               static_cast<png_uint_32>(image.height), 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  std::vector<png_text> chunks;
  for (const auto& [key, text] : texts) {
    png_text chunk{};
    chunk.compression = PNG_ITXT_COMPRESSION_NONE;
    chunk.key = const_cast<char*>(key.c_str());
    chunk.text = const_cast<char*>(text.c_str());
    chunks.push_back(chunk);
  }
  png_set_text(writer.png(), writer.info(), chunks.data(), static_cast<int>(chunks.size()));
  png_write_info(writer.png(), writer.info());
  const std::size_t stride = static_cast<std::size_t>(image.width) * 3;
  for (int y = 0; y < image.height; ++y)
    png_write_row(writer.png(), image.pixels.data() + static_cast<std::size_t>(y) * stride);
  png_write_end(writer.png(), writer.info());
  return bytes;
}

std::map<std::string, std::string> read_png_texts(const std::filesystem::path& path) {
  const PngReader reader(path);
  png_read_info(reader.png(), reader.info());
  png_textp chunks = nullptr;
  int count = 0;
  png_get_text(reader.png(), reader.info(), &chunks, &count);
  std::map<std::string, std::string> texts;
  for (int i = 0; i < count; ++i) texts.emplace(chunks[i].key, chunks[i].text == nullptr ? "" : chunks[i].text);
  return texts;
}

Image read_png(const std::filesystem::path& path) {
  const PngReader reader(path);
  png_read_info(reader.png(), reader.info());
  png_set_expand(reader.png());
  png_set_scale_16(reader.png());
  png_set_strip_alpha(reader.png());
  png_set_gray_to_rgb(reader.png());
  png_set_interlace_handling(reader.png());
  png_read_update_info(reader.png(), reader.info());
  Image image;
  image.width = static_cast<int>(png_get_image_width(reader.png(), reader.info()));
  image.height = static_cast<int>(png_get_image_height(reader.png(), reader.info()));
  check_picture_size(image.width, image.height, path.string());
  const std::size_t stride = static_cast<std::size_t>(image.width) * 3;
  if (png_get_rowbytes(reader.png(), reader.info()) != stride)
    throw FileError(path.string() + ": PNG: cannot be read as RGB");
  image.pixels.resize(stride * static_cast<std::size_t>(image.height));
  std::vector<png_bytep> rows;
  for (int y = 0; y < image.height; ++y) rows.push_back(image.pixels.data() + static_cast<std::size_t>(y) * stride);
  png_read_image(reader.png(), rows.data());
  png_read_end(reader.png(), nullptr);  // checks the file to its end
  return image;
}

}  // namespace rondo
