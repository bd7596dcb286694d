// bundle-serve: bundles over the Open Inference Protocol, REST with JSON and binary tensors, and gRPC.
#include <arpa/inet.h>
#include <malloc.h>
#include <pthread.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "auth.hpp"
#include "command.hpp"
#include "grpc_server.hpp"
#include "http_server.hpp"
#include "plainconv/bundle.hpp"
#include "text.hpp"
#include "watcher.hpp"

namespace {

using plainconv::Error;
using plainconv::text;
using plainconv::serve::ServeOptions;
using plainconv::tools::say;
namespace tools = plainconv::tools;

constexpr std::string_view usage = R"(usage: bundle-serve PATH [options]

Serves a bundle, or each bundle in a folder, until SIGTERM or SIGINT: /v2, /v2/health/live, /v2/health/ready, /v2/models,
/v2/models/stats, /v2/models/NAME, /v2/models/NAME/ready, …/infer, …/config, …/stats (each model also as /versions/1),
/v2/repository/…, /v2/systemsharedmemory/… and /metrics. A bundle that is replaced on disk takes the place of the old one.

  --name NAME          of the model (default: the network's; in a folder, the bundle's)
  --host ADDRESS       to listen on (default 127.0.0.1: this machine alone)
  --port N             0: any that is free (default 8000); also --http-port, as exporter serve calls it
  --unix-socket PATH   to listen on, in the place of host and port
  --grpc-port N        gRPC as well, on that port (0: any that is free; default: none); a build may lack it: --version
  --grpc-unix-socket PATH  gRPC as well, on that socket
  --token-file FILE    requests must bear the token that it holds
  --tls-cert FILE.pem  certificate; with --tls-key
  --tls-key FILE.pem   its key; both are read again when they change
  --max-batch N        rows of a run, where the bundle leaves the batch open (default 32)
  --max-delay-us N     that a request waits for others to share a run with (default 500)
  --workers N          runs of a model at a time (default 1)
  --max-queue N        requests that wait for a model (default 256)
  --max-body MIB       of one request (default 64)
  --max-pending MIB    of all requests (default 1024)
  --max-connections N  idle or not, before a handshake or after (default 1024)
  --timeout S          of a request: its body, its wait and run, and its answer each (default 30)
  --grace S            to answer what is accepted, once told to stop (default 30)
  --lame-duck S        of these, not ready, but serving (default 1)
  --watch S            between two looks for a replaced bundle or certificate (default 2; 0: never)
  --repository-api     requests may list, load and unload models
  --shared-memory      requests may name shared memory of this machine: any that this user may open
  --access-log FILE    JSON lines (default -: stderr; none)
  --backend NAME       what runs it (default: the fastest engine that runs here, or onnxruntime)
  --precision P        one that the bundle holds (default: the fastest engine's; fp32 of onnxruntime)
  --threads N          of ONNX Runtime (default 0: one per core)
  --devices 0,1,...    run the parts that the bundle is split into, one device for each of the split's
  --device N           the GPU that runs it whole (default 0)
  --eager-kernels      TensorRT-RTX compiles its kernels for a new shape before the first call of it ends
  --help               an option with a value may be one word, --port=8000
  --version            of the program and of its gRPC

Exit codes: 0 stopped, 1 requests were given up, 2 bad input (one line: found, wanted, remedy).
)";

struct Arguments {
  std::string bundle;
  std::string token_file;
  bool help = false;
  bool version = false;
  ServeOptions options;
};

template <class T>
T number_of(std::string_view option, std::string_view given, T least, T most) {
  const auto value = tools::number_in<T>(given);
  if (!value || *value < least || *value > most) {
    throw Error(text(option, " is ", plainconv::repr(given), ", wanted a whole number from ", least, " to ", most));
  }
  return *value;
}

plainconv::serve::Seconds seconds_of(std::string_view option, std::string_view given, bool may_be_none) {
  constexpr double most = 1e9;
  const auto value = tools::number_in<double>(given);
  if (!value || !(*value >= 0 && *value < most) || (*value == 0 && !may_be_none)) {
    throw Error(text(option, " is ", plainconv::repr(given), ", wanted seconds, as in 0.5 or 30"));
  }
  return plainconv::serve::Seconds(*value);
}

/// Takes one option with its value. False where there is no such option.
bool take(Arguments& arguments, std::string_view option, const std::string& value) {
  constexpr int most = 1'000'000;
  ServeOptions& options = arguments.options;
  const auto count = [&](int least) { return number_of(option, value, least, most); };
  const auto size = [&] { return static_cast<std::size_t>(count(1)); };
  if (option == "--name") {
    options.name = value;
  } else if (option == "--host") {
    options.host = value;
  } else if (option == "--port" || option == "--http-port") {
    options.port = number_of(option, value, 0, 65535);
  } else if (option == "--unix-socket") {
    options.unix_socket = value;
  } else if (option == "--grpc-port") {
    options.grpc_port = number_of(option, value, 0, 65535);
  } else if (option == "--grpc-unix-socket") {
    options.grpc_unix_socket = value;
  } else if (option == "--token-file") {
    arguments.token_file = value;
  } else if (option == "--tls-cert") {
    options.tls_cert = value;
  } else if (option == "--tls-key") {
    options.tls_key = value;
  } else if (option == "--max-batch") {
    options.max_batch = count(1);
  } else if (option == "--max-delay-us") {
    options.max_delay = std::chrono::microseconds(number_of(option, value, 0, INT32_MAX));
  } else if (option == "--workers") {
    options.workers = number_of(option, value, 1, 1024);
  } else if (option == "--max-queue") {
    options.max_queue = size();
  } else if (option == "--max-body") {
    options.max_body = size() * plainconv::serve::mebibyte;
  } else if (option == "--max-pending") {
    options.max_pending = size() * plainconv::serve::mebibyte;
  } else if (option == "--max-connections") {
    options.max_connections = size();
  } else if (option == "--timeout") {
    options.timeout = seconds_of(option, value, false);
  } else if (option == "--grace") {
    options.grace = seconds_of(option, value, true);
  } else if (option == "--lame-duck") {
    options.lame_duck = seconds_of(option, value, true);
  } else if (option == "--watch") {
    options.watch = seconds_of(option, value, true);
  } else if (option == "--access-log") {
    options.access_log = value == "none" ? "" : value;
  } else if (option == "--backend") {
    options.network.backend = value;
  } else if (option == "--precision") {
    options.network.precision = value;
  } else if (option == "--threads") {
    options.network.threads = count(0);
  } else if (option == "--devices") {
    options.network.devices =
        tools::numbers_in(value, [&](std::string_view each) { return number_of(option, each, 0, INT32_MAX); });
  } else if (option == "--device") {
    options.network.device = count(0);
  } else {
    return false;
  }
  return true;
}

Arguments arguments_of(std::span<const std::string> given) {
  Arguments arguments;
  for (std::size_t i = 0; i < given.size(); ++i) {
    const std::string& option = given[i];
    if (option == "--help" || option == "-h") {
      arguments.help = true;
      return arguments;
    }
    if (option == "--version") {
      arguments.version = true;
      return arguments;
    }
    if (option == "--eager-kernels") {
      arguments.options.network.eager_kernels = true;
    } else if (option == "--repository-api") {
      arguments.options.repository = true;
    } else if (option == "--shared-memory") {
      arguments.options.shared_memory = true;
    } else if (option.starts_with('-')) {
      const std::size_t equals = option.find('=');
      const bool is_one_word = equals != std::string::npos;
      const bool has_value = is_one_word || i + 1 < given.size();
      const std::string value = is_one_word ? option.substr(equals + 1) : has_value ? given[i + 1] : "";
      Arguments probe;
      if (!take(has_value ? arguments : probe, option.substr(0, equals), value)) {
        throw Error(text("unknown option ", plainconv::repr(option), "; see bundle-serve --help"));
      }
      i += is_one_word ? 0 : 1;
    } else if (arguments.bundle.empty()) {
      arguments.bundle = option;
    } else {
      throw Error(text("a second path ", plainconv::repr(option), " is given, wanted one; see bundle-serve --help"));
    }
  }
  if (arguments.bundle.empty()) {
    throw Error("no bundle is given; see bundle-serve --help");
  }
  if (arguments.options.tls_cert.empty() != arguments.options.tls_key.empty()) {
    throw Error("--tls-cert and --tls-key are a pair; give both, or none");
  }
  if (arguments.options.has_grpc()) {
    plainconv::serve::check_grpc();
  }
  if (!arguments.token_file.empty()) {
    arguments.options.token = plainconv::serve::token_of_file(arguments.token_file);
  }
  return arguments;
}

bool is_loopback(const std::string& host) {
  in_addr four{};
  in6_addr six{};
  constexpr unsigned loopback = 127;
  return host == "localhost" ||
         (::inet_pton(AF_INET, host.c_str(), &four) == 1 && (ntohl(four.s_addr) >> 24U) == loopback) ||
         (::inet_pton(AF_INET6, host.c_str(), &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six));
}

/// SIGTERM, SIGINT and, unless it is ignored, SIGHUP, which no thread takes but the one that waits for them here. A
/// reader of the log that leaves is no signal, but an error of who writes.
class Signals {
 public:
  Signals() {
    std::signal(SIGPIPE, SIG_IGN);
    ::sigemptyset(&set_);
    ::sigaddset(&set_, SIGTERM);
    ::sigaddset(&set_, SIGINT);
    struct sigaction hang_up = {};
    if (::sigaction(SIGHUP, nullptr, &hang_up) == 0 && hang_up.sa_handler != SIG_IGN) {  // as under nohup
      ::sigaddset(&set_, SIGHUP);
    }
    ::pthread_sigmask(SIG_BLOCK, &set_, nullptr);
  }
  void wait() const {
    int number = 0;
    while (::sigwait(&set_, &number) != 0) {
    }
  }

 private:
  sigset_t set_{};
};

/// "serving NAMES on http://HOST:PORT and grpc HOST:PORT"
std::string where(const plainconv::serve::Store& store, const ServeOptions& options, int port, int grpc_port) {
  const std::string host = options.host.find(':') == std::string::npos ? options.host : text("[", options.host, "]");
  const auto at = [&](std::string_view scheme, const std::string& path, int number) {
    return path.empty() ? text(scheme, host, ":", number) : text("unix:", path);
  };
  std::string all = text("serving ", plainconv::joined(store.ready(), ", "), " on ",
                         at(options.tls_cert.empty() ? "http://" : "https://", options.unix_socket, port));
  return options.has_grpc() ? text(all, " and grpc ", at("", options.grpc_unix_socket, grpc_port)) : all;
}

/// One place a core that threads take memory from: of glibc's eight, each keeps a part of what a flood took.
void share_memory() {
#ifdef __GLIBC__
  ::mallopt(M_ARENA_MAX, static_cast<int>(std::max(2U, std::thread::hardware_concurrency())));
#endif
}

int serve(const Arguments& arguments) {
  const ServeOptions& options = arguments.options;
  share_memory();
  const Signals signals;  // before there is another thread
  const bool is_on_network = options.unix_socket.empty() || (options.has_grpc() && options.grpc_unix_socket.empty());
  if (options.token.empty() && is_on_network && !is_loopback(options.host)) {
    say(text("bundle-serve: warning: ", options.host,
             " lets other machines send requests, and no token is asked for; give --token-file, or see that the "
             "network does"));
  }
  const auto complain = [](const std::string& why) { say(text("bundle-serve: ERROR: ", why)); };
  const auto warn = [](const std::string& line) { say(text("bundle-serve: warning: ", line)); };
  plainconv::serve::AccessLog log(options.access_log);
  std::optional<plainconv::serve::Certificates> certificates;
  if (!options.tls_cert.empty()) {
    certificates.emplace(options.tls_cert, options.tls_key, complain);
  }
  plainconv::serve::Listener listener(plainconv::serve::http_address(options));
  const int port = listener.port();
  std::optional<plainconv::serve::Listener> grpc_listener;
  if (options.has_grpc()) {
    grpc_listener.emplace(plainconv::serve::grpc_address(options));
  }
  const int grpc_port = grpc_listener ? grpc_listener->port() : 0;
  plainconv::Options how = options.network;
  how.warn = warn;
  plainconv::serve::Metrics metrics;
  plainconv::serve::Store store(arguments.bundle,
                                [&how](const std::filesystem::path& folder) { return plainconv::open(folder, how); },
                                options, metrics, {complain, warn});
  store.load_all();
  plainconv::serve::Service service(store, options, metrics);
  plainconv::serve::Shared shared{service, log, complain, plainconv::serve::Bearer(options.token)};
  plainconv::serve::HttpServer server(std::move(listener), shared, certificates ? &*certificates : nullptr);
  std::optional<plainconv::serve::GrpcServer> grpc;
  if (grpc_listener) {
    grpc.emplace(std::move(*grpc_listener), shared, certificates ? &*certificates : nullptr);
  }
  const plainconv::serve::Watcher watcher(
      options.watch,
      [&] {
        store.refresh();
        if (certificates) {
          certificates->refresh();
        }
      },
      complain);
  say(where(store, options, port, grpc_port));
  signals.wait();
  const std::size_t unanswered = server.drain();
  if (grpc) {
    grpc->stop(unanswered == 0 ? options.grace : plainconv::serve::Seconds(0));
  }
  if (unanswered != 0) {
    log.close();
    say(text("bundle-serve: ", unanswered, " requests were not answered within the grace time; give a longer --grace"));
    std::_Exit(tools::failed);  // a run that goes on cannot be ended
  }
  return tools::done;
}

int run_on(std::span<const std::string> given) {
  const Arguments arguments = arguments_of(given);
  if (arguments.help) {
    std::cout << usage;
    return tools::done;
  }
  if (arguments.version) {
    const std::string_view grpc = plainconv::serve::grpc_version();
    std::cout << "bundle-serve " << plainconv::serve::program_version()
              << (grpc.empty() ? ", without gRPC" : text(", gRPC ", grpc)) << "\n";
    return tools::done;
  }
  return serve(arguments);
}

}  // namespace

int main(int argc, char** argv) { return tools::run({"bundle-serve", "network", run_on}, argc, argv); }
