#include "certificates.hpp"

#include <sys/stat.h>

#include <filesystem>

#include "bundle/plain_file.hpp"
#include "text.hpp"

namespace plainconv::serve {
namespace {

std::string read_file(const std::string& path) {
  constexpr std::size_t most = 1024 * 1024UL;
  std::error_code error;
  const auto place = std::filesystem::canonical(path, error);  // Kubernetes mounts secrets behind symbolic links
  if (error) {
    throw SystemError{error.value(), path};
  }
  const PlainFile file(place, path);
  std::string all(most, '\0');
  std::size_t size = 0;
  while (const std::size_t count = file.read(std::span(all).subspan(size))) {
    size += count;
  }
  all.resize(size);
  return all;
}

}  // namespace

Certificates::Certificates(std::string cert, std::string key, Batcher::Complain complain)
    : cert_(std::move(cert)), key_(std::move(key)), complain_(std::move(complain)), state_(seen()) {
  read();
}

std::shared_ptr<Certificates::Context> Certificates::context() const {
  const std::scoped_lock lock(mutex_);
  return context_;
}

std::shared_ptr<const Certificates::Pair> Certificates::pair() const {
  const std::scoped_lock lock(mutex_);
  return pair_;
}

void Certificates::refresh() {
  State now = seen();
  if (now == state_) {
    return;
  }
  state_ = std::move(now);
  try {
    read();
  } catch (const Error& error) {
    complain_(text(error.what(), "; the one before stays"));
  }
}

/// What tells a file from the one that was there before.
Certificates::State Certificates::seen() const {
  State state;
  for (const std::string& path : {cert_, key_}) {
    struct stat found = {};
    if (::stat(path.c_str(), &found) == 0) {
      state.push_back(
          {found.st_mtim.tv_sec, found.st_mtim.tv_nsec, found.st_size, static_cast<std::int64_t>(found.st_ino)});
    }
  }
  return state;
}

void Certificates::read() {
  std::string why;
  try {
    auto context = std::make_shared<Context>(Context::tls_server);
    context->set_options(Context::default_workarounds | Context::no_tlsv1 | Context::no_tlsv1_1);
    ::SSL_CTX_set_mode(context->native_handle(), SSL_MODE_RELEASE_BUFFERS);
    context->set_password_callback([](std::size_t, Context::password_purpose) { return std::string(); });
    const auto pair = std::make_shared<const Pair>(Pair{read_file(cert_), read_file(key_)});
    context->use_certificate_chain(boost::asio::buffer(pair->cert));
    context->use_private_key(boost::asio::buffer(pair->key), Context::pem);
    if (::SSL_CTX_check_private_key(context->native_handle()) == 1) {
      const std::scoped_lock lock(mutex_);
      context_ = std::move(context);
      pair_ = pair;
      return;
    }
    why = "the key is another's";
  } catch (const SystemError& error) {
    why = std::generic_category().message(error.number);
  } catch (const std::exception& error) {  // asio's, or that it is no plain file
    why = one_line(error.what());
  }
  throw Error(text(cert_, " and ", key_, " cannot be used (", why,
                   "); wanted a certificate and its key, without a password, in PEM files"));
}

}  // namespace plainconv::serve
