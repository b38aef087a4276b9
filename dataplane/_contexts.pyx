"""TLS contexts of OpenSSL: one for each pair that listeners show, one for each way to an upstream.

A context is built whole on the Python thread and read-only from then on; workers make connections
from it without the GIL.  `Contexts` hands out the same one for the same content while anyone has
it: an edit elsewhere parses nothing anew, and sessions of one certificate share its memory.
"""

import os
import re
import ssl as trust
from weakref import WeakValueDictionary

from cpython.bytes cimport PyBytes_AS_STRING

cdef extern from "<openssl/ssl.h>" nogil:
    ctypedef struct SSL_METHOD:
        pass
    ctypedef struct BIO:
        pass
    ctypedef struct X509:
        pass
    ctypedef struct EVP_PKEY:
        pass
    const SSL_METHOD* TLS_client_method()
    const SSL_METHOD* TLS_server_method()
    SSL_CTX* SSL_CTX_new(const SSL_METHOD* method)
    void SSL_CTX_free(SSL_CTX* ctx)
    int SSL_CTX_use_certificate(SSL_CTX* ctx, X509* certificate)
    int SSL_CTX_add1_chain_cert(SSL_CTX* ctx, X509* certificate)
    int SSL_CTX_use_PrivateKey(SSL_CTX* ctx, EVP_PKEY* key)
    int SSL_CTX_check_private_key(SSL_CTX* ctx)
    int SSL_CTX_set_min_proto_version(SSL_CTX* ctx, int version)
    uint64_t SSL_CTX_set_options(SSL_CTX* ctx, uint64_t options)
    long SSL_CTX_set_mode(SSL_CTX* ctx, long mode)
    void SSL_CTX_set_read_ahead(SSL_CTX* ctx, int yes)
    void SSL_CTX_set_verify(SSL_CTX* ctx, int mode, void* callback)
    void SSL_CTX_set_verify_depth(SSL_CTX* ctx, int depth)
    void SSL_CTX_set1_cert_store(SSL_CTX* ctx, X509_STORE* store)
    int SSL_CTX_set_alpn_protos(SSL_CTX* ctx, const uint8_t* protocols, unsigned int size)
    long SSL_CTX_set_session_cache_mode(SSL_CTX* ctx, long mode)
    X509_STORE* X509_STORE_new()
    void X509_STORE_free(X509_STORE* store)
    int X509_STORE_add_cert(X509_STORE* store, X509* certificate)
    int X509_STORE_load_file(X509_STORE* store, const char* path)
    BIO* BIO_new_mem_buf(const void* data, int size)
    int BIO_free(BIO* bio)
    X509* PEM_read_bio_X509(BIO* bio, void* out, void* password, void* context)
    EVP_PKEY* PEM_read_bio_PrivateKey(BIO* bio, void* out, void* password, void* context)
    void X509_free(X509* certificate)
    void EVP_PKEY_free(EVP_PKEY* key)
    int SSL_VERIFY_NONE, SSL_VERIFY_PEER, TLS1_2_VERSION
    long SSL_SESS_CACHE_OFF
    uint64_t SSL_OP_NO_RENEGOTIATION, SSL_OP_NO_COMPRESSION, SSL_OP_CIPHER_SERVER_PREFERENCE
    long SSL_MODE_RELEASE_BUFFERS, SSL_MODE_ENABLE_PARTIAL_WRITE
    long SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER

cdef extern from "<openssl/err.h>" nogil:
    unsigned long ERR_get_error()
    void ERR_clear_error()
    const char* ERR_reason_error_string(unsigned long code)

cdef extern from *:
    """
    /* A key that asks for a password is refused, not asked about on a terminal. */
    static int nx_no_password(char *out, int size, int writing, void *arg) {
        (void)out; (void)size; (void)writing; (void)arg;
        return -1;
    }
    static void *nx_password(void) { return (void *)nx_no_password; }

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
    void* nx_password() nogil

_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")  # how `openssl rehash` names a store's links


cdef str _reason():
    """OpenSSL's words for what went wrong, and its error queue emptied."""
    cdef const char* text = ERR_reason_error_string(ERR_get_error())
    ERR_clear_error()
    return text.decode() if text != NULL else "unreadable"


cdef list _certificates(bytes pem, str what):
    """The X509* of every certificate in a PEM text, as integers; the caller frees them."""
    cdef BIO* bio = BIO_new_mem_buf(PyBytes_AS_STRING(pem), <int>len(pem))
    cdef X509* one
    cdef list found = []
    if bio == NULL:
        raise MemoryError("BIO_new_mem_buf")
    ERR_clear_error()
    while True:
        one = PEM_read_bio_X509(bio, NULL, NULL, NULL)
        if one == NULL:
            break
        found.append(<size_t>one)
    BIO_free(bio)
    if not found:
        raise ValueError(f"{what} cannot be used: {_reason()}")
    ERR_clear_error()  # "no start line": the end of the text
    return found


cdef int _use_pair(SSL_CTX* ctx, bytes certificate, bytes key, tuple names) except -1:
    """Give a context a certificate, the chain behind it and its key.  `names`: for errors."""
    cdef list chain = _certificates(certificate, f"certificate {names[0]}")
    cdef BIO* bio
    cdef EVP_PKEY* private = NULL
    cdef size_t one
    try:
        one = chain[0]
        if SSL_CTX_use_certificate(ctx, <X509*>one) != 1:
            raise ValueError(f"certificate {names[0]} cannot be used: {_reason()}")
        for one in chain[1:]:
            if SSL_CTX_add1_chain_cert(ctx, <X509*>one) != 1:
                raise ValueError(f"certificate {names[0]} cannot be used: {_reason()}")
        bio = BIO_new_mem_buf(PyBytes_AS_STRING(key), <int>len(key))
        if bio == NULL:
            raise MemoryError("BIO_new_mem_buf")
        private = PEM_read_bio_PrivateKey(bio, NULL, nx_password(), NULL)
        BIO_free(bio)
        if private == NULL:
            raise ValueError(f"key {names[1]} cannot be used: {_reason()}")
        if SSL_CTX_use_PrivateKey(ctx, private) != 1 or SSL_CTX_check_private_key(ctx) != 1:
            ERR_clear_error()
            raise ValueError(f"key {names[1]} does not belong to certificate {names[0]}")
    finally:
        for one in chain:
            X509_free(<X509*>one)
        EVP_PKEY_free(private)
    return 0


cdef class Store:
    """Certificates that are trusted."""

    def __cinit__(self):
        self.c = X509_STORE_new()
        if self.c == NULL:
            raise MemoryError("X509_STORE_new")

    def __dealloc__(self):
        X509_STORE_free(self.c)

    cdef int add(self, bytes pem) except -1:
        cdef list found = _certificates(pem, "CA certificate")
        cdef size_t one
        for one in found:
            X509_STORE_add_cert(self.c, <X509*>one)
            X509_free(<X509*>one)
        ERR_clear_error()
        return 0

    cdef int add_system(self) except -1:
        """All of the system's store, now: a worker must not look for files while it verifies."""
        paths = trust.get_default_verify_paths()
        files = [paths.cafile] if paths.cafile else []
        if not files and paths.capath:
            files = sorted(
                entry.path for entry in os.scandir(paths.capath) if _HASHED.fullmatch(entry.name)
            )
        for path in files:
            X509_STORE_load_file(self.c, os.fsencode(path))
        ERR_clear_error()
        return 0


cdef class Context:
    """Owns one SSL_CTX."""

    def __dealloc__(self):
        SSL_CTX_free(self.c)


cdef int _prepare(SSL_CTX* ctx) noexcept:
    """What holds for both sides: TLS 1.2 and 1.3, nothing renegotiated, buffers only while in use."""
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION)
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION)
    SSL_CTX_set_mode(
        ctx,
        SSL_MODE_RELEASE_BUFFERS
        | SSL_MODE_ENABLE_PARTIAL_WRITE
        | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER,
    )
    SSL_CTX_set_read_ahead(ctx, 1)
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF)
    return 0


cdef Context _client(Store store, object depth, tuple pair):
    """How upstreams are spoken to; without a store they are not verified."""
    cdef Context made = Context.__new__(Context)
    made.c = SSL_CTX_new(TLS_client_method())
    if made.c == NULL:
        raise MemoryError("SSL_CTX_new")
    _prepare(made.c)
    SSL_CTX_set_alpn_protos(made.c, <const uint8_t*>b"\x08http/1.1", 9)
    if store is None:
        SSL_CTX_set_verify(made.c, SSL_VERIFY_NONE, NULL)
    else:
        SSL_CTX_set1_cert_store(made.c, store.c)
        SSL_CTX_set_verify(made.c, SSL_VERIFY_PEER, NULL)
        if depth is not None:
            SSL_CTX_set_verify_depth(made.c, depth)
    if pair is not None:
        _use_pair(made.c, pair[0], pair[1], ("of the client", "of the client"))
    return made


cdef Context server_context(tuple pairs, tuple names):
    cdef Context made = Context.__new__(Context)
    made.c = SSL_CTX_new(TLS_server_method())
    if made.c == NULL:
        raise MemoryError("SSL_CTX_new")
    _prepare(made.c)
    SSL_CTX_set_options(made.c, SSL_OP_CIPHER_SERVER_PREFERENCE)
    nx_use_alpn(made.c)
    for certificate, key in pairs:
        _use_pair(made.c, certificate, key, names)
    return made


cdef class Contexts:
    """Contexts by content, each kept while someone has it.  Python thread only."""

    def __cinit__(self):
        self.known = WeakValueDictionary()
        self.stores = WeakValueDictionary()

    cpdef Context upstream(self, bint verify, object depth, tuple authorities, tuple pair):
        """How an upstream is spoken to.

        `authorities`: PEM texts that are trusted, None for the system's store.  `depth`: certificates
        between its own and one of those at the most, None for OpenSSL's limit.
        `pair`: our certificate and key, PEM, for an upstream that asks; or None.

        Raises:
            ValueError: a text is no PEM, or the pair is none; says which.
        """
        key = (
            "upstream", verify, depth if verify else None, authorities if verify else None, pair
        )
        cdef Context made = self.known.get(key)
        if made is None:
            made = _client(self._store(authorities) if verify else None, depth, pair)
            self.known[key] = made
        return made

    cdef Store _store(self, tuple authorities):
        cdef Store store = self.system if authorities is None else self.stores.get(authorities)
        if store is None:
            store = Store()
            if authorities is not None:
                for pem in authorities:
                    store.add(pem)
                self.stores[authorities] = store
            else:
                store.add_system()
                self.system = store  # as of the first service that wants it, until the restart
        return store
