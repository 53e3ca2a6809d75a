#include "io/jpeg.h"

#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

// Behind <cstdio>, whose types it uses without including it.
#include <jpeglib.h>

#include "core/text.h"
#include "io/picture_limits.h"
#include "rondo/error.h"

namespace rondo {
namespace {

constexpr int kExifMarker = JPEG_APP0 + 1;
constexpr char kExifHead[] = "Exif\0";  // and the literal's own zero

/// libjpeg reports errors through a function that must not return. Exceptions may cross it, as they may libpng.
struct ErrorManager {
  jpeg_error_mgr manager{};
  const std::string* source = nullptr;
};

[[noreturn]] void throw_jpeg_error(j_common_ptr jpeg) {
  const auto* errors = reinterpret_cast<const ErrorManager*>(jpeg->err);
  std::array<char, JMSG_LENGTH_MAX> reason{};
  jpeg->err->format_message(jpeg, reason.data());
  throw FileError(fmt::format("{}: is no JPEG that can be read: {}", *errors->source, printable(reason.data())));
}

/// libjpeg goes on over damage with a warning; here that is an error at once, or a file could warn for hours.
void refuse_warnings(j_common_ptr jpeg, int level) {
  if (level < 0) throw_jpeg_error(jpeg);
}

/// A progressive file may go over its picture as often as it says: ordinary ones do so some ten times.
void limit_scans(j_common_ptr jpeg) {
  constexpr int kMostScans = 200;
  if (jpeg->is_decompressor == 0 || reinterpret_cast<j_decompress_ptr>(jpeg)->input_scan_number <= kMostScans) return;
  const auto* errors = reinterpret_cast<const ErrorManager*>(jpeg->err);
  throw FileError(fmt::format("{}: has more than {} scans", *errors->source, kMostScans));
}

jpeg_error_mgr* prepare(ErrorManager& errors, const std::string& source) {
  jpeg_std_error(&errors.manager);
  errors.manager.error_exit = throw_jpeg_error;
  errors.manager.emit_message = refuse_warnings;
  errors.manager.output_message = [](j_common_ptr) {};
  errors.source = &source;
  return &errors.manager;
}

class Reader {
 public:
  Reader(std::span<const std::byte> file, const std::string& source) : source_(source) {
    jpeg_.err = prepare(errors_, source_);
    jpeg_create_decompress(&jpeg_);
    progress_.progress_monitor = limit_scans;
    jpeg_.progress = &progress_;
    jpeg_mem_src(&jpeg_, reinterpret_cast<const unsigned char*>(file.data()), file.size());
  }
  ~Reader() { jpeg_destroy_decompress(&jpeg_); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  jpeg_decompress_struct& get() { return jpeg_; }

 private:
  const std::string& source_;
  ErrorManager errors_;
  jpeg_progress_mgr progress_{};
  jpeg_decompress_struct jpeg_{};
};

class Writer {
 public:
  explicit Writer(const std::string& source) {
    jpeg_.err = prepare(errors_, source);
    jpeg_create_compress(&jpeg_);
    jpeg_mem_dest(&jpeg_, &bytes_, &size_);
  }
  ~Writer() {
    jpeg_destroy_compress(&jpeg_);
    std::free(bytes_);  // NOLINT(cppcoreguidelines-no-malloc): libjpeg's
  }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  jpeg_compress_struct& get() { return jpeg_; }
  std::span<const std::byte> bytes() const { return {reinterpret_cast<const std::byte*>(bytes_), size_}; }

 private:
  ErrorManager errors_;
  unsigned char* bytes_ = nullptr;
  unsigned long size_ = 0;
  jpeg_compress_struct jpeg_{};
};

}  // namespace

std::vector<std::byte> encode_jpeg(const Image& image, int quality, std::span<const std::byte> exif) {
  if (exif.size() > kMostJpegExifBytes) {
    throw InvalidArgument(
        fmt::format("jpeg: {} bytes of metadata are given; allowed are up to {}", exif.size(), kMostJpegExifBytes));
  }
  const std::string source = "picture";
  Writer writer(source);
  jpeg_compress_struct& jpeg = writer.get();
  jpeg.image_width = static_cast<JDIMENSION>(image.width);
  jpeg.image_height = static_cast<JDIMENSION>(image.height);
  jpeg.input_components = 3;
  jpeg.in_color_space = JCS_RGB;
  jpeg_set_defaults(&jpeg);
  jpeg_set_quality(&jpeg, quality, TRUE);
  jpeg.optimize_coding = TRUE;
  constexpr int kFullColour = 90;
  if (quality >= kFullColour) jpeg.comp_info[0].h_samp_factor = jpeg.comp_info[0].v_samp_factor = 1;
  // Exif stands directly behind the start, in place of the JFIF header.
  if (!exif.empty()) jpeg.write_JFIF_header = FALSE;
  jpeg_start_compress(&jpeg, TRUE);
  if (!exif.empty()) {
    std::vector<unsigned char> marker(sizeof kExifHead + exif.size());
    std::memcpy(marker.data(), kExifHead, sizeof kExifHead);
    std::memcpy(marker.data() + sizeof kExifHead, exif.data(), exif.size());
    jpeg_write_marker(&jpeg, kExifMarker, marker.data(), static_cast<unsigned>(marker.size()));
  }
  const std::size_t stride = static_cast<std::size_t>(image.width) * 3;
  while (jpeg.next_scanline < jpeg.image_height) {
    auto* row = const_cast<JSAMPROW>(image.pixels.data() + jpeg.next_scanline * stride);
    jpeg_write_scanlines(&jpeg, &row, 1);
  }
  jpeg_finish_compress(&jpeg);
  return {writer.bytes().begin(), writer.bytes().end()};
}

std::vector<std::byte> read_jpeg_exif(std::span<const std::byte> file, const std::string& source) {
  Reader reader(file, source);
  constexpr unsigned kWhole = 0xffff;
  jpeg_save_markers(&reader.get(), kExifMarker, kWhole);
  jpeg_read_header(&reader.get(), TRUE);
  for (const jpeg_marker_struct* marker = reader.get().marker_list; marker != nullptr; marker = marker->next) {
    const bool is_exif =
        marker->data_length > sizeof kExifHead && std::memcmp(marker->data, kExifHead, sizeof kExifHead) == 0;
    if (marker->marker != kExifMarker || !is_exif) continue;
    const auto* begin = reinterpret_cast<const std::byte*>(marker->data);
    return {begin + sizeof kExifHead, begin + marker->data_length};
  }
  return {};
}

Image decode_jpeg(std::span<const std::byte> file, const std::string& source) {
  Reader reader(file, source);
  jpeg_decompress_struct& jpeg = reader.get();
  jpeg_read_header(&jpeg, TRUE);
  check_picture_size(jpeg.image_width, jpeg.image_height, source);
  jpeg.out_color_space = JCS_RGB;
  jpeg_start_decompress(&jpeg);
  Image image{static_cast<int>(jpeg.output_width), static_cast<int>(jpeg.output_height), {}};
  const std::size_t stride = static_cast<std::size_t>(image.width) * 3;
  image.pixels.resize(stride * static_cast<std::size_t>(image.height));
  while (jpeg.output_scanline < jpeg.output_height) {
    JSAMPROW row = image.pixels.data() + jpeg.output_scanline * stride;
    jpeg_read_scanlines(&jpeg, &row, 1);
  }
  jpeg_finish_decompress(&jpeg);
  return image;
}

}  // namespace rondo
