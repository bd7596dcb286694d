#include "grpc/guests.hpp"

#include <malloc.h>

#include <algorithm>
#include <boost/asio/ip/tcp.hpp>
#include <utility>

#include "text.hpp"

namespace plainconv::serve::rpc {
namespace {

using Socket = Doorway::Socket;

constexpr std::size_t most_given_up = 256;
constexpr std::size_t most_under_way = most_streams + most_given_up;  // beyond its streams: begun, given up, not ended
constexpr std::uint64_t most_idle = 16 * mebibyte;  // received beside messages: more than begins calls
constexpr std::uint64_t much = 64 * 1024;           // the same, so that it may have left free memory behind
constexpr Seconds settled(0.5);                     // until gRPC has left what a connection had

/// "127.0.0.1:50000", "::1:50000"; "" of a Unix socket.
std::string name_of(const Socket& socket) {
  boost::system::error_code ignored;
  const auto end = tcp_of(socket.remote_endpoint(ignored));
  if (!end) {
    return "";
  }
  auto address = end->address();
  if (address.is_v6() && address.to_v6().is_v4_mapped()) {
    address = boost::asio::ip::make_address_v4(boost::asio::ip::v4_mapped, address.to_v6());
  }
  return text(address.to_string(), ":", end->port());
}

/// What is free, which glibc else keeps for each of its threads.
void give_memory_back() {
#ifdef __GLIBC__
  ::malloc_trim(0);
#endif
}

}  // namespace

std::string name_of(std::string_view peer) {
  std::string name(peer.starts_with("ip") ? peer.substr(peer.find(':') + 1) : "");
  for (const std::string_view bracket : {"%5B", "%5D", "[", "]"}) {
    if (const auto at = name.find(bracket); at != std::string::npos) {
      name.erase(at, bracket.size());
    }
  }
  return name;
}

std::string address_of(std::string_view peer) {
  const std::string name = name_of(peer);
  return name.substr(0, name.rfind(':'));
}

Guests::Guests(std::size_t most, std::size_t most_message, std::size_t most_messages)
    : share_(most - most / kept), most_message_(most_message), most_messages_(most_messages) {}

void Guests::add(std::shared_ptr<Socket> second, Doorway::Place place) {
  std::string name = name_of(*second);
  Socket& socket = *second;
  if (!name.empty()) {
    const std::scoped_lock lock(mutex_);
    guests_[name] = {&socket};
  }
  socket.async_wait(Socket::wait_error, [this, name, second = std::move(second),
                                         kept_place = std::move(place)](const boost::system::error_code&) {
    const std::scoped_lock lock(mutex_);
    const auto found = guests_.find(name);
    if (found != guests_.end() && found->second.second == second.get()) {
      if (received_by(second->native_handle()) > found->second.received + much) {
        littered_ = Clock::now();
      }
      guests_.erase(found);
    }
  });
}

void Guests::cut(Guest& guest) {
  boost::system::error_code ignored;
  guest.second->shutdown(Socket::shutdown_both, ignored);  // gRPC closes it then
  littered_ = Clock::now();
}

Guests::Guest* Guests::of(std::string_view peer) {
  const auto found = guests_.find(name_of(peer));
  return found == guests_.end() ? nullptr : &found->second;
}

bool Guests::began(std::string_view peer, bool is_large) {
  const std::string address = address_of(peer);
  const std::scoped_lock lock(mutex_);
  const std::size_t calls = ++calls_of_[address];
  if (Guest* guest = of(peer)) {
    guest->received = received_by(guest->second->native_handle());
    guest->large += is_large ? 1 : 0;
    if (++guest->calls > most_under_way) {
      cut(*guest);
    }
  }
  return address.empty() || calls <= share_;
}

void Guests::moved(std::string_view peer) {
  const std::scoped_lock lock(mutex_);
  if (Guest* guest = of(peer)) {
    guest->received = received_by(guest->second->native_handle());
  }
}

void Guests::ended(std::string_view peer, bool is_large, bool is_given_up) {
  const std::string address = address_of(peer);
  const std::scoped_lock lock(mutex_);
  if (--calls_of_[address] == 0) {
    calls_of_.erase(address);
  }
  if (Guest* guest = of(peer)) {
    guest->calls -= guest->calls == 0 ? 0 : 1;
    guest->large -= is_large && guest->large != 0 ? 1 : 0;
    guest->received = received_by(guest->second->native_handle());
    guest->given_up = is_given_up ? guest->given_up + 1 : guest->given_up - std::min<std::size_t>(guest->given_up, 1);
    if (guest->given_up > most_given_up) {
      cut(*guest);
    }
  }
}

void Guests::look(Clock::time_point now) {
  std::unique_lock lock(mutex_);
  for (auto& [name, guest] : guests_) {
    const std::size_t messages = std::min(guest.large * most_message_, most_messages_);
    if (received_by(guest.second->native_handle()) > guest.received + most_idle + messages) {
      cut(guest);
    }
  }
  if (littered_ && now > *littered_ + settled) {
    littered_.reset();
    lock.unlock();
    give_memory_back();
  }
}

}  // namespace plainconv::serve::rpc
