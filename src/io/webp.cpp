#include "io/webp.h"

#include <fmt/format.h>
#include <webp/decode.h>
#include <webp/encode.h>
#include <webp/mux.h>

#include <memory>
#include <new>

#include "io/picture_limits.h"
#include "rondo/error.h"

namespace rondo {
namespace {

using Mux = std::unique_ptr<WebPMux, decltype(&WebPMuxDelete)>;

/// Bytes that libwebp allocated.
struct Bytes {
  WebPData data{nullptr, 0};
  Bytes() = default;
  ~Bytes() { WebPDataClear(&data); }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
};

WebPData view_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()};
}

std::vector<std::byte> copy_of(const WebPData& data) {
  const auto* begin = reinterpret_cast<const std::byte*>(data.bytes);
  return {begin, begin + data.size};
}

constexpr int kCopyData = 1;

}  // namespace

std::vector<std::byte> encode_webp(const Image& image, int quality, std::span<const std::byte> exif) {
  if (image.width > kLongestWebpSide || image.height > kLongestWebpSide) {
    throw InvalidArgument(fmt::format("webp: a picture of {} x {} is given; allowed are sides of up to {}", image.width,
                                      image.height, kLongestWebpSide));
  }
  Bytes picture;
  std::uint8_t* encoded = nullptr;
  picture.data.size = WebPEncodeRGB(image.pixels.data(), image.width, image.height, image.width * 3,
                                    static_cast<float>(quality), &encoded);
  picture.data.bytes = encoded;
  if (picture.data.size == 0) throw std::bad_alloc();
  if (exif.empty()) return copy_of(picture.data);
  const Mux mux(WebPMuxCreate(&picture.data, kCopyData), &WebPMuxDelete);
  const WebPData metadata = view_of(exif);
  Bytes whole;
  const bool done = mux != nullptr && WebPMuxSetChunk(mux.get(), "EXIF", &metadata, kCopyData) == WEBP_MUX_OK &&
                    WebPMuxAssemble(mux.get(), &whole.data) == WEBP_MUX_OK;
  if (!done) throw std::bad_alloc();
  return copy_of(whole.data);
}

std::vector<std::byte> read_webp_exif(std::span<const std::byte> file, const std::string& source) {
  const WebPData data = view_of(file);
  const Mux mux(WebPMuxCreate(&data, kCopyData), &WebPMuxDelete);
  if (mux == nullptr) throw FileError(fmt::format("{}: is no WebP, or a damaged one", source));
  WebPData exif{nullptr, 0};
  if (WebPMuxGetChunk(mux.get(), "EXIF", &exif) != WEBP_MUX_OK) return {};
  return copy_of(exif);
}

Image decode_webp(std::span<const std::byte> file, const std::string& source) {
  const WebPData data = view_of(file);
  WebPBitstreamFeatures features{};
  if (WebPGetFeatures(data.bytes, data.size, &features) != VP8_STATUS_OK)
    throw FileError(fmt::format("{}: is no WebP, or a damaged one", source));
  if (features.has_animation != 0) throw FileError(fmt::format("{}: is an animation; a picture is needed", source));
  check_picture_size(features.width, features.height, source);
  Image image{features.width, features.height, {}};
  const std::size_t stride = static_cast<std::size_t>(image.width) * 3;
  image.pixels.resize(stride * static_cast<std::size_t>(image.height));
  if (WebPDecodeRGBInto(data.bytes, data.size, image.pixels.data(), image.pixels.size(), static_cast<int>(stride)) ==
      nullptr)
    throw FileError(fmt::format("{}: is a damaged WebP", source));
  return image;
}

}  // namespace rondo
