"""TLS by OpenSSL, non-blocking, called from workers without the GIL; and plain writes beside it.

One SSL_CTX serves all workers: it is read-only once published.  A connection's SSL is used by its
worker alone.  Buffers are released while a connection is idle (SSL_MODE_RELEASE_BUFFERS).
"""

cdef extern from "<openssl/ssl.h>" nogil:
    ctypedef struct SSL_METHOD:
        pass
    const SSL_METHOD* TLS_server_method()
    SSL_CTX* SSL_CTX_new(const SSL_METHOD* method)
    void SSL_CTX_free(SSL_CTX* ctx)
    int SSL_CTX_use_certificate_chain_file(SSL_CTX* ctx, const char* path)
    int SSL_CTX_use_PrivateKey_file(SSL_CTX* ctx, const char* path, int kind)
    int SSL_CTX_check_private_key(SSL_CTX* ctx)
    int SSL_CTX_set_min_proto_version(SSL_CTX* ctx, int version)
    uint64_t SSL_CTX_set_options(SSL_CTX* ctx, uint64_t options)
    long SSL_CTX_set_mode(SSL_CTX* ctx, long mode)
    void SSL_CTX_set_read_ahead(SSL_CTX* ctx, int yes)
    SSL* SSL_new(SSL_CTX* ctx)
    void SSL_free(SSL* ssl)
    int SSL_set_fd(SSL* ssl, int fd)
    void SSL_set_accept_state(SSL* ssl)
    int SSL_do_handshake(SSL* ssl)
    int SSL_shutdown(SSL* ssl)
    void SSL_set_quiet_shutdown(SSL* ssl, int mode)
    int SSL_get_error(const SSL* ssl, int result)
    int SSL_is_init_finished(const SSL* ssl)
    int SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE, SSL_ERROR_ZERO_RETURN, SSL_ERROR_SYSCALL
    int SSL_FILETYPE_PEM, TLS1_2_VERSION
    uint64_t SSL_OP_NO_RENEGOTIATION, SSL_OP_NO_COMPRESSION, SSL_OP_CIPHER_SERVER_PREFERENCE
    long SSL_MODE_RELEASE_BUFFERS, SSL_MODE_ENABLE_PARTIAL_WRITE
    long SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER

cdef extern from "<openssl/err.h>" nogil:
    unsigned long ERR_get_error()
    void ERR_clear_error()
    const char* ERR_reason_error_string(unsigned long code)

cdef extern from *:
    """
    /* RFC 7301: of what the client offers only http/1.1 is ours; an offer without it is refused. */
    static int nx_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                       const unsigned char *in, unsigned int in_len, void *arg) {
        static const unsigned char ours[] = "\\x08http/1.1";
        (void)ssl; (void)arg;
        return SSL_select_next_proto((unsigned char **)out, out_len, ours, 9, in, in_len)
            == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
    }
    static void nx_use_alpn(SSL_CTX *ctx) { SSL_CTX_set_alpn_select_cb(ctx, nx_alpn, NULL); }
    """
    void nx_use_alpn(SSL_CTX* ctx) nogil


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
    if SSL_set_fd(ssl, conn.fd) != 1:
        SSL_free(ssl)
        return CORE_FULL
    SSL_set_accept_state(ssl)
    conn.ssl = ssl
    return 1


cdef int tls_handshake(Conn* conn) noexcept nogil:
    """Go on with the TLS handshake.  Returns 1 when it is done, 0 to wait, IO_TLS."""
    cdef int result = SSL_do_handshake(<SSL*>conn.ssl)
    cdef int error
    if result == 1:
        # OpenSSL reads ahead: it may hold what came behind the handshake, and epoll knows only
        # what the kernel holds.
        conn.flags |= FLAG_READABLE
        return 1
    error = SSL_get_error(<SSL*>conn.ssl, result)
    if error == SSL_ERROR_WANT_READ:
        conn.flags &= ~FLAG_READABLE
        return 0
    if error == SSL_ERROR_WANT_WRITE:
        conn.flags &= ~FLAG_WRITABLE
        return 0
    ERR_clear_error()
    conn.flags |= FLAG_BROKEN
    return IO_TLS


cdef ssize_t tls_recv(Conn* conn, uint8_t* data, size_t size) noexcept nogil:
    cdef int got = SSL_read(<SSL*>conn.ssl, data, <int>size)
    cdef int error
    if got > 0:
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


cdef class Context:
    """A server's TLS settings with one certificate: TLS 1.2 and 1.3, ALPN http/1.1.

    Raises:
        ValueError: a file cannot be read, or the key is not the certificate's; says which.
    """

    def __cinit__(self, str certificate, str key):
        cdef bytes cert_path = certificate.encode()
        cdef bytes key_path = key.encode()
        ERR_clear_error()
        self.c = SSL_CTX_new(TLS_server_method())
        if self.c == NULL:
            raise MemoryError("SSL_CTX_new")
        SSL_CTX_set_min_proto_version(self.c, TLS1_2_VERSION)
        SSL_CTX_set_options(
            self.c,
            SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE,
        )
        SSL_CTX_set_mode(
            self.c,
            SSL_MODE_RELEASE_BUFFERS
            | SSL_MODE_ENABLE_PARTIAL_WRITE
            | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER,
        )
        SSL_CTX_set_read_ahead(self.c, 1)
        nx_use_alpn(self.c)
        if SSL_CTX_use_certificate_chain_file(self.c, cert_path) != 1:
            raise ValueError(f"certificate {certificate} cannot be used: {_reason()}")
        if SSL_CTX_use_PrivateKey_file(self.c, key_path, SSL_FILETYPE_PEM) != 1:
            raise ValueError(f"key {key} cannot be used: {_reason()}")
        if SSL_CTX_check_private_key(self.c) != 1:
            raise ValueError(f"key {key} does not belong to certificate {certificate}")

    def __dealloc__(self):
        SSL_CTX_free(self.c)


cdef str _reason():
    """OpenSSL's words for what went wrong, and its error queue emptied."""
    cdef const char* text = ERR_reason_error_string(ERR_get_error())
    ERR_clear_error()
    return text.decode() if text != NULL else "unreadable"
