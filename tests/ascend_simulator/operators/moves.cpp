// Copies, casts and lookups.
#include <algorithm>

#include "operator.h"

namespace {

/// Rows by index, which CANN does not check.
void gather(const View& rows, const View& ids, const View& y, const std::string& call) {
  const std::vector<float> values = rows.floats();
  std::vector<float> result;
  for (const double id : ids.values()) {
    if (id < 0 || id >= static_cast<double>(rows.dims[0])) breach(call + ": an index is out of range");
    const auto begin = static_cast<std::ptrdiff_t>(id) * rows.dims[1];
    result.insert(result.end(), values.begin() + begin, values.begin() + begin + rows.dims[1]);
  }
  y.store(result);
}

}  // namespace

extern "C" {

int aclnnInplaceCopyGetWorkspaceSize(aclTensor* to, const aclTensor* from, WORKSPACE_AND_EXECUTOR) {
  const std::string broken = to != nullptr && from != nullptr
                                 ? rule(View(*from).broadcasts_to(to->dims),
                                        "the source does not broadcast to the target", !to->dims.empty(), "a scalar")
                                 : "";
  return plan("aclnnInplaceCopy", workspace_bytes, executor, {in(to, "selfRef", {}), in(from, "src", {})}, broken,
              [to = view_of(to), from = view_of(from)] { to.store(from.broadcast(to.dims).values()); });
}

int aclnnInplaceFillScalarGetWorkspaceSize(aclTensor* x, const aclScalar* value, WORKSPACE_AND_EXECUTOR) {
  if (value == nullptr) return kNullPointer;
  return plan("aclnnInplaceFillScalar", workspace_bytes, executor, {in(x, "selfRef", {})}, "",
              [x = view_of(x), value = value->value] {
                x.store(std::vector<double>(static_cast<std::size_t>(x.elements()), value));
              });
}

int aclnnCastGetWorkspaceSize(const aclTensor* x, Dtype dtype, aclTensor* y, WORKSPACE_AND_EXECUTOR) {
  const std::string broken = x != nullptr && y != nullptr ? rule(x->dims == y->dims, "shapes differ", y->dtype == dtype,
                                                                 "out has another dtype than was asked for")
                                                          : "";
  return plan("aclnnCast", workspace_bytes, executor, {in(x, "self", {}), in(y, "out", {})}, broken,
              [x = view_of(x), y = view_of(y)] { y.store(x.values()); });
}

int aclnnEmbeddingGetWorkspaceSize(const aclTensor* table, const aclTensor* ids, const aclTensor* y,
                                   WORKSPACE_AND_EXECUTOR) {
  std::string broken;
  if (table != nullptr && ids != nullptr && y != nullptr) {
    Dims wanted = ids->dims;
    if (table->dims.size() == 2) wanted.push_back(table->dims[1]);
    broken = rule(table->dims.size() == 2, "weight's rank", y->dims == wanted, "out's shape", y->dtype == table->dtype,
                  "dtypes differ");
  }
  return plan(
      "aclnnEmbedding", workspace_bytes, executor, {in(table, "weight"), in(ids, "indices", kIndices), dense(y, "out")},
      broken,
      [table = view_of(table), ids = view_of(ids), y = view_of(y)] { gather(table, ids, y, "aclnnEmbedding"); });
}

int aclnnIndexSelectGetWorkspaceSize(const aclTensor* x, std::int64_t axis, const aclTensor* index, aclTensor* y,
                                     WORKSPACE_AND_EXECUTOR) {
  std::string broken;
  if (x != nullptr && index != nullptr && y != nullptr) {
    broken =
        rule(axis == 0 && x->dims.size() == 2, "this simulator selects rows of matrices only", index->dims.size() == 1,
             "index's rank", x->dims.size() == 2 && y->dims == Dims{index->elements(), x->dims[1]}, "out's shape",
             x->dtype == y->dtype, "dtypes differ");
  }
  return plan("aclnnIndexSelect", workspace_bytes, executor,
              {in(x, "self"), in(index, "index", kIndices), dense(y, "out")}, broken,
              [x = view_of(x), index = view_of(index), y = view_of(y)] { gather(x, index, y, "aclnnIndexSelect"); });
}

}  // extern "C"

SECOND_PHASE(aclnnInplaceCopy)
SECOND_PHASE(aclnnInplaceFillScalar)
SECOND_PHASE(aclnnCast)
SECOND_PHASE(aclnnEmbedding)
SECOND_PHASE(aclnnIndexSelect)
