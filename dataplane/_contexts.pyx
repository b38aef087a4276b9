"""TLS contexts of OpenSSL: one for each pair that listeners show, one for each way to an upstream.

A client's connection begins with the context of TLS_CERT.  When its hello is in, OpenSSL asks
`_choose` in the worker that runs the handshake: the name is looked up in the published table and
the connection changes to that name's context.  Session tickets belong to none of them: their keys
come from KEYRING, so that one of any worker, start or data plane with that file is good here.

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
    ctypedef struct EVP_CIPHER:
        pass
    ctypedef struct EVP_CIPHER_CTX:
        pass
    ctypedef struct EVP_MAC_CTX:
        pass
    SSL_CTX* SSL_get_SSL_CTX(const SSL* ssl)
    SSL_CTX* SSL_set_SSL_CTX(SSL* ssl, SSL_CTX* ctx)
    const char* SSL_get_servername(const SSL* ssl, int kind)
    int TLSEXT_NAMETYPE_host_name, SSL_TLSEXT_ERR_OK
    void* SSL_CTX_get_app_data(const SSL_CTX* ctx)
    int SSL_CTX_set_app_data(SSL_CTX* ctx, void* data)
    int SSL_CTX_set_num_tickets(SSL_CTX* ctx, size_t count)
    long SSL_CTX_set_timeout(SSL_CTX* ctx, long seconds)
    int SSL_CTX_set_session_id_context(SSL_CTX* ctx, const uint8_t* id, unsigned int size)
    void SSL_CTX_set_security_level(SSL_CTX* ctx, int level)
    int SSL_CTX_set_ciphersuites(SSL_CTX* ctx, const char* names)
    int SSL_CTX_set_cipher_list(SSL_CTX* ctx, const char* names)
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
    uint64_t SSL_OP_PRIORITIZE_CHACHA
    long SSL_MODE_RELEASE_BUFFERS, SSL_MODE_ENABLE_PARTIAL_WRITE
    long SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER

cdef extern from "<openssl/evp.h>" nogil:
    EVP_CIPHER* EVP_CIPHER_fetch(void* library, const char* name, const char* properties)
    void EVP_CIPHER_free(EVP_CIPHER* cipher)
    int EVP_EncryptInit_ex2(
        EVP_CIPHER_CTX* ctx, const EVP_CIPHER* cipher, const uint8_t* key, const uint8_t* iv, void* more
    )
    int EVP_DecryptInit_ex2(
        EVP_CIPHER_CTX* ctx, const EVP_CIPHER* cipher, const uint8_t* key, const uint8_t* iv, void* more
    )

cdef extern from "<openssl/rand.h>" nogil:
    int RAND_bytes(uint8_t* out, int size)

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
    #include <openssl/core_names.h>
    #include <openssl/params.h>
    static int nx_ticket_mac(EVP_MAC_CTX *ctx, unsigned char *key) {
        OSSL_PARAM params[3];
        params[0] = OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key, 32);
        params[1] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, "sha256", 0);
        params[2] = OSSL_PARAM_construct_end();
        return EVP_MAC_CTX_set_params(ctx, params);
    }
    typedef int (*nx_ticket_function)(SSL *, unsigned char *, unsigned char *, EVP_CIPHER_CTX *,
                                      EVP_MAC_CTX *, int);
    static void nx_use_tickets(SSL_CTX *ctx, void *function) {
        SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, (nx_ticket_function)function);
    }
    typedef int (*nx_name_function)(SSL *, int *, void *);
    static void nx_use_names(SSL_CTX *ctx, void *function, void *arg) {
        SSL_CTX_set_tlsext_servername_callback(ctx, (nx_name_function)function);
        SSL_CTX_set_tlsext_servername_arg(ctx, arg);
    }
    static void nx_use_alpn(SSL_CTX *ctx) { SSL_CTX_set_alpn_select_cb(ctx, nx_alpn, NULL); }
    """
    int nx_ticket_mac(EVP_MAC_CTX* ctx, uint8_t* key) nogil
    void nx_use_tickets(SSL_CTX* ctx, void* function) nogil
    void nx_use_names(SSL_CTX* ctx, void* function, void* arg) nogil
    void nx_use_alpn(SSL_CTX* ctx) nogil
    void* nx_password() nogil

cdef enum:
    TICKET_SECONDS = 3600

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
        SSL_CTX_set_security_level(made.c, 1)  # as control.admin.pem checks a pair
        _use_pair(made.c, pair[0], pair[1], ("of the client", "of the client"))
    return made


# --- what a worker runs in a handshake ----------------------------------------------------------


cdef int _compare(const ServerName* name, const uint8_t* text, uint32_t size) noexcept nogil:
    cdef int order = memcmp(name.text, text, name.size if name.size < size else size)
    return order if order else <int>name.size - <int>size


cdef SSL_CTX* _find(const ServerNameTable* table, const uint8_t* text, uint32_t size) noexcept nogil:
    cdef uint32_t low = 0
    cdef uint32_t high = table.count
    cdef uint32_t middle
    cdef int order
    while low < high:  # at most 32 times
        middle = low + (high - low) // 2
        order = _compare(&table.names[middle], text, size)
        if order == 0:
            return table.names[middle].ctx
        if order < 0:
            low = middle + 1
        else:
            high = middle
    return NULL


cdef SSL_CTX* server_name_find(const ServerNameTable* table, const char* name) noexcept nogil:
    cdef uint8_t text[SERVER_NAME_MAX + 3]  # `*` and what is behind its label, or before
    cdef uint8_t* lower = text + 1
    cdef uint32_t size = <uint32_t>strlen(name) if name != NULL else 0
    cdef uint32_t first = 0
    cdef uint32_t i, last
    cdef SSL_CTX* found = NULL
    if size and name[size - 1] == 46:
        size -= 1
    if 0 < size <= SERVER_NAME_MAX:
        for i in range(size):
            lower[i] = <uint8_t>(name[i] | 0x20 if 65 <= name[i] <= 90 else name[i])
        found = _find(table, lower, size)
        last = size
        while first < size and lower[first] != 46:
            first += 1
        while last and lower[last - 1] != 46:
            last -= 1
        if found == NULL and 0 < first < size:
            i = lower[first - 1]
            lower[first - 1] = 42  # *
            found = _find(table, lower + first - 1, size - first + 1)
            lower[first - 1] = <uint8_t>i
        if found == NULL and last:
            lower[last] = 42
            found = _find(table, lower, last + 1)
    return found if found != NULL else _find(table, <const uint8_t*>b"*", 1)


cdef int _choose(SSL* ssl, int* alert, void* shared) noexcept nogil:
    """Change to the context of the name that the client asks for.  RFC 6066 §3."""
    cdef const ServerNameTable* table = <const ServerNameTable*>nx_load_ptr(&(<Shared*>shared).snis)
    cdef SSL_CTX* found
    if table != NULL and table.count:
        found = server_name_find(table, SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name))
        if found != NULL and found != SSL_get_SSL_CTX(ssl):
            SSL_set_SSL_CTX(ssl, found)
    return SSL_TLSEXT_ERR_OK


cdef int _ticket(
    SSL* ssl, uint8_t* name, uint8_t* iv, EVP_CIPHER_CTX* cipher, EVP_MAC_CTX* mac, int sealing
) noexcept nogil:
    """Set a session ticket's keys: 1, 0 for one of another's, 2 for one to be made anew, or -1."""
    cdef TicketKeySet* tickets = <TicketKeySet*>SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl))
    cdef TicketKey* key
    cdef uint32_t i = 0
    if sealing:
        key = &tickets.keys[0]
        memcpy(name, key.name, 16)
        if RAND_bytes(iv, 16) != 1:
            return -1
        if EVP_EncryptInit_ex2(cipher, <EVP_CIPHER*>tickets.aes, key.cipher, iv, NULL) != 1:
            return -1
        return 1 if nx_ticket_mac(mac, key.mac) == 1 else -1
    while i < tickets.count and memcmp(name, tickets.keys[i].name, 16) != 0:
        i += 1
    if i == tickets.count:
        return 0
    key = &tickets.keys[i]
    if nx_ticket_mac(mac, key.mac) != 1:
        return -1
    if EVP_DecryptInit_ex2(cipher, <EVP_CIPHER*>tickets.aes, key.cipher, iv, NULL) != 1:
        return -1
    return 1 if i == 0 else 2


cdef void choose_by_name(Context context, Shared* shared):
    nx_use_names(context.c, <void*>_choose, shared)


cdef class TicketKeys:
    """`keys`: 80 bytes each (name, cipher's key, MAC's key), the newest first.

    Raises:
        ValueError: there is none, there are too many, or one has another size.
    """

    def __cinit__(self, keys):
        if not 1 <= len(keys) <= TICKET_KEYS_MAX or any(len(k) != sizeof(TicketKey) for k in keys):
            raise ValueError(f"1..{TICKET_KEYS_MAX} ticket keys of {sizeof(TicketKey)} bytes")
        for key in keys:
            memcpy(&self.c.keys[self.c.count], <const char*><bytes>key, sizeof(TicketKey))
            self.c.count += 1
        self.c.aes = EVP_CIPHER_fetch(NULL, b"AES-256-CBC", NULL)
        if self.c.aes == NULL:
            raise MemoryError("AES-256-CBC")

    def __dealloc__(self):
        EVP_CIPHER_free(<EVP_CIPHER*>self.c.aes)


cdef class ServerNames:
    """`contexts`: by name, lower case."""

    def __cinit__(self, dict contexts):
        cdef Context context
        cdef bytes text
        self.contexts = list(contexts.values())
        self.texts = []
        self.c.names = <ServerName*>calloc(len(contexts) + 1, sizeof(ServerName))
        if self.c.names == NULL:
            raise MemoryError
        for text, context in sorted((name.encode(), made) for name, made in contexts.items()):
            self.texts.append(text)
            self.c.names[self.c.count].text = <const uint8_t*><const char*>text
            self.c.names[self.c.count].size = <uint32_t>len(text)
            self.c.names[self.c.count].ctx = context.c
            self.c.count += 1

    def __dealloc__(self):
        free(self.c.names)

    def find(self, name):
        """The context for a name, or None; for tests."""
        cdef Context context
        cdef bytes text = b"" if name is None else name.encode()  # not sent is as empty
        cdef SSL_CTX* found = server_name_find(&self.c, text)
        return next((made for made in self.contexts if (<Context>made).c == found), None)


# --- contexts -----------------------------------------------------------------------------------


# AES-128 before AES-256: SHA-256 derives its keys, which most machines have instructions for.  A client
# that puts ChaCha20 first has no AES instructions: it gets it.
# Of TLS 1.2, forward secrecy with an AEAD alone (RFC 9325 §4.2).
cdef const char* SUITES_13 = (
    b"TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"
)
cdef const char* SUITES_12 = b"ECDHE+AESGCM+AES128:ECDHE+CHACHA20:ECDHE+AESGCM+AES256"


cdef Context server_context(tuple pairs, tuple names, TicketKeys tickets):
    cdef Context made = Context.__new__(Context)
    made.c = SSL_CTX_new(TLS_server_method())
    if made.c == NULL:
        raise MemoryError("SSL_CTX_new")
    _prepare(made.c)
    SSL_CTX_set_options(made.c, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA)
    SSL_CTX_set_ciphersuites(made.c, SUITES_13)
    SSL_CTX_set_cipher_list(made.c, SUITES_12)
    SSL_CTX_set_security_level(made.c, 1)  # as control.admin.pem checks a pair
    nx_use_alpn(made.c)
    SSL_CTX_set_session_id_context(made.c, <const uint8_t*>b"narthex", 7)
    SSL_CTX_set_timeout(made.c, TICKET_SECONDS)
    SSL_CTX_set_num_tickets(made.c, 1)  # a client of long sessions needs no store of them
    if tickets is not None:
        made.tickets = tickets
        SSL_CTX_set_app_data(made.c, &tickets.c)
        nx_use_tickets(made.c, <void*>_ticket)
    for certificate, key in pairs:
        _use_pair(made.c, certificate, key, names)
    return made


cdef class Contexts:
    """Contexts by content, each kept while someone has it.  Python thread only.

    `tickets`: whose keys the session tickets of listeners have; None: keys of each context's own.
    """

    def __cinit__(self, TicketKeys tickets=None):
        self.tickets = tickets
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

    cpdef Context server(self, tuple pairs):
        """What listeners show: (certificate, key) in PEM, one pair or two of different kinds.

        Raises:
            ValueError: a text is no PEM, or two are no pair; says which.
        """
        key = ("server", pairs)
        cdef Context made = self.known.get(key)
        if made is None:
            made = server_context(pairs, ("of a server", "of a server"), self.tickets)
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
