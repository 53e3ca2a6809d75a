// Git LFS pointers: the small text files that lie in place of weights where a model was cloned without git-lfs.
#pragma once

#include <string>
#include <string_view>

namespace rondo {

/// Throws FileError, with the number of bytes that are missing and the way to fetch them, where `content` is a pointer
/// (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md). `path` names the file.
void refuse_lfs_pointer(const std::string& path, std::string_view content);

}  // namespace rondo
