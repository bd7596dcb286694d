#include <doctest/doctest.h>

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "refusals.hpp"
#include "serving_doubles.hpp"
#include "shared_memory.hpp"
#include "text.hpp"

using plainconv::text;
using plainconv::json::Value;
using plainconv::serve::InferRequest;
using plainconv::serve::Place;
using plainconv::serve::Refused;
using plainconv::serve::Regions;

namespace {

/// An object that goes with the test.
class Object {
 public:
  explicit Object(std::size_t size, char fill = 'a') : name_(text("plainconv-tests-", ::getpid(), "-", ++count)) {
    std::ofstream(path()) << std::string(size, fill);
  }
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  Object(Object&&) = delete;
  Object& operator=(Object&&) = delete;
  ~Object() { ::unlink(path().c_str()); }

  [[nodiscard]] std::string path() const { return "/dev/shm/" + name_; }
  void add_to(Regions& regions, const std::string& name, std::int64_t size, std::int64_t offset = 0) const {
    const Value key("/" + name_);
    const Value first(offset);
    const Value bytes(size);
    regions.add(name, &key, &first, &bytes);
  }

 private:
  static int count;
  std::string name_;
};

int Object::count = 0;

/// A request whose inputs, bytes all, lie in these places.
InferRequest request_of(std::vector<Place> places) {
  static const Value uint8("UINT8");
  InferRequest request;
  for (Place& place : places) {
    auto& input = request.inputs.emplace_back();
    input.name = text("x", request.inputs.size());
    input.datatype = &plainconv::serve::datatype_sent("x", &uint8);
    input.shape = {static_cast<std::int64_t>(place.extent.size)};
    input.place = std::move(place);
  }
  return request;
}

std::size_t open_files() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

}  // namespace

TEST_CASE("inputs are copied out of their regions, aligned, and outputs into theirs") {
  const Object object(100);
  const std::size_t before = open_files();
  {
    Regions regions;
    object.add_to(regions, "r", 80, 10);
    InferRequest request = request_of({{"r", {0, 3}}, {"r", {77, 3}}});
    CHECK(regions.size_of(request, 6) == 6);
    CHECK(thrown_by<Refused>([&] { (void)regions.size_of(request, 5); }) ==
          "the inputs in shared memory have 6 bytes, this server takes up to 5");
    const auto body = regions.fill(request);
    for (const auto& input : request.inputs) {
      CHECK(input.bytes.size() == 3);
      CHECK(input.bytes[2] == std::byte{'a'});
      CHECK(reinterpret_cast<std::uintptr_t>(input.bytes.data()) % plainconv::serve::alignment == 0);
    }
    Place place{"r", {70, 10}};
    const std::string written = "1234";
    regions.put("y", place, std::as_bytes(std::span(written)));
    CHECK(place.extent.size == 4);
    std::string now;
    std::ifstream(object.path()) >> now;
    CHECK(now == std::string(80, 'a') + "1234" + std::string(16, 'a'));
    CHECK(regions.status("r").front().second.find(R"("offset":10,"byte_size":80)") != std::string::npos);
    regions.remove("r");
    regions.remove("r");
    CHECK(regions.status("").empty());
  }
  CHECK(open_files() == before);
}

TEST_CASE("sizes that no memory has are refused before anything is copied") {
  const Object object(0);
  constexpr auto huge = INT64_MAX - 1;
  if (::truncate(object.path().c_str(), huge) != 0) {
    return;  // this system has no files of that size
  }
  Regions regions;
  object.add_to(regions, "r", huge);
  const Place all{"r", {0, static_cast<std::uint64_t>(huge)}};
  CHECK(thrown_by<Refused>([&] {
          (void)regions.size_of(request_of({all, all, all}), 1000);
        }).find("takes up to 1000") != std::string::npos);
}

TEST_CASE("an object that is cut meanwhile is refused, and not made longer") {
  const Object object(64);
  Regions regions;
  object.add_to(regions, "r", 64);
  InferRequest request = request_of({{"r", {0, 64}}});
  REQUIRE(::truncate(object.path().c_str(), 10) == 0);
  CHECK(thrown_by<Refused>([&] { (void)regions.fill(request); }).find("which has 10") != std::string::npos);
  Place place{"r", {0, 64}};
  CHECK(thrown_by<Refused>([&] { regions.put("y", place, {}); }).find("which has 10") != std::string::npos);
  CHECK(std::filesystem::file_size(object.path()) == 10);
}

TEST_CASE("a region that goes while others copy from it and into it") {
  const Object one(1 << 20, 'a');
  const Object other(1 << 20, 'b');
  const std::size_t before = open_files();
  {
    Regions regions;
    std::atomic<bool> is_over = false;
    std::atomic<int> copied = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 2; ++i) {
      threads.emplace_back([&] {
        while (!is_over) {
          try {
            InferRequest request = request_of({{"r", {0, 1 << 20}}});
            const auto body = regions.fill(request);
            const auto bytes = request.inputs.front().bytes;
            CHECK((bytes.front() == bytes.back() &&
                   (bytes.front() == std::byte{'a'} || bytes.front() == std::byte{'b'})));
            Place place{"r", {16, 100}};
            regions.put("y", place, bytes.first(100));
            ++copied;
          } catch (const Refused& refused) {
            CHECK(std::string(refused.what()).find("there is no shared memory region 'r'") == 0);
          }
        }
      });
    }
    for (int turn = 0; turn < 100 || (copied == 0 && turn < 100000); ++turn) {
      (turn % 2 == 0 ? one : other).add_to(regions, "r", 1 << 20);
      std::this_thread::yield();
      regions.remove(turn % 3 == 0 ? "" : "r");
    }
    is_over = true;
    for (auto& thread : threads) {
      thread.join();
    }
    CHECK(copied > 0);
  }
  CHECK(open_files() == before);
}
