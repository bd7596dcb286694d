// A machine of several GPUs, and a bundle of engines for them.
#pragma once

#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <thread>

#include "bundle/sha256.hpp"
#include "calls.hpp"
#include "folder.hpp"
#include "tensorrt/loading.hpp"

/// GPUs 0 to 3 of "sm80", but 3, which is "sm90". The engine of a file is that of the part which has its name as file,
/// or of the first.
class Machine {
 public:
  explicit Machine(SplitNetwork of) : net(std::move(of)) {
    bundle.folder = own_.path;
    bundle.manifest = net.manifest;
    here.gpu = [](int number) {
      return number > 3 ? throw plainconv::EngineError("no such GPU")
                        : plainconv::Gpu{"A", number == 3 ? "sm90" : "sm80"};
    };
    runtime.cuda = plainconv::cuda_runtime;
    runtime.engine = [this](std::string_view bytes, const plainconv::EngineUse& use) {
      device_of[use.name] = cuda->device();
      return plainconv::engine_of_bytes(bytes, use);
    };
  }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  Machine(Machine&&) = delete;
  Machine& operator=(Machine&&) = delete;
  ~Machine() = default;

  void add_file(plainconv::EngineRecord& record, bool is_broken = false) {
    const auto named = std::ranges::find(net.split.parts, record.file, &plainconv::PartRecord::file);
    const auto at = named == net.split.parts.end() ? 0 : named - net.split.parts.begin();
    const std::string bytes = is_broken ? "broken" : net.engine_bytes(static_cast<std::size_t>(at));
    record.backend = record.backend.empty() ? "tensorrt_rtx" : record.backend;
    record.backend_version = here.version;
    record.sha256 = plainconv::sha256_of(bytes);
    bundle.manifest.files[record.file] = {static_cast<std::int64_t>(bytes.size()), record.sha256};
    std::ofstream(bundle.folder / record.file) << bytes;
  }
  void add(const std::string& file, const std::string& precision, const std::string& target = "sm80",
           bool is_broken = false) {
    plainconv::EngineRecord record;
    record.file = file;
    record.precision = precision;
    record.targets = {target};
    record.profiles = net.profiles();
    add_file(record, is_broken);
    bundle.manifest.engines.push_back(record);
  }
  /// What is loaded, in a thread that has used no GPU before.
  std::optional<plainconv::Loaded> load(plainconv::Options options = {}) {
    options.warn = [this](const std::string& line) { said.push_back(line); };
    std::optional<plainconv::Loaded> loaded;
    reasons = {};
    std::thread([&] { loaded = load_engines(bundle, options, here, runtime, reasons); }).join();
    return loaded;
  }

  std::shared_ptr<Gpus> cuda = a_cuda();
  SplitNetwork net;
  plainconv::Bundle bundle;
  plainconv::Here here{.backend = "tensorrt_rtx", .version = "1.7"};
  plainconv::EngineRuntime runtime;
  std::map<std::string, int> device_of;  // in use while an engine was loaded
  std::vector<std::string> said;
  plainconv::Reasons reasons;

 private:
  Folder own_;
};
