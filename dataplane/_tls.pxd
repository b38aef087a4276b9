"""TLS by OpenSSL, and the reads and writes of every connection, encrypted or not."""

from dataplane._contexts cimport *
from dataplane._core cimport *
from dataplane._sys cimport *

cdef extern from "<openssl/ssl.h>" nogil:
    int SSL_read(SSL* ssl, void* data, int size)
    int SSL_write(SSL* ssl, const void* data, int size)

cdef int tls_start(Worker* worker, Conn* conn) noexcept nogil
# Give a connection to an upstream its TLS side.  head[0:size]: the request that will be sent; its
# Host, the field behind the request line, is the name asked for and checked.  1 or CORE_FULL.
cdef int tls_connect(Conn* conn, void* ctx, const uint8_t* head, uint32_t size) noexcept nogil
# Whether a connection to an upstream is as tls_connect would make it for this host, which its
# Host named.  `ctx` NULL: whether it is plaintext.
cdef bint tls_fits(const Conn* conn, void* ctx, const Span* host) noexcept nogil
# Go on with either side's handshake.  1: done, 0: wait, IO_TLS, IO_VERIFY - X509_V_ERR_*, or -errno
# when the connect before it failed.
cdef int tls_handshake(Conn* conn) noexcept nogil
cdef const char* tls_why(int error) noexcept nogil  # static text for the record
cdef ssize_t tls_recv(Conn* conn, uint8_t* data, size_t size) noexcept nogil
cdef ssize_t tls_send(Conn* conn, const uint8_t* data, size_t size) noexcept nogil
cdef void conn_end(Worker* worker, Conn* conn) noexcept nogil  # TLS goodbye, then conn_close
cdef int conn_write(Conn* conn, const uint8_t* data, uint32_t size) noexcept nogil
cdef int conn_write_most(
    Conn* conn, const uint8_t* data, uint32_t size, uint32_t most
) noexcept nogil
cdef int conn_flush(Conn* conn) noexcept nogil
cdef void conn_shutdown(Conn* conn) noexcept nogil


cdef inline ssize_t conn_recv(Conn* conn, uint8_t* data, size_t size) noexcept nogil:
    """Read what is there.  Returns bytes, 0 for nothing now, IO_EOF, IO_TLS or -errno.

    Clears FLAG_READABLE when the kernel has no more: edge-triggered epoll tells of the next.
    """
    cdef ssize_t got
    if conn.ssl != NULL:
        return tls_recv(conn, data, size)
    while True:
        got = recv(conn.fd, data, size, 0)
        if nx_likely(got > 0):
            if <size_t>got < size and not conn.flags & FLAG_HUNG_UP:
                conn.flags &= ~FLAG_READABLE
            return got
        if got == 0:
            conn.flags = (conn.flags | FLAG_EOF) & ~FLAG_READABLE
            return IO_EOF
        if errno == EINTR:
            continue
        conn.flags &= ~FLAG_READABLE
        if errno == EAGAIN:
            return 0
        conn.flags |= FLAG_BROKEN
        return -errno


cdef inline ssize_t conn_send(Conn* conn, const uint8_t* data, size_t size) noexcept nogil:
    """Write what the socket takes.  Returns bytes (0: none now), IO_TLS or -errno."""
    cdef ssize_t put
    if conn.ssl != NULL:
        return tls_send(conn, data, size)
    while True:
        put = send(conn.fd, data, size, MSG_NOSIGNAL)
        if nx_likely(put >= 0):
            if <size_t>put < size:
                conn.flags &= ~FLAG_WRITABLE
            return put
        if errno == EINTR:
            continue
        conn.flags &= ~FLAG_WRITABLE
        if errno == EAGAIN:
            return 0
        conn.flags |= FLAG_BROKEN
        return -errno
