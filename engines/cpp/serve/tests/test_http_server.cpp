// The server as a whole, in this process: over sockets, with a runtime that can be held.
#include <doctest/doctest.h>

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <thread>

#include "http_server.hpp"
#include "refusals.hpp"
#include "serving_doubles.hpp"

using plainconv::serve::HttpServer;
using plainconv::serve::Listener;
using plainconv::serve::ServeOptions;
using plainconv::serve::Service;

namespace {

/// A connection to the server.
class Client {
 public:
  explicit Client(int port) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    timeval long_time{60, 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &long_time, sizeof(long_time));
    REQUIRE(::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  Client(Client&&) = delete;
  Client& operator=(Client&&) = delete;
  ~Client() { ::close(socket_); }
  void send(const std::string& text) const {
    REQUIRE(::send(socket_, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size()));
  }
  /// Everything up to the end of one answer with a content-length; less where the connection ends.
  std::string receive() {
    while (true) {
      const auto head = received_.find("\r\n\r\n");
      const auto length = received_.find("Content-Length: ");
      if (head != std::string::npos && length < head) {
        const std::size_t size = head + 4 + std::stoul(received_.substr(length + 16));
        if (received_.size() >= size) {
          const std::string answer = received_.substr(0, size);
          received_.erase(0, size);
          return answer;
        }
      }
      std::array<char, 4096> piece{};
      const ssize_t count = ::recv(socket_, piece.data(), piece.size(), 0);
      if (count <= 0) {
        return std::exchange(received_, "");
      }
      received_.append(piece.data(), static_cast<std::size_t>(count));
    }
  }

 private:
  int socket_;
  std::string received_;
};

/// With `spaces` behind the JSON.
std::string request_of(float first, const std::string& more = "", std::size_t spaces = 0) {
  const std::string json = R"({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [)" +
                           std::to_string(first) + ", 1, 2, 3]}]}" + std::string(spaces, ' ');
  return "POST /v2/models/sums_of_rows/infer HTTP/1.1\r\nHost: x\r\n" + more +
         "Content-Length: " + std::to_string(json.size()) + "\r\n\r\n" + json;
}

/// A server and all that it needs.
struct Running {
  explicit Running(Gate* held = nullptr, ServeOptions given = {}) : options(std::move(given)), gate(held) {
    options.port = 0;
    options.lame_duck = plainconv::serve::Seconds(0);
    store.load_all();
    Listener listener(plainconv::serve::http_address(options));
    port = listener.port();
    server.emplace(std::move(listener), shared);
  }
  ServeOptions options;
  Gate* gate;
  plainconv::serve::AccessLog log{""};
  std::mutex mutex;
  std::vector<std::string> complaints;
  plainconv::serve::Metrics metrics;
  plainconv::serve::Store store{"no/bundle",
                                [this](const std::filesystem::path&) { return summing_network(gate); },
                                options,
                                metrics,
                                {[this](const std::string& why) {
                                   const std::scoped_lock lock(mutex);
                                   complaints.push_back(why);
                                 },
                                 [](const std::string&) {}}};
  Service service{store, options, metrics};
  plainconv::serve::Shared shared{service, log, [](const std::string&) {}, plainconv::serve::Bearer(options.token)};
  int port = 0;
  std::optional<HttpServer> server;
};

}  // namespace

TEST_CASE("many clients on connections that stay open each get their own answer, then the server ends") {
  Running running;
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int own = 0; own < 8; ++own) {
    threads.emplace_back([&, own] {
      Client client(running.port);
      for (int i = 0; i < 20; ++i) {
        client.send(request_of(static_cast<float>(own * 100 + i)));
        const std::string wanted = "\"data\":[" + std::to_string(own * 100 + i + 6) + ".0]";
        wrong += contains(client.receive(), wanted) ? 0 : 1;
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  CHECK(wrong == 0);
  CHECK(running.server->drain() == 0);
}

TEST_CASE("once its device was lost a model is not ready, nor is the server, which goes on and says so once") {
  Running running;
  Client client(running.port);
  const auto asked = [&](const std::string& path) {
    client.send("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n");
    return client.receive();
  };
  CHECK(contains(asked("/v2/health/ready"), " 200 "));
  CHECK(contains(asked("/metrics"), "plainconv_model_ready{model=\"sums_of_rows\",version=\"1\"} 1\n"));
  client.send(request_of(-2));
  CHECK(contains(client.receive(), " 500 "));
  for (int again = 0; again < 2; ++again) {
    CHECK(contains(asked("/v2/health/ready"), " 503 "));
    CHECK(contains(asked("/v2/models/sums_of_rows/ready"), " 503 "));
  }
  client.send(request_of(1));
  const std::string refused = client.receive();
  CHECK(contains(refused, " 503 "));
  CHECK(contains(refused, "model 'sums_of_rows' cannot compute any more (its device was lost)"));
  CHECK(contains(asked("/v2/health/live"), " 200 "));
  CHECK(contains(asked("/metrics"), "plainconv_model_ready{model=\"sums_of_rows\",version=\"1\"} 0\n"));
  const std::scoped_lock lock(running.mutex);
  CHECK(std::ranges::count(
            running.complaints,
            "model sums_of_rows: its device was lost; it is not ready any more: start the server again") == 1);
}

TEST_CASE("what was accepted is answered once the end was asked for, and the connection closed") {
  Gate gate;
  gate.open();  // for the warm-up
  Running running(&gate);
  Client client(running.port);
  client.send(request_of(1));
  std::size_t unanswered = 1;
  std::thread end([&] { unanswered = running.server->drain(); });
  const std::string answer = client.receive();
  CHECK(contains(answer, "\"data\":[7.0]"));
  end.join();
  CHECK(unanswered == 0);
  CHECK(client.receive().empty());
}

TEST_CASE("a request that lacks its body when the grace ends is given up") {
  ServeOptions options;
  options.grace = plainconv::serve::Seconds(0);
  Running running(nullptr, options);
  {
    Client client(running.port);
    client.send("POST /v2/models/sums_of_rows/infer HTTP/1.1\r\nhost: x\r\nContent-Length: 5\r\n\r\n");
    while (running.shared.under_way == 0) {
      std::this_thread::yield();
    }
    CHECK(running.server->drain() == 1);
  }
}

TEST_CASE("a run that fails, a full memory, and requests that are none do not end a server") {
  ServeOptions options;
  options.max_body = 1000;
  Running running(nullptr, options);
  Client client(running.port);
  client.send(request_of(-1));
  const std::string failed = client.receive();
  CHECK(failed.starts_with("HTTP/1.1 500"));
  CHECK(contains(failed, R"({"error": "the model could not be run on this request"})"));
  client.send("BREW /v2 HTTP/1.1\r\nhost: x\r\n\r\n");
  CHECK(contains(client.receive(), R"({"error": "this path takes another method"})"));
  client.send(request_of(2));
  CHECK(contains(client.receive(), "\"data\":[8.0]"));
  client.send("POST /v2/models/sums_of_rows/infer HTTP/1.1\r\nhost: x\r\nContent-Length: 1001\r\n\r\n");
  const std::string large = client.receive();
  CHECK(large.starts_with("HTTP/1.1 413"));
  CHECK(contains(large, "Connection: close"));
  CHECK(client.receive().empty());
  Service::Room room(running.service, "elsewhere");
  room.hold(running.options.max_pending);
  Client other(running.port);
  other.send(request_of(2));
  CHECK(contains(other.receive(), "the requests under way fill this server's memory"));
}

TEST_CASE("models that are being loaded hold up no large body") {
  ServeOptions options;
  options.repository = true;
  Running running(nullptr, options);
  Gate closed;
  running.gate = &closed;  // of those that are loaded from here on
  std::vector<std::unique_ptr<Client>> loading;
  for (int i = 0; i < 3; ++i) {
    loading.push_back(std::make_unique<Client>(running.port));
    loading.back()->send(
        "POST /v2/repository/models/sums_of_rows/load HTTP/1.1\r\nhost: x\r\nContent-Length: 0\r\n\r\n");
  }
  closed.wait_for(1);
  Client client(running.port);
  client.send(request_of(2, "", 100'000));
  CHECK(contains(client.receive(), "\"data\":[8.0]"));
  closed.open();
  for (const auto& each : loading) {
    CHECK(contains(each->receive(), "\"load\":true"));
  }
}

TEST_CASE("what was announced takes no memory, what arrives does; a peer leaves a quarter to the others") {
  ServeOptions options;
  options.max_pending = 1000;
  Running running(nullptr, options);
  std::vector<std::unique_ptr<Client>> silent;
  for (int i = 0; i < 20; ++i) {
    silent.push_back(std::make_unique<Client>(running.port));
    silent.back()->send("POST /v2/models/sums_of_rows/infer HTTP/1.1\r\nhost: x\r\nContent-Length: 900\r\n\r\n");
  }
  while (running.shared.under_way != silent.size()) {
    std::this_thread::yield();
  }
  Client client(running.port);
  client.send(request_of(1));
  CHECK(contains(client.receive(), "\"data\":[7.0]"));
  Service::Room room(running.service, "127.0.0.1");
  room.hold(700);
  client.send(request_of(1));
  const std::string answer = client.receive();
  CHECK(contains(answer, "HTTP/1.1 429"));
  CHECK(contains(answer, "from this address fill its share of the memory"));
}

TEST_CASE("from one who was refused nothing more is read, others are read to the end of their answer") {
  ServeOptions options;
  options.token = std::string(16, 't');
  Running running(nullptr, options);
  Client client(running.port);
  client.send("POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\nContent-Length: 90000000\r\n\r\n");
  CHECK(contains(client.receive(), "HTTP/1.1 401"));
  CHECK(client.receive().empty());
}

TEST_CASE("a Unix socket, one that a killed server left, and one that is taken") {
  std::string folder = "/tmp/plainconv-unix-XXXXXX";
  REQUIRE(::mkdtemp(folder.data()) != nullptr);
  ServeOptions options;
  options.unix_socket = folder + "/s";
  {
    const int left = ::socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    options.unix_socket.copy(address.sun_path, sizeof(address.sun_path) - 1);
    REQUIRE(::bind(left, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
    ::close(left);
    Running running(nullptr, options);
    CHECK(contains(thrown_by<plainconv::Error>([&] { const Listener second(plainconv::serve::http_address(options)); }),
                   "give another --unix-socket"));
    const int socket = ::socket(AF_UNIX, SOCK_STREAM, 0);
    REQUIRE(::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
    const std::string request = "GET /v2/health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    REQUIRE(::send(socket, request.data(), request.size(), 0) == static_cast<ssize_t>(request.size()));
    std::array<char, 100> answer{};
    CHECK(::recv(socket, answer.data(), answer.size() - 1, 0) > 0);
    CHECK(contains(answer.data(), "HTTP/1.1 200 OK"));
    ::close(socket);
  }
  CHECK(::access(options.unix_socket.c_str(), F_OK) != 0);
  {
    std::optional<Listener> first(plainconv::serve::http_address(options));
    ::unlink(options.unix_socket.c_str());
    const Listener second(plainconv::serve::http_address(options));
    first.reset();
    CHECK(::access(options.unix_socket.c_str(), F_OK) == 0);  // it is the second's
  }
  options.unix_socket = std::string(200, 'x');
  CHECK(contains(thrown_by<plainconv::Error>([&] { const Listener too_long(plainconv::serve::http_address(options)); }),
                 "HTTP cannot listen on xxx"));
  ::rmdir(folder.c_str());
}

TEST_CASE("names that a model is served by") {
  using plainconv::serve::model_name_of;
  CHECK(model_name_of("", "sums of rows") == "sums_of_rows");
  CHECK(model_name_of("", " /é/ a//b ") == "a_b");
  CHECK(model_name_of("", "…") == "model");
  CHECK(model_name_of("a.B-1+_", "x") == "a.B-1+_");
  for (const char* wrong : {"../a", ".a", "a b", "a/b"}) {
    CHECK(contains(thrown_by<plainconv::Error>([&] { (void)model_name_of(wrong, "x"); }), "is no name of a model"));
  }
}
