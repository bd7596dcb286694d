// A stand-in for TensorRT's library, and TensorRT-RTX's, on the stand-in for GPUs. An engine is JSON that names an ONNX
// file, which ONNX Runtime computes when the stream gets there; the same engines as Python's stand-in has.
//
// What TensorRT leaves undefined (a context on two streams, one captured before it has run, a graph launched whose
// context has changed, scratch memory used by two streams, a device that is not the engine's, a runtime or a cache that
// is gone before what it is used by) is written to `Gpus::astray`.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "standin/gpus.hpp"

namespace standin {

/// What an engine is, and what it does not do: "context", "shape", "data", "address", "execute", "capture",
/// "capturable"; "end" and "crash": it runs, and never ends, or takes its device down with it.
struct EngineFacts {
  std::string model;
  int device = 0;
  std::size_t scratch = 0;
  std::set<std::string> refuses;
  int contexts = 0;              // that live
  int with_own_graphs = 0;       // of all that were made
  int own_captures = 0;          // by TensorRT-RTX
  std::set<int> kernels;         // the strategies that its contexts were made with
  std::set<std::string> loaded;  // kernels that a cache held before anything ran
  std::map<Address, Address> stream_of_scratch;
};

/// What was loaded, in order, and what is said of every engine: see `nvinfer1::EngineValidity`.
struct Library {
  std::vector<std::shared_ptr<EngineFacts>> engines;
  std::int64_t validity = 0;
  std::uint64_t causes = 0;
};

/// That of the process, as it is at the beginning of a test: it forgets what was loaded.
Library& fresh_library();
Library& library();
/// How many of its objects live that were made since then.
std::size_t objects();

}  // namespace standin
