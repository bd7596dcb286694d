// The certificate and its key: checked when the server starts, and read anew when their files change.
#pragma once

#include <array>
#include <boost/asio/ssl/context.hpp>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "batcher.hpp"

namespace plainconv::serve {

class Certificates {
 public:
  using Context = boost::asio::ssl::context;

  /// Throws Error where they are no pair that can be read without asking anyone. `complain` is told of a later one.
  Certificates(std::string cert, std::string key, Batcher::Complain complain);

  /// Take a pair that has been replaced; of one that does not hold the one before stays.
  void refresh();

  /// A certificate and its key as their files have them.
  struct Pair {
    std::string cert;
    std::string key;
  };

  /// Of the newest pair.
  [[nodiscard]] std::shared_ptr<Context> context() const;
  [[nodiscard]] std::shared_ptr<const Pair> pair() const;

 private:
  using State = std::vector<std::array<std::int64_t, 4>>;
  [[nodiscard]] State seen() const;
  void read();

  std::string cert_;
  std::string key_;
  Batcher::Complain complain_;
  State state_;
  mutable std::mutex mutex_;
  std::shared_ptr<Context> context_;
  std::shared_ptr<const Pair> pair_;
};

}  // namespace plainconv::serve
