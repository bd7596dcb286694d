// Asio and Beast themselves, compiled once: BOOST_ASIO_SEPARATE_COMPILATION and its like are set for the server.
#include <boost/asio/impl/src.hpp>
#include <boost/asio/ssl/impl/src.hpp>
#include <boost/beast/src.hpp>
