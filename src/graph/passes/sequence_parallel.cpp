#include "graph/passes/sequence_parallel.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "attention/attention_op.h"
#include "graph/builder.h"
#include "graph/passes/parallel_attention.h"
#include "graph/passes/parallel_pictures.h"
#include "ops/layout.h"

namespace rondo {
namespace {

std::size_t at(ValueId id) { return static_cast<std::size_t>(id); }

template <typename Op>
bool is(const Node& node) {
  return dynamic_cast<const Op*>(node.op.get()) != nullptr;
}

bool is_picture_operator(const Node& node) {
  return is<Conv2dOp>(node) || is<GroupNormOp>(node) || is<UpsampleNearestOp>(node);
}

/// The inputs [B, S, ...] whose tokens become attention's queries, and the pictures [B, H, W, C] of convolutions.
std::set<ValueId> sequence_inputs(const Graph& graph) {
  std::vector<bool> leads(graph.values.size(), false);
  std::set<ValueId> found;
  for (std::size_t i = graph.nodes.size(); i-- > 0;) {
    const Node& node = graph.nodes[i];
    const std::vector<TensorType> types = graph.input_types(node);
    if (is<AttentionOp>(node) || is<Conv2dOp>(node)) leads[at(node.inputs[0])] = true;
    if (!leads[at(node.outputs[0])] || is<AttentionOp>(node)) continue;
    if (is_picture_operator(node)) leads[at(node.inputs[0])] = true;
    const bool is_layout = is<ReshapeOp>(node) || is<SliceOp>(node) || is<ConcatOp>(node);
    for (std::size_t input = 0; input < node.inputs.size(); ++input) {
      const bool follows = is_layout ? types[input].shape.rank() >= 3
                                     : node.op->keeps_tokens() && node.op->token_axis(types, input) == std::size_t{1};
      if (follows) leads[at(node.inputs[input])] = true;
    }
  }
  for (const NamedValue& input : graph.inputs) {
    if (leads[at(input.value)] && graph.values[at(input.value)].type.shape.rank() >= 3) found.insert(input.value);
  }
  return found;
}

class SequenceSplitter {
 public:
  SequenceSplitter(const Graph& graph, const SequenceParallel& how, std::set<ValueId> split)
      : graph_(graph),
        how_(how),
        split_(std::move(split)),
        collectives_(b_, how),
        attention_(collectives_),
        pictures_(collectives_) {}

  Graph rewrite(PassResult& result) {
    local_.resize(graph_.values.size());
    for (const NamedValue& input : graph_.inputs) {
      const TensorType& type = graph_.values[at(input.value)].type;
      const ValueId whole = b_.input(input.name, type);
      if (split_.count(input.value) == 0) {
        local_[at(input.value)] = {whole, std::nullopt};
      } else {
        const TokenLayout layout{{{even_bounds(type.shape[1], how_.ranks()), static_cast<int>(input.value)}}};
        local_[at(input.value)] = {collectives_.keep_own_tokens(whole, 1, layout), layout};
        whole_[input.value] = whole;
      }
    }
    std::size_t segment = 0;
    for (std::size_t i = 0; i < graph_.nodes.size(); ++i) {
      for (; segment < graph_.segments.size() && graph_.segments[segment].begin <= static_cast<NodeId>(i); ++segment)
        b_.begin_segment(graph_.segments[segment].kind, graph_.segments[segment].index);
      rewrite(graph_.nodes[i], result);
    }
    for (const NamedValue& output : graph_.outputs) {
      if (const auto& layout = tokens_of(output.value)) {
        for (const TokenRun& run : layout->runs) output_sources_.insert(run.source);
      }
      b_.output(output.name, whole(output.value));
    }
    return b_.finish();
  }

  /// The inputs whose tokens the outputs hold.
  const std::set<ValueId>& output_sources() const { return output_sources_; }

 private:
  struct Local {
    ValueId id = -1;
    std::optional<TokenLayout> tokens;  // none: whole
  };

  const std::optional<TokenLayout>& tokens_of(ValueId id) const { return local_[at(id)].tokens; }

  /// The value in the new graph: weights and constants come along when they are first read.
  ValueId local(ValueId id) {
    if (local_[at(id)].id < 0) {
      const Value& value = graph_.values[at(id)];
      local_[at(id)].id = value.kind == ValueKind::constant ? b_.constant(value.constant)
                                                            : b_.weight(value.name, value.type.shape, value.type.dtype);
    }
    return local_[at(id)].id;
  }

  /// All tokens of it.
  ValueId whole(ValueId id) {
    if (!tokens_of(id)) return local(id);
    const auto [known, is_new] = whole_.emplace(id, -1);
    if (is_new) known->second = collectives_.gather_tokens(local(id), *tokens_of(id));
    return known->second;
  }

  /// This rank's tokens of it, which lie on `axis`.
  ValueId own(ValueId id, std::size_t axis, const TokenLayout& layout) {
    if (tokens_of(id) && axis == 1 && *tokens_of(id) == layout) return local(id);
    const auto [known, is_new] = own_.emplace(std::tuple(id, axis, layout.to_string()), -1);
    if (is_new) known->second = collectives_.keep_own_tokens(whole(id), axis, layout);
    return known->second;
  }

  void set(const Node& node, std::span<const ValueId> outputs, const std::optional<TokenLayout>& tokens) {
    for (std::size_t i = 0; i < outputs.size(); ++i) local_[at(node.outputs[i])] = {outputs[i], tokens};
  }
  void set(const Node& node, ValueId output, const TokenLayout& tokens) { set(node, std::array{output}, tokens); }

  void rewrite(const Node& node, PassResult& result) {
    const bool is_split =
        std::any_of(node.inputs.begin(), node.inputs.end(), [&](ValueId id) { return tokens_of(id).has_value(); });
    if (is_split && (rewrite_attention(node, result) || rewrite_slice(node) || rewrite_concat(node) ||
                     rewrite_reshape(node) || rewrite_picture(node) || rewrite_tokens(node))) {
      return;
    }
    if (is_split)
      result.miss(graph_, node.outputs[0],
                  fmt::format("{} mixes tokens: computed whole on every rank", node.op->name()));
    std::vector<ValueId> inputs;
    for (const ValueId id : node.inputs) inputs.push_back(whole(id));
    set(node, b_.add_all(node.op, inputs), std::nullopt);
  }

  bool rewrite_attention(const Node& node, PassResult& result) {
    const auto* op = dynamic_cast<const AttentionOp*>(node.op.get());
    if (op == nullptr || op->partial() || !tokens_of(node.inputs[0])) return false;
    const TokenLayout& layout = *tokens_of(node.inputs[0]);
    AttentionOperands operands{local(node.inputs[0]), -1, -1, std::nullopt};
    if (node.inputs.size() == 4) operands.mask = whole(node.inputs[3]);
    const auto shares = [&](ValueId id) { return tokens_of(id) == layout; };
    if (shares(node.inputs[1]) && shares(node.inputs[2])) {
      operands.key = local(node.inputs[1]);
      operands.value = local(node.inputs[2]);
      set(node, attention_.over_shared_tokens(*op, operands, layout), layout);
    } else {
      operands.key = whole(node.inputs[1]);
      operands.value = whole(node.inputs[2]);
      set(node, attention_.over_whole_keys(*op, operands, layout), layout);
    }
    result.matched(1, 1);
    return true;
  }

  bool rewrite_slice(const Node& node) {
    const auto* op = dynamic_cast<const SliceOp*>(node.op.get());
    if (op == nullptr) return false;
    const TokenLayout& layout = *tokens_of(node.inputs[0]);
    if (op->axis() != 1) {
      set(node, b_.add(node.op, {local(node.inputs[0])}), layout);
      return true;
    }
    // Whole runs only: a part of one would lie on some of the ranks.
    TokenLayout kept;
    std::int64_t before = 0;
    std::int64_t begin = 0;
    std::int64_t end = 0;
    for (const TokenRun& run : layout.runs) {
      const ElementRange held = run.held_by(how_.rank(), how_.rank() + 1);
      const bool inside = before >= op->begin() && before + run.tokens() <= op->end();
      if (inside) {
        kept.runs.push_back(run);
        end += held.end - held.begin;
      } else if (kept.runs.empty()) {
        begin += held.end - held.begin;
        end = begin;
      }
      before += run.tokens();
    }
    if (kept.tokens() != op->end() - op->begin()) return false;
    const bool is_split =
        std::any_of(kept.runs.begin(), kept.runs.end(), [](const TokenRun& r) { return r.is_split(); });
    const ValueId sliced = b_.apply<SliceOp>({local(node.inputs[0])}, 1, begin, end);
    set(node, std::array{sliced}, is_split ? std::optional(kept) : std::nullopt);
    return true;
  }

  bool rewrite_concat(const Node& node) {
    const auto* op = dynamic_cast<const ConcatOp*>(node.op.get());
    if (op == nullptr) return false;
    std::vector<ValueId> parts;
    TokenLayout joined;
    if (op->axis() == 1) {
      for (const ValueId id : node.inputs) {
        const TokenLayout layout =
            tokens_of(id) ? *tokens_of(id) : TokenLayout{{{{0, graph_.values[at(id)].type.shape[1]}, -1}}};
        joined.runs.insert(joined.runs.end(), layout.runs.begin(), layout.runs.end());
        parts.push_back(local(id));
      }
    } else {
      joined = *first_layout(node);
      for (const ValueId id : node.inputs) parts.push_back(own(id, 1, joined));
    }
    set(node, b_.add(node.op, parts), joined);
    return true;
  }

  bool rewrite_reshape(const Node& node) {
    if (!is<ReshapeOp>(node)) return false;
    const Shape& from = graph_.values[at(node.inputs[0])].type.shape;
    Shape to = graph_.values[at(node.outputs[0])].type.shape;
    TokenLayout layout = *tokens_of(node.inputs[0]);
    if (to.rank() < 2 || to[0] != from[0] || from[1] == 0) return false;
    // Rows of a picture become as many tokens as they are wide, and tokens rows again.
    for (TokenRun& run : layout.runs) {
      for (std::int64_t& bound : run.bounds) {
        if (bound * to[1] % from[1] != 0) return false;
        bound = bound * to[1] / from[1];
      }
    }
    if (to[1] != from[1] && to.elements() / (to[0] * to[1]) * layout.tokens() != from.elements() / from[0])
      return false;
    to[1] = layout.tokens_of(how_.rank(), how_.rank() + 1);
    set(node, b_.apply<ReshapeOp>({local(node.inputs[0])}, to), layout);
    return true;
  }

  bool rewrite_picture(const Node& node) {
    if (!tokens_of(node.inputs[0]) || !is_picture_operator(node)) return false;
    const SplitPicture x{local(node.inputs[0]), *tokens_of(node.inputs[0])};
    std::vector<ValueId> parameters;
    for (std::size_t i = 1; i < node.inputs.size(); ++i) parameters.push_back(whole(node.inputs[i]));
    std::optional<SplitPicture> result;
    if (const auto* conv = dynamic_cast<const Conv2dOp*>(node.op.get())) {
      result = pictures_.convolve(*conv, x, parameters);
    } else if (const auto* norm = dynamic_cast<const GroupNormOp*>(node.op.get())) {
      result = pictures_.normalize(*norm, x, parameters[0], parameters[1]);
    } else if (is<UpsampleNearestOp>(node)) {
      result = pictures_.upsample(x);
    }
    if (!result) return false;
    set(node, result->id, result->rows);
    return true;
  }

  bool rewrite_tokens(const Node& node) {
    if (!node.op->keeps_tokens()) return false;
    const std::vector<TensorType> types = graph_.input_types(node);
    const std::optional<TokenLayout> layout = first_layout(node);
    const Shape& shape = graph_.values[at(node.outputs[0])].type.shape;
    if (shape.rank() < 3 || shape[1] != layout->tokens()) return false;
    std::vector<ValueId> inputs;
    for (std::size_t i = 0; i < node.inputs.size(); ++i) {
      const auto axis = node.op->token_axis(types, i);
      inputs.push_back(axis ? own(node.inputs[i], *axis, *layout) : whole(node.inputs[i]));
    }
    set(node, b_.add_all(node.op, inputs), layout);
    return true;
  }

  std::optional<TokenLayout> first_layout(const Node& node) const {
    for (const ValueId id : node.inputs) {
      if (tokens_of(id)) return tokens_of(id);
    }
    return std::nullopt;
  }

  const Graph& graph_;
  const SequenceParallel& how_;
  std::set<ValueId> split_;
  GraphBuilder b_;
  CollectiveBuilder collectives_;
  ParallelAttentionBuilder attention_;
  ParallelPictures pictures_;
  std::vector<Local> local_;
  std::map<ValueId, ValueId> whole_;                                      // of split values
  std::map<std::tuple<ValueId, std::size_t, std::string>, ValueId> own_;  // of whole ones
  std::set<ValueId> output_sources_;
};

}  // namespace

PassResult parallelize_sequence(Graph& graph, const SequenceParallel& how) {
  PassResult result;
  const std::set<ValueId> inputs = sequence_inputs(graph);
  if (inputs.empty()) {
    result.near_misses.emplace_back("no input's tokens become attention's queries: every rank computes all");
    return result;
  }
  SequenceSplitter splitter(graph, how, inputs);
  Graph split = splitter.rewrite(result);
  if (how.replicates_text && !splitter.output_sources().empty() && splitter.output_sources() != inputs) {
    result = {};
    split = SequenceSplitter(graph, how, splitter.output_sources()).rewrite(result);
  }
  graph = std::move(split);
  return result;
}

}  // namespace rondo
