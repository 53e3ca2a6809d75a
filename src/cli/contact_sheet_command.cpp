#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "cli/commands.h"
#include "cli/output_names.h"
#include "cli/run_flags.h"
#include "io/output_file.h"
#include "io/picture_file.h"

namespace rondo::cli {
namespace {

struct SheetFlags {
  std::vector<std::string> pictures;
  std::optional<std::string> output;
  std::optional<std::string> columns;
  std::optional<std::string> zoom;
};

/// Copies `picture`, each pixel as a square of `zoom`, into the sheet with its corner at (left, top).
void paste(Image& sheet, const Image& picture, int left, int top, int zoom) {
  for (int y = 0; y < picture.height * zoom; ++y) {
    for (int x = 0; x < picture.width * zoom; ++x) {
      const std::size_t source = (static_cast<std::size_t>(y / zoom) * static_cast<std::size_t>(picture.width) +
                                  static_cast<std::size_t>(x / zoom)) *
                                 3;
      const std::size_t target = (static_cast<std::size_t>(top + y) * static_cast<std::size_t>(sheet.width) +
                                  static_cast<std::size_t>(left + x)) *
                                 3;
      std::copy_n(&picture.pixels[source], 3, &sheet.pixels[target]);
    }
  }
}

void run(const SheetFlags& flags) {
  constexpr int kGap = 4;
  constexpr std::int64_t kMostPixels = 1 << 28;
  const std::int64_t columns = parse_integer("--columns", flags.columns.value_or("4"));
  const std::int64_t zoom = parse_integer("--zoom", flags.zoom.value_or("1"));
  if (columns < 1 || columns > 1000)
    throw UsageError(fmt::format("--columns: {} is given; allowed is 1 to 1000", columns));
  if (zoom < 1 || zoom > 64) throw UsageError(fmt::format("--zoom: {} is given; allowed is 1 to 64", zoom));
  const std::string output = flags.output.value_or("contact-sheet.png");
  if (output != "-") check_picture_name(output);
  check_output(output);

  std::vector<Image> pictures;
  int width = 0;
  int height = 0;
  for (const std::string& path : flags.pictures) {
    pictures.push_back(read_picture(path));
    width = std::max(width, pictures.back().width);
    height = std::max(height, pictures.back().height);
  }
  const auto across = static_cast<int>(std::min<std::int64_t>(columns, static_cast<std::int64_t>(pictures.size())));
  const int down = (static_cast<int>(pictures.size()) + across - 1) / across;
  const std::int64_t cell_width = width * zoom + kGap;
  const std::int64_t cell_height = height * zoom + kGap;
  if ((across * cell_width + kGap) * (down * cell_height + kGap) > kMostPixels) {
    throw UsageError(fmt::format("--zoom: {} makes the sheet larger than {} pixels", zoom, kMostPixels));
  }
  Image sheet{static_cast<int>(across * cell_width + kGap), static_cast<int>(down * cell_height + kGap), {}};
  sheet.pixels.assign(static_cast<std::size_t>(sheet.width) * static_cast<std::size_t>(sheet.height) * 3, 255);
  for (std::size_t i = 0; i < pictures.size(); ++i) {
    const auto at = static_cast<int>(i);
    paste(sheet, pictures[i], kGap + at % across * static_cast<int>(cell_width),
          kGap + at / across * static_cast<int>(cell_height), static_cast<int>(zoom));
  }
  check_picture(picture_format(output), sheet.width, sheet.height, std::nullopt);
  constexpr int kQuality = 90;
  write_output(output, encode_picture(sheet, picture_format(output), kQuality, std::nullopt));
  if (output != "-") fmt::print("{}\n", output);
}

}  // namespace

void add_contact_sheet_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("contact-sheet", "Put pictures side by side into one");
  auto flags = std::make_shared<SheetFlags>();
  command->add_option("pictures", flags->pictures, "PNG, JPEG or WebP files")->required();
  add_value(*command, "-o,--output", flags->output, "the sheet's file (default contact-sheet.png)");
  add_value(*command, "--columns", flags->columns, "pictures a row (default 4)");
  add_value(*command, "--zoom", flags->zoom, "draw each pixel as a square this wide (default 1)");
  command->callback([flags] { run(*flags); });
}

}  // namespace rondo::cli
