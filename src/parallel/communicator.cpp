// Collectives by exchanges: they run once a request or once a step. What runs in every layer, the exchange of heads and
// the ring, is an exchange itself.
#include "parallel/communicator.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "rondo/error.h"

namespace rondo {
namespace {

void check_sizes(const char* call, std::size_t given, std::size_t needed) {
  if (given != needed)
    throw InvalidArgument(fmt::format("{}: the buffer has {} bytes; it needs {}", call, given, needed));
}

std::size_t sum(std::span<const std::size_t> bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), std::size_t{0});
}

}  // namespace

/// Some ranks of another communicator, under numbers of their own.
class Communicator::Part final : public Communicator {
 public:
  Part(Communicator& whole, std::vector<int> ranks, int rank) : whole_(whole), ranks_(std::move(ranks)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(ranks_.size()); }
  std::string engine() const override { return whole_.engine(); }
  void fail(const std::string& reason) override { whole_.fail(reason); }

 protected:
  std::unique_ptr<Exchange> post(std::span<const Outgoing> sends, std::span<const Incoming> receives,
                                 int unique_tag) override {
    const auto renamed = [this](auto messages) {
      for (auto& message : messages) message.peer = ranks_[static_cast<std::size_t>(message.peer)];
      return messages;
    };
    return whole_.post(renamed(std::vector<Outgoing>(sends.begin(), sends.end())),
                       renamed(std::vector<Incoming>(receives.begin(), receives.end())), unique_tag);
  }

 private:
  int& next_context() override { return whole_.next_context(); }

  Communicator& whole_;
  std::vector<int> ranks_;
  int rank_;
};

std::unique_ptr<Exchange> Communicator::start(std::span<const Outgoing> sends, std::span<const Incoming> receives,
                                              int tag) {
  return post(sends, receives, context_ * kTagsEach + tag);
}

std::unique_ptr<Communicator> Communicator::split(int colour) {
  const std::array own{colour, next_context()};
  std::vector<int> all(own.size() * static_cast<std::size_t>(size()));
  all_gather(std::as_bytes(std::span(own)), std::as_writable_bytes(std::span(all)));
  std::vector<int> members;
  int place = 0;
  int context = 0;
  for (int r = 0; r < size(); ++r) {
    const auto at = 2 * static_cast<std::size_t>(r);
    context = std::max(context, all[at + 1]);
    if (all[at] != colour) continue;
    if (r == rank()) place = static_cast<int>(members.size());
    members.push_back(r);
  }
  if (context == kMostContexts) throw Unsupported(fmt::format("split: allowed are {} communicators", kMostContexts));
  next_context() = context + 1;
  auto part = std::make_unique<Part>(*this, std::move(members), place);
  part->context_ = context;
  part->timeout_ = timeout_;
  return part;
}

DeviceCommunicator& Communicator::between_devices(DeviceRuntime& own) {
  std::unique_ptr<DeviceCommunicator>& known = between_devices_[&own];
  if (known == nullptr) {
    const std::string meeting_point = broadcast(rank() == 0 ? own.make_meeting_point() : "", 0);
    known = own.join(meeting_point, rank(), size());
  }
  return *known;
}

void Communicator::send(int peer, std::span<const std::byte> bytes) {
  const Outgoing message{peer, bytes};
  start({&message, 1}, {}, kCollectiveTag)->wait();
}

void Communicator::receive(int peer, std::span<std::byte> bytes) {
  const Incoming message{peer, bytes};
  start({}, {&message, 1}, kCollectiveTag)->wait();
}

void Communicator::all_to_all(std::span<const std::byte> sent, std::span<std::byte> received) {
  const std::size_t ranks = static_cast<std::size_t>(size());
  check_sizes("all_to_all", received.size(), sent.size());
  check_sizes("all_to_all", sent.size() / ranks * ranks, sent.size());
  const std::vector<std::size_t> bytes(ranks, sent.size() / ranks);
  all_to_all(sent, bytes, received, bytes);
}

void Communicator::all_to_all(std::span<const std::byte> sent, std::span<const std::size_t> sent_bytes,
                              std::span<std::byte> received, std::span<const std::size_t> received_bytes) {
  check_sizes("all_to_all", sent.size(), sum(sent_bytes));
  check_sizes("all_to_all", received.size(), sum(received_bytes));
  std::vector<Outgoing> sends;
  std::vector<Incoming> receives;
  for (int peer = 0; peer < size(); ++peer) {
    const auto p = static_cast<std::size_t>(peer);
    sends.push_back({peer, sent.first(sent_bytes[p])});
    receives.push_back({peer, received.first(received_bytes[p])});
    sent = sent.subspan(sent_bytes[p]);
    received = received.subspan(received_bytes[p]);
  }
  start(sends, receives, kCollectiveTag)->wait();
}

void Communicator::all_gather(std::span<const std::byte> own, std::span<std::byte> all) {
  const std::vector<std::size_t> bytes(static_cast<std::size_t>(size()), own.size());
  all_gather(own, all, bytes);
}

void Communicator::all_gather(std::span<const std::byte> own, std::span<std::byte> all,
                              std::span<const std::size_t> bytes) {
  check_sizes("all_gather", own.size(), bytes[static_cast<std::size_t>(rank())]);
  check_sizes("all_gather", all.size(), sum(bytes));
  std::vector<Outgoing> sends;
  std::vector<Incoming> receives;
  for (int peer = 0; peer < size(); ++peer) {
    sends.push_back({peer, own});
    receives.push_back({peer, all.first(bytes[static_cast<std::size_t>(peer)])});
    all = all.subspan(bytes[static_cast<std::size_t>(peer)]);
  }
  start(sends, receives, kCollectiveTag)->wait();
}

std::vector<std::string> Communicator::all_gather(const std::string& own) {
  const std::uint64_t length = own.size();
  std::vector<std::uint64_t> lengths(static_cast<std::size_t>(size()));
  all_gather(std::as_bytes(std::span(&length, 1)), std::as_writable_bytes(std::span(lengths)));
  std::vector<std::size_t> bytes(lengths.begin(), lengths.end());
  std::vector<std::byte> all(sum(bytes));
  all_gather(std::as_bytes(std::span(own)), all, bytes);
  std::vector<std::string> texts;
  const auto* text = reinterpret_cast<const char*>(all.data());
  for (const std::size_t count : bytes) {
    texts.emplace_back(text, count);
    text += count;
  }
  return texts;
}

void Communicator::all_reduce(std::span<float> values, ReduceKind kind) {
  std::vector<float> all(values.size() * static_cast<std::size_t>(size()));
  all_gather(std::as_bytes(values), std::as_writable_bytes(std::span(all)));
  std::copy_n(all.begin(), values.size(), values.begin());
  for (std::size_t i = values.size(); i < all.size(); ++i) {
    float& value = values[i % values.size()];
    value = kind == ReduceKind::sum ? value + all[i] : std::max(value, all[i]);
  }
}

void Communicator::broadcast(std::span<std::byte> bytes, int root) {
  // A binomial tree: the ranks that have the bytes double in every round.
  const int own = (rank() - root + size()) % size();
  const auto peer = [&](int place) { return (place + root) % size(); };
  for (int have = 1; have < size(); have *= 2) {
    if (own < have && own + have < size()) send(peer(own + have), bytes);
    if (own >= have && own < 2 * have) receive(peer(own - have), bytes);
  }
}

std::string Communicator::broadcast(const std::string& text, int root) {
  std::uint64_t length = text.size();
  broadcast(std::as_writable_bytes(std::span(&length, 1)), root);
  std::string result = rank() == root ? text : std::string(length, '\0');
  broadcast(std::as_writable_bytes(std::span(result)), root);
  return result;
}

void Communicator::barrier() {
  // After round k a rank has heard, through others, of 2^k ranks before it.
  std::byte nothing{};
  for (int distance = 1; distance < size(); distance *= 2) {
    const Outgoing to{(rank() + distance) % size(), {&nothing, 1}};
    std::byte received{};
    const Incoming from{(rank() - distance + size()) % size(), {&received, 1}};
    start({&to, 1}, {&from, 1}, kCollectiveTag)->wait();
  }
}

}  // namespace rondo
