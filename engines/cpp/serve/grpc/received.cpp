#include <linux/tcp.h>  // it knows more than netinet/tcp.h, and bears no other beside it
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>

namespace plainconv::serve::rpc {

std::uint64_t received_by(int socket) {
  tcp_info info{};
  socklen_t size = sizeof(info);
  return ::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 ? info.tcpi_bytes_received : 0;
}

}  // namespace plainconv::serve::rpc
