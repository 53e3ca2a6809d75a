// What a device other than the CPU can do apart from computing: memory, streams, events, copies. A plug-in implements
// it. Every call may throw DeviceError, which starts with the device's name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "rondo/device.h"

namespace rondo {

class DeviceStream;

/// Work that was recorded, to be done any number of times. It holds addresses, not memory.
class RecordedWork {
 public:
  virtual ~RecordedWork() = default;
  /// In the stream's order.
  virtual void launch(DeviceStream& stream) = 0;
};

/// Work that a device does in order, while the host goes on. Belongs to one thread at a time.
class DeviceStream {
 public:
  virtual ~DeviceStream() = default;
  /// Waits for all of it; throws what any of it failed with.
  virtual void synchronize() = 0;
  /// What is given to the stream from now on is recorded in place of being done, until end_recording(), which must
  /// follow whatever happens. The thread may not wait for the device meanwhile. On a runtime that records work only.
  virtual void begin_recording();
  /// Throws DeviceError where something that was given cannot be recorded.
  virtual std::unique_ptr<RecordedWork> end_recording();
};

/// A point in a stream's work. A host that waits for one that was never recorded goes on at once; a stream must not.
class DeviceEvent {
 public:
  virtual ~DeviceEvent() = default;
  virtual void record(DeviceStream& stream) = 0;
  /// Work that `stream` is given from now on waits for the point.
  virtual void hold_back(DeviceStream& stream) = 0;
  /// The host waits.
  virtual void synchronize() = 0;
};

enum class CopyKind : std::uint8_t { to_device, to_host, on_device };

/// `rows` rows of `width` bytes, whose beginnings are `from_pitch` and `to_pitch` bytes apart.
struct RowCopy {
  void* to;
  std::size_t to_pitch;
  const void* from;
  std::size_t from_pitch;
  std::size_t width;
  std::size_t rows;
};

class DeviceCommunicator;

/// May be used from several threads.
class DeviceRuntime {
 public:
  virtual ~DeviceRuntime() = default;

  virtual DeviceInfo info() const = 0;
  /// What tells it from the host's other devices of its kind, by whatever numbers a process sees them.
  virtual std::string physical_id() const = 0;
  /// Whether it multiplies bfloat16.
  virtual bool has_bf16() const = 0;
  /// Whether products of float32 keep it, or are rounded to a narrower format.
  virtual bool keeps_f32() const = 0;

  /// Of the device's memory, aligned to at least 64 bytes. Null where there is not enough.
  virtual void* allocate(std::size_t bytes) = 0;
  virtual void release(void* memory) noexcept = 0;
  /// Host memory that copies run from and to without waiting.
  virtual std::shared_ptr<void> allocate_pinned(std::size_t bytes) = 0;

  /// Waits for the work of all streams.
  virtual void synchronize() = 0;
  virtual std::unique_ptr<DeviceStream> make_stream() = 0;
  virtual std::unique_ptr<DeviceEvent> make_event() = 0;

  /// In the stream's order. Host memory must stay as it is until then.
  virtual void copy(const RowCopy& rows, CopyKind kind, DeviceStream& stream) = 0;

  /// Why its streams record no work; nothing where they do.
  virtual std::optional<std::string> refuse_recording() const;

  /// Why ranks cannot send each other what lies on such devices; nothing where they can. A runtime that says nothing
  /// else has no engine for it.
  virtual std::optional<std::string> refuse_messages() const;
  /// Where ranks meet: made by one of them, told to all.
  virtual std::string make_meeting_point();
  /// All ranks join at the same time, each with a device of its own. What it gives keeps the runtime.
  virtual std::unique_ptr<DeviceCommunicator> join(const std::string& meeting_point, int rank, int ranks);
};

}  // namespace rondo
