"""TLS by OpenSSL, non-blocking, called from workers without the GIL; and plain writes beside it.

The contexts serve all workers: they are read-only once published (`_contexts`).  A connection's SSL
is used by its worker alone.  Buffers are released while a connection is idle
(SSL_MODE_RELEASE_BUFFERS).
"""

cdef extern from "<openssl/bio.h>" nogil:
    ctypedef struct BIO:
        pass
    ctypedef struct BIO_METHOD:
        pass
    int BIO_get_new_index()
    int BIO_TYPE_SOURCE_SINK, BIO_CTRL_FLUSH
    BIO_METHOD* BIO_meth_new(int type, const char* name)
    int BIO_meth_set_read(BIO_METHOD* method, int (*read)(BIO*, char*, int) noexcept nogil)
    int BIO_meth_set_write(BIO_METHOD* method, int (*write)(BIO*, const char*, int) noexcept nogil)
    int BIO_meth_set_ctrl(BIO_METHOD* method, long (*ctrl)(BIO*, int, long, void*) noexcept nogil)
    BIO* BIO_new(const BIO_METHOD* method)
    void BIO_set_data(BIO* bio, void* data)
    void* BIO_get_data(BIO* bio)
    void BIO_set_init(BIO* bio, int yes)
    void BIO_clear_retry_flags(BIO* bio)
    void BIO_set_retry_read(BIO* bio)
    void BIO_set_retry_write(BIO* bio)

cdef extern from "<openssl/ssl.h>" nogil:
    ctypedef struct X509_VERIFY_PARAM:
        pass
    SSL* SSL_new(SSL_CTX* ctx)
    void SSL_free(SSL* ssl)
    void SSL_set_bio(SSL* ssl, BIO* from_peer, BIO* to_peer)
    int SSL_has_pending(const SSL* ssl)
    void SSL_set_accept_state(SSL* ssl)
    void SSL_set_connect_state(SSL* ssl)
    int SSL_set_tlsext_host_name(SSL* ssl, const char* name)
    int SSL_set1_host(SSL* ssl, const char* name)
    void SSL_set_hostflags(SSL* ssl, unsigned int flags)
    X509_VERIFY_PARAM* SSL_get0_param(SSL* ssl)
    int X509_VERIFY_PARAM_set1_ip_asc(X509_VERIFY_PARAM* param, const char* address)
    char* X509_VERIFY_PARAM_get1_ip_asc(X509_VERIFY_PARAM* param)
    void OPENSSL_free(void* memory)
    SSL_CTX* SSL_get_SSL_CTX(const SSL* ssl)
    const char* SSL_get_servername(const SSL* ssl, int type)
    int TLSEXT_NAMETYPE_host_name
    int SSL_get_verify_mode(const SSL* ssl)
    long SSL_get_verify_result(const SSL* ssl)
    int SSL_do_handshake(SSL* ssl)
    int SSL_shutdown(SSL* ssl)
    int SSL_get_error(const SSL* ssl, int result)
    int SSL_is_init_finished(const SSL* ssl)
    int SSL_get_state(const SSL* ssl)
    int TLS_ST_SW_SESSION_TICKET
    int SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE, SSL_ERROR_ZERO_RETURN, SSL_ERROR_SYSCALL
    int SSL_VERIFY_PEER
    int X509_V_OK, X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID
    int X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN
    int X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
    int X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    int X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE, X509_V_ERR_CERT_CHAIN_TOO_LONG

cdef extern from "<openssl/x509v3.h>" nogil:
    unsigned int X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS

cdef extern from "<openssl/err.h>" nogil:
    void ERR_clear_error()

# --- between OpenSSL and the socket -----------------------------------------------------------------

# A socket BIO of OpenSSL asks the kernel each time until that says EAGAIN, a third of the calls of a
# handshake.  Ours remembers a read that got less than it had room for: epoll tells of what comes next.


cdef int _bio_read(BIO* bio, char* data, int size) noexcept nogil:
    cdef Conn* conn = <Conn*>BIO_get_data(bio)
    cdef ssize_t got
    BIO_clear_retry_flags(bio)
    if conn.flags & FLAG_DRAINED:
        BIO_set_retry_read(bio)
        return -1
    while True:
        got = recv(conn.fd, data, <size_t>size, 0)
        if got >= 0 or errno != EINTR:
            break
    if got > 0:
        if got < size and not conn.flags & FLAG_HUNG_UP:
            conn.flags |= FLAG_DRAINED
        return <int>got
    if got < 0 and errno == EAGAIN:
        conn.flags |= FLAG_DRAINED
        BIO_set_retry_read(bio)
    return <int>got


cdef int _bio_write(BIO* bio, const char* data, int size) noexcept nogil:
    cdef Conn* conn = <Conn*>BIO_get_data(bio)
    cdef ssize_t put
    cdef int flags = MSG_NOSIGNAL
    BIO_clear_retry_flags(bio)
    if SSL_get_state(<SSL*>conn.ssl) == TLS_ST_SW_SESSION_TICKET:
        flags |= MSG_MORE  # TLS 1.3: nobody waits for it; the answer's segment takes it along
    while True:
        put = send(conn.fd, data, <size_t>size, flags)
        if put >= 0 or errno != EINTR:
            break
    if put < 0 and errno == EAGAIN:
        BIO_set_retry_write(bio)
    return <int>put


cdef long _bio_ctrl(BIO* bio, int command, long number, void* pointer) noexcept nogil:
    return command == BIO_CTRL_FLUSH  # nothing is held back; no other command has a meaning here


cdef BIO_METHOD* _method = BIO_meth_new(
    BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, b"connection of narthex"
)
if _method == NULL:
    raise MemoryError("BIO_meth_new")
BIO_meth_set_read(_method, _bio_read)
BIO_meth_set_write(_method, _bio_write)
BIO_meth_set_ctrl(_method, _bio_ctrl)


cdef bint _use_socket(SSL* ssl, Conn* conn) noexcept nogil:
    cdef BIO* bio = BIO_new(_method)
    if bio == NULL:
        ERR_clear_error()
        return False
    BIO_set_data(bio, conn)
    BIO_set_init(bio, 1)
    SSL_set_bio(ssl, bio, bio)  # takes over our reference
    return True


# --- handshakes -------------------------------------------------------------------------------------


cdef int tls_start(Worker* worker, Conn* conn) noexcept nogil:
    """Give a fresh client connection its TLS side.  Returns 1 or CORE_FULL."""
    cdef SSL_CTX* ctx = <SSL_CTX*>nx_load_ptr(&worker.shared.tls)
    cdef SSL* ssl
    if ctx == NULL:
        return CORE_FULL
    ssl = SSL_new(ctx)
    if ssl == NULL:
        ERR_clear_error()
        return CORE_FULL
    if not _use_socket(ssl, conn):
        SSL_free(ssl)
        return CORE_FULL
    SSL_set_accept_state(ssl)
    conn.ssl = ssl
    return 1


cdef uint32_t _host_of(const uint8_t* head, uint32_t size, char* out256) noexcept nogil:
    """The host in the Host field right behind a request line, without its port.  Returns bytes."""
    cdef const uint8_t* line = <const uint8_t*>memchr(head, 10, size)
    cdef uint32_t left
    cdef uint32_t length = 0
    cdef uint8_t end = 58  # :
    if line == NULL:
        return 0
    left = size - <uint32_t>(line + 1 - head)
    if left < 7 or memcmp(line + 1, b"Host: ", 6) != 0:
        return 0
    line += 7
    left -= 6
    if line[0] == 91:  # [: an IPv6 address
        line += 1
        left -= 1
        end = 93
    while length < left and length < 255 and line[length] != end and line[length] != 13:
        out256[length] = <char>line[length]
        length += 1
    while length and out256[length - 1] == 46:  # a name's root
        length -= 1
    out256[length] = 0
    return length


cdef int tls_connect(Conn* conn, void* ctx, const uint8_t* head, uint32_t size) noexcept nogil:
    cdef char host[256]
    cdef SSL* ssl = SSL_new(<SSL_CTX*>ctx)
    if ssl == NULL:
        ERR_clear_error()
        return CORE_FULL
    conn.ssl = ssl
    if not _use_socket(ssl, conn) or _host_of(head, size, host) == 0:
        ERR_clear_error()
        return CORE_FULL
    SSL_set_connect_state(ssl)
    if X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host) != 1:  # RFC 6066 §3: no IP in SNI
        ERR_clear_error()
        SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS)
        if SSL_set1_host(ssl, host) != 1 or SSL_set_tlsext_host_name(ssl, host) != 1:
            ERR_clear_error()
            return CORE_FULL
    return 1


cdef bint tls_fits(const Conn* conn, void* ctx, const Span* host) noexcept nogil:
    cdef const char* name
    if conn.ssl == NULL or ctx == NULL:
        return conn.ssl == NULL and ctx == NULL
    if SSL_get_SSL_CTX(<SSL*>conn.ssl) != <SSL_CTX*>ctx:
        return False
    name = SSL_get_servername(<SSL*>conn.ssl, TLSEXT_NAMETYPE_host_name)
    if name == NULL:
        return _was_checked_for(<SSL*>conn.ssl, host)
    return strlen(name) == host.size and memcmp(name, host.data, host.size) == 0


cdef bint _was_checked_for(SSL* ssl, const Span* host) noexcept nogil:
    """Whether this is the address that the certificate is to be for.

    It need not be the peer's: an upstream's `host_header` may be another.
    """
    cdef char text[64]
    cdef char* checked
    cdef uint8_t wanted[16]
    cdef uint8_t given[16]
    cdef int family
    if host.size >= sizeof(text):
        return False
    memcpy(text, host.data, host.size)
    text[host.size] = 0
    checked = X509_VERIFY_PARAM_get1_ip_asc(SSL_get0_param(ssl))
    if checked == NULL:
        return False
    family = AF_INET6 if memchr(checked, 58, strlen(checked)) != NULL else AF_INET
    memset(wanted, 0, 16)
    memset(given, 0, 16)
    inet_pton(family, checked, given)
    OPENSSL_free(checked)
    return inet_pton(family, text, wanted) == 1 and memcmp(wanted, given, 16) == 0


cdef inline void _note_what_is_left(const SSL* ssl, Conn* conn) noexcept nogil:
    if conn.flags & FLAG_DRAINED and not SSL_has_pending(ssl):
        conn.flags &= ~FLAG_READABLE
    else:
        conn.flags |= FLAG_READABLE


cdef int tls_handshake(Conn* conn) noexcept nogil:
    cdef SSL* ssl = <SSL*>conn.ssl
    cdef int result = SSL_do_handshake(ssl)
    cdef int failed = errno
    cdef int error
    if result == 1:
        # OpenSSL reads ahead: it may hold what came behind the handshake, and epoll knows only
        # what the kernel holds.
        _note_what_is_left(ssl, conn)
        return 1
    error = SSL_get_error(ssl, result)
    if error == SSL_ERROR_WANT_READ:
        conn.flags &= ~FLAG_READABLE
        return 0
    if error == SSL_ERROR_WANT_WRITE:
        conn.flags &= ~FLAG_WRITABLE
        return 0
    ERR_clear_error()
    conn.flags |= FLAG_BROKEN
    if error == SSL_ERROR_SYSCALL and failed in (ECONNREFUSED, EHOSTUNREACH, ENETUNREACH):
        return -failed  # there is no connection: nothing of TLS has happened
    if SSL_get_verify_mode(ssl) & SSL_VERIFY_PEER and SSL_get_verify_result(ssl) != X509_V_OK:
        return IO_VERIFY - <int>SSL_get_verify_result(ssl)
    return IO_TLS


cdef const char* tls_why(int error) noexcept nogil:
    cdef int code = IO_VERIFY - error
    if error == IO_TLS:
        return b"upstream's TLS failed"
    if code == X509_V_ERR_CERT_HAS_EXPIRED:
        return b"upstream's certificate has expired"
    if code == X509_V_ERR_CERT_NOT_YET_VALID:
        return b"upstream's certificate is not valid yet"
    if code == X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
        return b"upstream's certificate is self-signed"
    if code == X509_V_ERR_HOSTNAME_MISMATCH or code == X509_V_ERR_IP_ADDRESS_MISMATCH:
        return b"upstream's certificate is for another name"
    if (
        code == X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT
        or code == X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY
        or code == X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE
        or code == X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN
    ):
        return b"upstream's certificate is of an unknown CA"
    if code == X509_V_ERR_CERT_CHAIN_TOO_LONG:
        return b"upstream's certificate chain is longer than tls_verify_depth"
    return b"upstream's certificate cannot be verified"


# --- reads and writes -------------------------------------------------------------------------------


cdef ssize_t tls_recv(Conn* conn, uint8_t* data, size_t size) noexcept nogil:
    cdef int got = SSL_read(<SSL*>conn.ssl, data, <int>size)
    cdef int error
    if got > 0:
        _note_what_is_left(<SSL*>conn.ssl, conn)
        return got
    error = SSL_get_error(<SSL*>conn.ssl, got)
    conn.flags &= ~FLAG_READABLE
    if error == SSL_ERROR_WANT_READ or error == SSL_ERROR_WANT_WRITE:
        return 0
    if error == SSL_ERROR_ZERO_RETURN:
        conn.flags |= FLAG_EOF
        return IO_EOF
    ERR_clear_error()
    conn.flags |= FLAG_BROKEN
    return IO_TLS


cdef ssize_t tls_send(Conn* conn, const uint8_t* data, size_t size) noexcept nogil:
    cdef int put
    cdef int error
    if size == 0:
        return 0
    put = SSL_write(<SSL*>conn.ssl, data, <int>size)
    if put > 0:
        return put
    error = SSL_get_error(<SSL*>conn.ssl, put)
    conn.flags &= ~FLAG_WRITABLE
    if error == SSL_ERROR_WANT_READ or error == SSL_ERROR_WANT_WRITE:
        return 0
    ERR_clear_error()
    conn.flags |= FLAG_BROKEN
    return IO_TLS


cdef int conn_write(Conn* conn, const uint8_t* data, uint32_t size) noexcept nogil:
    return conn_write_most(conn, data, size, OUTPUT_BYTES_MAX)


cdef int conn_write_most(
    Conn* conn, const uint8_t* data, uint32_t size, uint32_t most
) noexcept nogil:
    """Send, in order after what is pending; what the socket will not take is kept.

    Returns 1, CORE_FULL when more than `most` bytes would be pending, or the send's error.
    """
    cdef ssize_t put
    if buffer_size(&conn.output) == 0 and conn.flags & FLAG_WRITABLE:
        while size:
            put = conn_send(conn, data, size)
            if put < 0:
                return <int>put
            if put == 0:
                break
            data += put
            size -= <uint32_t>put
            if not conn.flags & FLAG_WRITABLE:
                break
        if size == 0:
            return 1
    return buffer_append(&conn.output, data, size, most)


cdef int conn_flush(Conn* conn) noexcept nogil:
    """Send what is pending.  Returns 1 when nothing is left, 0 when some is, or the error."""
    cdef ssize_t put
    while buffer_size(&conn.output) != 0:
        if not conn.flags & FLAG_WRITABLE:
            return 0
        put = conn_send(conn, conn.output.data + conn.output.head, buffer_size(&conn.output))
        if put < 0:
            return <int>put
        if put == 0:
            return 0
        buffer_consume(&conn.output, <uint32_t>put)
    return 1


cdef void conn_shutdown(Conn* conn) noexcept nogil:
    """End our sending side: close_notify where there is TLS, then FIN."""
    if conn.flags & (FLAG_SHUT | FLAG_BROKEN):
        return
    conn.flags |= FLAG_SHUT
    if conn.ssl != NULL and SSL_is_init_finished(<SSL*>conn.ssl):
        SSL_shutdown(<SSL*>conn.ssl)
        ERR_clear_error()
    shutdown(conn.fd, SHUT_WR)


cdef void conn_end(Worker* worker, Conn* conn) noexcept nogil:
    if conn.flags & FLAG_DEAD:
        return
    if conn.ssl != NULL:
        conn_shutdown(conn)
        SSL_free(<SSL*>conn.ssl)
        conn.ssl = NULL
    conn_close(worker, conn)
