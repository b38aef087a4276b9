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

cdef class Context:
    """Owns one SSL_CTX.  Connections made with it have a reference of their own."""

    cdef SSL_CTX* c  # owned
    cdef object __weakref__

# What listeners show: `pairs` of certificate and key, PEM, of which the client's offer chooses.
# `names`: what to call the two in an error.  Raises ValueError when they cannot be used.
cdef Context server_context(tuple pairs, tuple names)

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
    cpdef Context upstream(self, bint verify, object depth, tuple authorities, tuple pair)
    cdef Store _store(self, tuple authorities)
