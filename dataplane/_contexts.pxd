"""TLS contexts: what a TLS connection is made with.  Built on the Python thread, then read-only."""

from dataplane._core cimport *
from dataplane._sys cimport *

cdef extern from "<openssl/ssl.h>" nogil:
    ctypedef struct SSL:
        pass
    ctypedef struct SSL_CTX:
        pass
    ctypedef struct X509_STORE:
        pass

cdef enum:
    SERVER_NAME_MAX = 253  # bytes, RFC 1035 §2.3.4
    TICKET_KEYS_MAX = 16

cdef struct TicketKey:
    uint8_t name[16]  # travels in the ticket
    uint8_t cipher[32]  # AES-256-CBC
    uint8_t mac[32]  # HMAC-SHA-256

cdef struct TicketKeySet:
    TicketKey keys[16]  # the first encrypts, all decrypt
    uint32_t count  # 1..TICKET_KEYS_MAX
    void* aes  # EVP_CIPHER*, owned: fetched once, not for every ticket

cdef class TicketKeys:
    """The keys of session tickets.  Whoever makes contexts holds it as long as any handshake runs."""

    cdef TicketKeySet c

cdef class Context:
    """Owns one SSL_CTX.  Connections made with it have a reference of their own."""

    cdef SSL_CTX* c  # owned
    cdef TicketKeys tickets  # that c points into, or None
    cdef object __weakref__

cdef struct ServerName:
    const uint8_t* text  # lower case; its first or last label may be `*`
    uint32_t size
    SSL_CTX* ctx  # borrowed

cdef struct ServerNameTable:
    ServerName* names  # owned; sorted by bytes
    uint32_t count
    # Invariant: no two names are the same; nothing changes once published.

# The context for a name as a client sent it (in any case, perhaps with the root's dot): exactly,
# then `*.b.c`, then `a.b.*`, then `*`; NULL when nobody has it.  `name` NULL: none was sent.
cdef SSL_CTX* server_name_find(const ServerNameTable* table, const char* name) noexcept nogil

cdef class ServerNames:
    """Which context listeners show for which name.  Tables own one."""

    cdef ServerNameTable c
    cdef readonly list contexts  # keeps them
    cdef list texts  # what c points into

# What listeners show: `pairs` of certificate and key, PEM, of which the client's offer chooses.
# `names`: what to call the two in an error.  Raises ValueError when they cannot be used.
cdef Context server_context(tuple pairs, tuple names, TicketKeys tickets)
# Let a context, the one that connections begin with, change to that of the name asked for.
cdef void choose_by_name(Context context, Shared* shared)

cdef class Store:
    """Certificates that are trusted."""

    cdef X509_STORE* c  # owned
    cdef object __weakref__
    cdef int add(self, bytes pem) except -1
    cdef int add_system(self) except -1

cdef class Contexts:
    """Contexts by content, each kept while someone has it.  Python thread only."""

    cdef object known  # WeakValueDictionary: content -> Context
    cdef object stores  # WeakValueDictionary: CA texts -> Store
    cdef Store system  # the system's, once needed
    cdef TicketKeys tickets
    cpdef Context upstream(self, bint verify, object depth, tuple authorities, tuple pair)
    cpdef Context server(self, tuple pairs)
    cdef Store _store(self, tuple authorities)
