// The public ParallelAttention: a graph of one attention for each combination of shapes, kept with its session.
#include "rondo/parallel_attention.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <exception>
#include <list>

#include "core/threads.h"
#include "functional/dense_rows.h"
#include "graph/model.h"
#include "graph/passes/parallel_attention.h"
#include "graph/random_weights.h"
#include "graph/session.h"
#include "ops/elementwise.h"
#include "parallel/world.h"
#include "rondo/error.h"

namespace rondo {
namespace {

template <typename... Args>
void check(bool holds, fmt::format_string<Args...> message, Args&&... args) {
  if (!holds) throw InvalidArgument("parallel attention: " + fmt::format(message, std::forward<Args>(args)...));
}

void check_operand(const char* name, const Tensor& tensor, DType dtype) {
  check(tensor.defined() && tensor.shape().rank() == 4, "{} {} has not 4 axes", name,
        tensor.defined() ? tensor.shape().to_string() : "is missing:");
  check(tensor.device().is_cpu(), "{} is on {}; allowed is the CPU", name, to_string(tensor.device()));
  check(tensor.dtype() == dtype && is_floating(dtype) && dtype != DType::f8_e4m3,
        "{} is {}; allowed are float32, bfloat16 and float16, all alike", name, dtype_name(tensor.dtype()));
}

/// Any strides into rows of the same shape, which are dense.
void copy_into(const Tensor& strided, Tensor target) {
  const Tensor source = with_dense_rows(strided);
  const Shape& shape = source.shape();
  const std::size_t element = dtype_size(source.dtype());
  const auto at = [&](const Tensor& t, std::int64_t a, std::int64_t b, std::int64_t c) {
    const Shape& s = t.strides();
    return static_cast<std::size_t>(a * s[0] + b * s[1] + c * s[2]) * element;
  };
  for (std::int64_t a = 0; a < shape[0]; ++a) {
    for (std::int64_t b = 0; b < shape[1]; ++b) {
      for (std::int64_t c = 0; c < shape[2]; ++c) {
        const std::byte* from = source.as<std::byte>() + at(source, a, b, c);
        std::byte* to = target.as<std::byte>() + at(target, a, b, c);
        std::memcpy(to, from, static_cast<std::size_t>(shape[3]) * element);
      }
    }
  }
}

Tensor dense_copy(const Tensor& tensor) {
  Tensor copy = Tensor::empty(tensor.shape(), tensor.dtype());
  copy_into(tensor, copy);
  return copy;
}

/// What a call asks for, apart from its operands.
struct Call {
  double scale;
  bool causal;
  AttentionRequest request;
  int threads;
  bool returns_lse;
  bool packed = false;
  std::vector<AttentionSequence> sequences = {};

  std::int64_t packed_tokens() const {
    return sequences.empty() ? 0 : sequences.back().query_begin + sequences.back().queries;
  }
};

template <class Options>
Call call_of(const Options& options, std::int64_t head_dim) {
  check(options.threads >= 0 && options.threads <= 1024, "threads: {} is given; allowed is 0 to 1024", options.threads);
  check(!options.scale || std::isfinite(*options.scale), "scale: {} is given; allowed is a finite number",
        options.scale.value_or(0));
  AttentionRequest request{options.backend, options.opt_mode, options.tune};
  request.quantization = attention_quantization(options.kv_cache_dtype, options.rotate, options.smooth_k);
  return {options.scale.value_or(1.0 / std::sqrt(static_cast<double>(head_dim))), options.causal, std::move(request),
          available_threads(options.threads == 0 ? default_threads() : options.threads), options.return_lse};
}

}  // namespace

class ParallelAttention::Implementation {
 public:
  Implementation(std::shared_ptr<ParallelWorld> world, const ParallelOptions& options)
      : world_(std::move(world)),
        groups_(world_->implementation().communicator(), parallel_degrees(options, world_->size())),
        how_{groups_.degrees(), groups_.place(), false, options.ring_wire},
        model_(std::make_shared<const RandomWeights>(Graph{})) {}

  AttentionResult run(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& mask,
                      const Call& call) {
    // What is wrong on one rank is unlike the others' then, and all refuse it.
    const bool counts = query.defined() && query.shape().rank() == 4;
    const TokenLayout layout = layout_of(counts ? query.shape()[1] : 0, shared_text(query, key, value, mask, call));
    check_operand("query", query, query.defined() ? query.dtype() : DType::f32);
    check_operand("key", key, query.dtype());
    check_operand("value", value, query.dtype());
    if (mask.defined()) check_operand("mask", mask, mask.dtype());
    check(!call.packed || call.packed_tokens() == layout.tokens(), "cu_seqlens ends at {}; all ranks have {} tokens",
          call.packed_tokens(), layout.tokens());
    Session& session = session_of(query, key, value, mask, call, layout);
    try {
      return run_session(session, query, key, value, mask, call, layout);
    } catch (const CommunicationError&) {
      throw;
    } catch (const std::exception& error) {
      world_->fail(error.what());
      throw;
    }
  }

 private:
  AttentionResult run_session(Session& session, const Tensor& query, const Tensor& key, const Tensor& value,
                              const Tensor& mask, const Call& call, const TokenLayout& layout) {
    copy_into(query, session.input("query"));
    copy_into(key, session.input("key"));
    copy_into(value, session.input("value"));
    if (mask.defined()) copy_into(mask.to_float32(), session.input("mask"));
    RunContext context;
    if (how_.active()) context.sequence = &groups_.sequence();
    session.run(context);
    AttentionResult result{dense_copy(session.output("output")), {}};
    if (call.returns_lse) result.lse = lse_of_own_tokens(session, query, key, layout);
    return result;
  }

  /// The LSE of all heads over this rank's tokens, [B, N, S]: Ulysses' ranks exchange what each has of its heads over
  /// their tokens.
  Tensor lse_of_own_tokens(const Session& session, const Tensor& query, const Tensor& key, const TokenLayout& layout) {
    const std::int64_t batch = query.shape()[0];
    const int ranks = how_.degrees.ulysses;
    const int own = how_.place.ulysses;
    const HeadSplit heads = split_query_heads(query.shape()[2], key.shape()[2], ranks);
    std::vector<std::int64_t> tokens;  // of each rank of the group
    for (int rank = 0; rank < ranks; ++rank) {
      const int in_sequence = how_.first_of_ring(how_.place.ring) + rank;
      tokens.push_back(layout.tokens_of(in_sequence, in_sequence + 1));
    }
    const std::vector<NamedValue>& outputs = session.plan().graph().outputs;
    const bool has_some =
        std::any_of(outputs.begin(), outputs.end(), [](const NamedValue& o) { return o.name == "lse"; });
    const Tensor local = has_some ? session.output("lse").to(DType::f32) : Tensor();
    if (ranks == 1) return local.defined() ? local : Tensor::empty({batch, query.shape()[2], tokens[0]}, DType::f32);
    std::vector<float> sent;
    std::vector<std::size_t> sent_bytes;
    std::vector<std::size_t> received_bytes;
    std::int64_t begin = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      const std::int64_t count = tokens[static_cast<std::size_t>(rank)];
      sent_bytes.push_back(static_cast<std::size_t>(batch * heads.count(own) * count) * sizeof(float));
      received_bytes.push_back(
          static_cast<std::size_t>(batch * heads.count(rank) * tokens[static_cast<std::size_t>(own)]) * sizeof(float));
      const std::int64_t rows = local.defined() ? batch * heads.count(own) : 0;
      for (std::int64_t row = 0; row < rows; ++row) {
        const float* const first = local.as<float>() + row * local.shape()[2] + begin;
        sent.insert(sent.end(), first, first + count);
      }
      begin += count;
    }
    const std::int64_t mine = tokens[static_cast<std::size_t>(own)];
    std::vector<float> received(static_cast<std::size_t>(batch * query.shape()[2] * mine));
    groups_.ulysses().all_to_all(std::as_bytes(std::span(sent)), sent_bytes,
                                 std::as_writable_bytes(std::span(received)), received_bytes);
    Tensor lse = Tensor::empty({batch, query.shape()[2], mine}, DType::f32);
    const float* part = received.data();
    for (int rank = 0; rank < ranks; ++rank) {
      for (std::int64_t b = 0; b < batch; ++b) {
        const std::int64_t size = heads.count(rank) * mine;
        std::copy_n(part, size, lse.as<float>() + (b * query.shape()[2] + heads.of(rank).begin) * mine);
        part += size;
      }
    }
    return lse;
  }

  /// All that ranks must have alike: everything but their numbers of tokens.
  static std::string shared_text(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& mask,
                                 const Call& call) {
    const auto text = [](const Tensor& tensor) {
      if (!tensor.defined()) return std::string("none");
      Shape shape = tensor.shape();
      if (shape.rank() > 1) shape[1] = 0;
      return fmt::format("{} {} on {}", dtype_name(tensor.dtype()), shape.to_string(), to_string(tensor.device()));
    };
    std::string all = fmt::format("query {} key {} value {} mask {} scale {} causal {}{}", text(query), text(key),
                                  text(value), mask.defined() ? mask.shape().to_string() : "none", call.scale,
                                  call.causal, rondo::to_string(call.request));
    if (call.returns_lse) all += " with LSE";
    for (const AttentionSequence& s : call.sequences) all += fmt::format(" {}+{}", s.query_begin, s.queries);
    return all;
  }

  /// Every rank's number of tokens, as bounds. Throws InvalidArgument, on every rank alike, when they call differently.
  TokenLayout layout_of(std::int64_t own, const std::string& shared) {
    TokenRun run{{0}};
    int rank = 0;
    std::string first;
    for (const std::string& given : groups_.sequence().all_gather(fmt::format("{} {}", own, shared))) {
      const std::size_t space = given.find(' ');
      run.bounds.push_back(run.bounds.back() + std::stoll(given.substr(0, space)));
      if (rank == 0) first = given.substr(space);
      check(given.substr(space) == first, "rank {} calls with{} and rank 0 with{}", rank, given.substr(space), first);
      ++rank;
    }
    return {{run}};
  }

  Graph build_graph(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& mask, const Call& call,
                    const TokenLayout& layout) const {
    GraphBuilder b;
    const auto input = [&](const char* name, const Tensor& tensor) {
      return b.input(name, {tensor.shape(), tensor.dtype(), {}});
    };
    AttentionOperands operands{input("query", query), input("key", key), input("value", value), std::nullopt};
    if (mask.defined()) operands.mask = b.input("mask", {mask.shape(), DType::f32, {}});
    const bool alone = !how_.active();
    const auto op = std::make_shared<const AttentionOp>(call.scale, call.causal, call.request,
                                                        alone && call.returns_lse, call.sequences);
    check_whole(*op, query, key, value, mask, layout.tokens());
    if (alone) {
      std::vector<ValueId> inputs{operands.query, operands.key, operands.value};
      if (operands.mask) inputs.push_back(*operands.mask);
      const std::vector<ValueId> results = b.add_all(op, inputs);
      const bool is_wide = b.type(results[0]).dtype != query.dtype();
      b.output("output", is_wide ? b.apply<CastOp>({results[0]}, query.dtype()) : results[0]);
      if (call.returns_lse) b.output("lse", results[1]);
      return b.finish();
    }
    CollectiveBuilder collectives(b, how_);
    const auto [output, lse] =
        ParallelAttentionBuilder(collectives).over_shared_tokens(*op, operands, layout, call.returns_lse);
    b.output("output", output);
    if (lse) b.output("lse", *lse);
    return b.finish();
  }

  /// Refuses, as the operator does, what does not fit as a whole.
  static void check_whole(const AttentionOp& op, const Tensor& query, const Tensor& key, const Tensor& value,
                          const Tensor& mask, std::int64_t tokens) {
    std::vector<TensorType> types;
    for (const Tensor* operand : {&query, &key, &value}) {
      check(operand->shape()[1] == query.shape()[1], "query {}, key {} and value {} hold different tokens",
            query.shape().to_string(), key.shape().to_string(), value.shape().to_string());
      types.push_back({operand->shape(), operand->dtype(), {}});
      types.back().shape[1] = tokens;
    }
    if (mask.defined()) types.push_back({mask.shape(), DType::f32, {}});
    op.infer(types);
  }

  /// The session for these shapes and this call. One that a rank cannot make is none for the others either.
  Session& session_of(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& mask, const Call& call,
                      const TokenLayout& layout) {
    constexpr std::size_t kSessions = 4;
    const std::string name =
        fmt::format("{} {} threads={}", shared_text(query, key, value, mask, call), layout.to_string(), call.threads);
    for (auto it = sessions_.begin(); it != sessions_.end(); ++it) {
      if (it->first != name) continue;
      sessions_.splice(sessions_.begin(), sessions_, it);
      return *it->second;
    }
    std::unique_ptr<Session> session;
    std::exception_ptr error;
    std::string reason;
    try {
      PlanOptions options;
      options.target.threads = call.threads;
      options.attention = call.request;
      session = std::make_unique<Session>(
          model_.plan(name, options, [&] { return build_graph(query, key, value, mask, call, layout); }));
    } catch (const std::exception& failure) {
      error = std::current_exception();
      reason = failure.what();
    }
    const std::vector<std::string> reasons = groups_.sequence().all_gather(reason);
    if (error != nullptr) std::rethrow_exception(error);
    for (std::size_t rank = 0; rank < reasons.size(); ++rank) {
      if (!reasons[rank].empty()) throw CommunicationError(fmt::format("rank {}: {}", rank, reasons[rank]));
    }
    sessions_.emplace_front(name, std::move(session));
    if (sessions_.size() > kSessions) sessions_.pop_back();
    return *sessions_.front().second;
  }

  std::shared_ptr<ParallelWorld> world_;
  ProcessGroups groups_;
  SequenceParallel how_;
  Model model_;
  std::list<std::pair<std::string, std::unique_ptr<Session>>> sessions_;  // most recent first
};

ParallelAttention::ParallelAttention(std::shared_ptr<ParallelWorld> world, const ParallelOptions& options) {
  check(world != nullptr, "the world is missing");
  implementation_ = std::make_unique<Implementation>(std::move(world), options);
}
ParallelAttention::ParallelAttention(ParallelAttention&&) noexcept = default;
ParallelAttention& ParallelAttention::operator=(ParallelAttention&&) noexcept = default;
ParallelAttention::~ParallelAttention() = default;

AttentionResult ParallelAttention::forward(const Tensor& query, const Tensor& key, const Tensor& value,
                                           const Tensor& mask, const AttentionOptions& options) {
  if (options.layout == AttentionLayout::bsh)
    throw Unsupported("parallel attention: layout BSH is given; allowed are BSND and BNSD");
  const bool heads_first = options.layout == AttentionLayout::bnsd;
  const auto bsnd = [&](const Tensor& tensor) {
    return heads_first && tensor.defined() && tensor.shape().rank() == 4 ? tensor.transposed(1, 2) : tensor;
  };
  const Tensor q = bsnd(query);
  check_operand("query", q, q.defined() ? q.dtype() : DType::f32);
  AttentionResult result = implementation_->run(q, bsnd(key), bsnd(value), mask, call_of(options, q.shape()[3]));
  if (heads_first) result.output = dense_copy(result.output.transposed(1, 2));
  return result;
}

AttentionResult ParallelAttention::forward_varlen(const Tensor& query, const Tensor& key, const Tensor& value,
                                                  std::span<const std::int32_t> cu_seqlens,
                                                  const VarlenAttentionOptions& options) {
  const auto packed = [](const char* name, const Tensor& tensor) {
    check(tensor.defined() && tensor.shape().rank() == 3, "{} is not [T, N, D]", name);
    const Shape& s = tensor.shape();
    const Shape& strides = tensor.strides();
    return tensor.restrided({1, s[0], s[1], s[2]}, {s[0] * strides[0], strides[0], strides[1], strides[2]});
  };
  const Tensor q = packed("query", query);
  Call call = call_of(options, q.shape()[3]);
  call.packed = true;
  check(!cu_seqlens.empty() && cu_seqlens.front() == 0, "cu_seqlens must start with 0");
  for (std::size_t i = 1; i < cu_seqlens.size(); ++i) {
    const std::int64_t count = cu_seqlens[i] - cu_seqlens[i - 1];
    check(count >= 0, "cu_seqlens falls from {} to {}", cu_seqlens[i - 1], cu_seqlens[i]);
    call.sequences.push_back({0, cu_seqlens[i - 1], count, cu_seqlens[i - 1], count});
  }
  const auto [output, lse] = implementation_->run(q, packed("key", key), packed("value", value), {}, call);
  const auto without_batch = [](const Tensor& x) {
    const Shape& s = x.shape();
    return x.reshaped(s.rank() == 4 ? Shape{s[1], s[2], s[3]} : Shape{s[1], s[2]});
  };
  return {without_batch(output), lse.defined() ? without_batch(lse) : lse};
}

}  // namespace rondo
