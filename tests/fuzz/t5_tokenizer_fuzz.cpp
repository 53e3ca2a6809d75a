// Any UTF-8 as a prompt for T5's tokenizer: as many ids as asked for, all in the vocabulary.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "core/text.h"
#include "models/tokenizers/t5_tokenizer.h"
#include "support/paths.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const rondo::T5Tokenizer tokenizer = rondo::T5Tokenizer::load(rondo::test::emoji_folder() / "tokenizer_2");
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (!rondo::is_valid_utf8(text)) return 0;
  const auto ids = tokenizer.encode(text, 32).ids;
  if (ids.size() != 32) std::abort();
  for (const std::int32_t id : ids) {
    if (id < 0 || id > tokenizer.largest_id()) std::abort();
  }
  return 0;
}
