#include "io/exif.h"

#include <cstdint>
#include <cstring>

namespace rondo {
namespace {

constexpr std::uint16_t kSoftware = 0x0131;
constexpr std::uint16_t kExifDirectory = 0x8769;
constexpr std::uint16_t kUserComment = 0x9286;
constexpr std::uint16_t kAscii = 2;
constexpr std::uint16_t kLong = 4;
constexpr std::uint16_t kUndefined = 7;
constexpr std::string_view kAsciiCode("ASCII\0\0\0", 8);
constexpr std::size_t kEntryBytes = 12;

void append(std::string& text, std::uint32_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i) & 0xffU);
}

/// One entry of a directory; its value lies in it or `value` bytes behind the start.
void append_entry(std::string& text, std::uint16_t tag, std::uint16_t type, std::size_t count, std::size_t value) {
  append(text, tag, 2);
  append(text, type, 2);
  append(text, static_cast<std::uint32_t>(count), 4);
  append(text, static_cast<std::uint32_t>(value), 4);
}

/// Numbers of a structure in its byte order; 0 outside it.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {
    big_ = bytes.size() >= 2 && bytes[0] == std::byte{'M'};
  }
  bool is_tiff() const { return bytes_.size() >= 8 && bytes_[0] == bytes_[1] && number(2, 2) == 42; }
  std::uint32_t number(std::size_t at, std::size_t size) const {
    std::uint32_t value = 0;
    if (at + size > bytes_.size()) return 0;
    for (std::size_t i = 0; i < size; ++i)
      value = value << 8U | std::to_integer<std::uint32_t>(bytes_[at + (big_ ? i : size - 1 - i)]);
    return value;
  }
  /// Where the entry of a tag begins in the directory at `at`; 0 where there is none.
  std::size_t entry(std::size_t at, std::uint16_t tag) const {
    const std::size_t count = number(at, 2);
    for (std::size_t i = 0; i < count && at + 2 + (i + 1) * kEntryBytes <= bytes_.size(); ++i) {
      const std::size_t here = at + 2 + i * kEntryBytes;
      if (number(here, 2) == tag) return here;
    }
    return 0;
  }
  std::string_view text(std::size_t at, std::size_t size) const {
    if (at > bytes_.size() || size > bytes_.size() - at) return {};
    return {reinterpret_cast<const char*>(bytes_.data()) + at, size};
  }

 private:
  std::span<const std::byte> bytes_;
  bool big_ = false;
};

}  // namespace

std::vector<std::byte> encode_exif(std::string_view software, std::string_view comment) {
  constexpr std::size_t kHeader = 8;
  constexpr std::size_t kFirst = 2 + 2 * kEntryBytes + 4;  // a directory: how many, the entries, where the next is
  constexpr std::size_t kSecond = 2 + kEntryBytes + 4;
  const std::size_t software_at = kHeader + kFirst + kSecond;
  const std::size_t comment_at = software_at + software.size() + 1;
  std::string text("II*\0", 4);
  append(text, kHeader, 4);
  append(text, 2, 2);
  append_entry(text, kSoftware, kAscii, software.size() + 1, software_at);
  append_entry(text, kExifDirectory, kLong, 1, kHeader + kFirst);
  append(text, 0, 4);
  append(text, 1, 2);
  append_entry(text, kUserComment, kUndefined, kAsciiCode.size() + comment.size(), comment_at);
  append(text, 0, 4);
  text += software;
  text += '\0';
  text += kAsciiCode;
  text += comment;
  std::vector<std::byte> bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

std::optional<std::string> read_exif_comment(std::span<const std::byte> exif) {
  const Reader reader(exif);
  if (!reader.is_tiff()) return std::nullopt;
  const std::size_t directory = reader.entry(reader.number(4, 4), kExifDirectory);
  if (directory == 0) return std::nullopt;
  const std::size_t entry = reader.entry(reader.number(directory + 8, 4), kUserComment);
  if (entry == 0) return std::nullopt;
  const std::string_view value = reader.text(reader.number(entry + 8, 4), reader.number(entry + 4, 4));
  if (!value.starts_with(kAsciiCode)) return std::nullopt;
  return std::string(value.substr(kAsciiCode.size()));
}

}  // namespace rondo
