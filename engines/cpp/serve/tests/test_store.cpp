// The models of a server, with a double in the place of bundles: folders whose manifests carry a hash.
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>

#include "bundle/sha256.hpp"
#include "folder.hpp"
#include "refusals.hpp"
#include "serving_doubles.hpp"
#include "store.hpp"
#include "watcher.hpp"

using plainconv::serve::Refused;
using plainconv::serve::ServeOptions;
using plainconv::serve::Store;
namespace fs = std::filesystem;

namespace {

/// A manifest of that content, with its own hash, as a bundle has one. Its hash.
std::string write(const fs::path& folder, const std::string& content) {
  fs::create_directories(folder);
  const auto bytes = [&](const std::string& hash) {
    return "{\n  \"content\": \"" + content + "\",\n  \"manifest_sha256\": \"" + hash + "\"\n}\n";
  };
  const std::string hash = plainconv::sha256_of(bytes(std::string(64, '0')));
  std::ofstream(folder / "manifest.json") << bytes(hash);
  return hash;
}

struct Stored {
  explicit Stored(fs::path path, const std::string& name = "")
      : store(std::move(path), open, options, metrics, voices) {
    options.name = name;
  }
  Store::Open open = [this](const fs::path& folder) {
    opened.push_back(folder);
    const auto identity = plainconv::identity_of(folder);
    if (!identity || refused == *identity) {
      throw plainconv::BundleError("no bundle");
    }
    plainconv::Bundle bundle;
    bundle.manifest.name = "sums of rows";
    bundle.manifest.inputs = {{"x", "float32", {std::string("N"), 4}}};
    bundle.manifest.outputs = {{"y", "float32", {std::string("N"), 1}}};
    bundle.sha256 = *identity;
    return plainconv::Network(bundle, "summing", "fp32", std::make_unique<SummingRunner>(nullptr, nullptr));
  };
  std::string refused;  // a version that does not load
  std::vector<fs::path> opened;
  std::vector<std::string> complaints;
  std::vector<std::string> told;
  ServeOptions options;
  plainconv::serve::Metrics metrics;
  Store::Voices voices{[this](const std::string& why) { complaints.push_back(why); },
                       [this](const std::string& line) { told.push_back(line); }};
  Store store;
};

std::string refusal(const Stored& stored, const std::string& name) {
  return thrown_by<Refused>([&] { (void)stored.store.use(name); });
}

}  // namespace

TEST_CASE("one bundle is served by the name of its network, or the one given") {
  const Folder folder;
  write(folder.path / "b", "1");
  for (const std::string name : {"", "mine"}) {
    Stored stored(folder.path / "b", name);
    stored.store.load_all();
    CHECK(stored.store.ready() == std::vector<std::string>{name.empty() ? "sums_of_rows" : name});
    stored.store.refresh();
    CHECK(stored.told.empty());
  }
}

TEST_CASE("a folder of bundles: what loads is served, links lead nowhere") {
  const Folder folder;
  write(folder.path / "a", "1");
  const std::string bad = write(folder.path / "b", "2");
  fs::create_directory_symlink(folder.path / "a", folder.path / "c");
  Stored stored(folder.path);
  stored.refused = bad;
  stored.store.load_all();
  CHECK(stored.store.ready() == std::vector<std::string>{"a"});
  CHECK(stored.complaints == std::vector<std::string>{"model b: no bundle"});
  CHECK(refusal(stored, "b") == "model 'b' is not loaded (it cannot be loaded)");
  CHECK(refusal(stored, "c") == "there is no model 'c'; see /v2/models");
  const auto rows = stored.store.index();
  CHECK((rows.size() == 2 && rows[0].is_ready && !rows[1].is_ready && rows[1].reason == "it cannot be loaded"));
  CHECK(contains(thrown_by<Refused>([&] { stored.store.load("../x"); }), "no model '../x' in the repository"));
  CHECK(contains(thrown_by<Refused>([&] { stored.store.load("b"); }), "cannot be loaded; the server's log says why"));
  stored.refused = "";
  stored.store.load("b");
  CHECK(stored.store.ready() == std::vector<std::string>{"a", "b"});
  CHECK(contains(thrown_by<plainconv::Error>([&] {
                   Stored named(folder.path, "n");
                   named.store.load_all();
                 }),
                 "leave --name out"));
  const Folder empty;
  CHECK(contains(thrown_by<plainconv::Error>([&] { Stored(empty.path).store.load_all(); }), "holds neither a bundle"));
}

TEST_CASE("a new version takes the place of the old one, which stays for those who have it") {
  const Folder folder;
  const std::string first = write(folder.path / "a", "1");
  Stored stored(folder.path);
  stored.store.load_all();
  const auto held = stored.store.use("a");
  const std::weak_ptr<const plainconv::serve::Model> old = held;
  const std::string second = write(folder.path / "a", "2");
  stored.store.refresh();
  CHECK(stored.told == std::vector<std::string>{"model a: reloaded, " + second.substr(0, 12) + " in the place of " +
                                                first.substr(0, 12)});
  CHECK((held->network().sha256() == first && stored.store.use("a")->network().sha256() == second));
  stored.refused = write(folder.path / "a", "3");
  stored.store.refresh();
  stored.store.refresh();
  CHECK(stored.complaints == std::vector<std::string>{"model a: no bundle"});
  CHECK(stored.store.use("a")->network().sha256() == second);
  CHECK_FALSE(old.expired());
}

TEST_CASE("what nobody holds any more ends, and what is unloaded stays so") {
  const Folder folder;
  write(folder.path / "a", "1");
  Stored stored(folder.path);
  stored.store.load_all();
  std::weak_ptr<const plainconv::serve::Model> old;
  {
    const auto held = stored.store.use("a");
    old = held;
    stored.store.unload("a");
    CHECK_FALSE(old.expired());
  }
  stored.store.refresh();
  CHECK(old.expired());
  CHECK(refusal(stored, "a") == "model 'a' is not loaded (unloaded)");
  write(folder.path / "a", "2");
  stored.store.refresh();
  CHECK(stored.store.ready().empty());
  stored.store.unload("none");
  CHECK_FALSE(thrown_by<Refused>([&] { stored.store.unload("../a"); }).empty());
  stored.store.load("a");
  CHECK(stored.store.ready() == std::vector<std::string>{"a"});
}

TEST_CASE("a new version that does not load is tried again once its files have changed") {
  const Folder folder;
  write(folder.path / "a", "1");
  Stored stored(folder.path / "a");
  stored.store.load_all();
  const std::string second = write(folder.path / "a", "2");  // the manifest alone, its files are still to come
  stored.refused = second;
  stored.store.refresh();
  stored.refused = "";
  stored.store.refresh();
  CHECK((stored.opened.size() == 2 && stored.told.empty()));
  std::ofstream(folder.path / "a" / "model.onnx") << "x";
  stored.store.refresh();
  CHECK((stored.opened.size() == 3 && stored.told.size() == 1));
  CHECK(stored.store.use("sums_of_rows")->network().sha256() == second);
}

TEST_CASE("a link is read as the folder that it meant when loading began") {
  const Folder folder;
  write(folder.path / "one", "1");
  fs::create_directory_symlink("one", folder.path / "b");
  Stored stored(folder.path / "b");
  stored.store.load_all();
  CHECK(stored.opened == std::vector<fs::path>{fs::canonical(folder.path / "one")});
}

TEST_CASE("a look that fails is told of, and the next one comes") {
  std::atomic<int> looks = 0;
  std::atomic<int> told = 0;
  {
    const plainconv::serve::Watcher watcher(
        plainconv::serve::Seconds(0.001),
        [&] {
          if (++looks < 3) {
            throw std::bad_alloc();
          }
        },
        [&](const std::string&) { ++told; });
    while (looks < 4) {
      std::this_thread::yield();
    }
  }
  CHECK(told == 2);
}
