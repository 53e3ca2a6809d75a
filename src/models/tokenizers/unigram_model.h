// A unigram tokenizer's model, from either of the two files that hold it.
#pragma once

#include <cstdint>
#include <filesystem>

#include "models/tokenizers/charsmap.h"
#include "models/tokenizers/unigram_segmenter.h"

namespace rondo {

struct UnigramModel {
  Charsmap charsmap;
  UnigramSegmenter segmenter;
};

/// SentencePiece's own file. Throws FileError.
UnigramModel read_sentencepiece(const std::filesystem::path& file);

/// A tokenizer.json as transformers writes it for T5: a Unigram model, Precompiled normalisation, words cut at white
/// space and marked (Metaspace), </s> behind the text. Throws FileError, naming the part that is otherwise.
UnigramModel read_unigram_json(const std::filesystem::path& file);

}  // namespace rondo
