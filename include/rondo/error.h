// The exceptions that Rondo throws. A message starts with the operator or file that it concerns,
// says what was given and what is allowed.
#pragma once

#include <stdexcept>
#include <string>

#include "rondo/export.h"

namespace rondo RONDO_PUBLIC {

/// Base of everything that Rondo throws on purpose.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The caller asked for something that is wrong in itself: a value out of range, shapes that do not fit.
class InvalidArgument : public Error {
 public:
  using Error::Error;
};

/// A file is missing, unreadable, truncated, or says something that cannot be true.
class FileError : public Error {
 public:
  using Error::Error;
};

/// The request makes sense but this build, device or CPU cannot do it.
class Unsupported : public Error {
 public:
  using Error::Error;
};

/// A device other than the CPU failed: out of memory, lost, an error of its driver or library.
class DeviceError : public Error {
 public:
  using Error::Error;
};

/// Another rank of a parallel run failed, died, does not answer, or disagrees.
class CommunicationError : public Error {
 public:
  using Error::Error;
};

/// The caller's cancel flag was set while work was under way.
class Cancelled : public Error {
 public:
  using Error::Error;
};

}  // namespace RONDO_PUBLIC
