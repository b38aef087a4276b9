"""Policies and upstream names, and who owns them while snapshots and sessions come and go."""

from dataplane._contexts cimport *
from dataplane._core cimport *

# Sessions and parked handshakes that hold the policy.
cdef uint64_t policy_users(const Policy* policy) noexcept nogil

# For what fills structs from Python values.
cdef const uint8_t* id_bytes(object value, Py_ssize_t size, str what) except NULL
cdef void* array_new(size_t count, size_t size) except NULL
cdef Span span_of(bytes text)
cdef tuple principal_face(const Principal* principal)

cdef class NameBox:
    cdef object __weakref__
    cdef NameCell c  # its `addresses` owned
    cdef Reclaimer reclaimer
    cdef readonly str host  # lower case
    cdef readonly bint literal  # an IP address: there is nothing to resolve
    cpdef set_addresses(self, list addresses)
    cpdef mark_failed(self)

cdef class NameTable:
    cdef Reclaimer reclaimer
    cdef object boxes  # WeakValueDictionary: host -> NameBox
    cdef readonly Contexts contexts  # that policies speak to upstreams with
    cdef list orphans  # policies without a box, held by sessions
    cdef object balances  # WeakValueDictionary: content -> BalanceBox
    cpdef NameBox intern(self, str host)
    cdef void adopt(self, Policy* policy, NameBox name, Context tls, BalanceBox balance)

cdef class BalanceBox:
    cdef object __weakref__
    cdef Balance c  # its `targets` and `rows` owned
    cdef list names  # NameBox of each target: owners of their names
    cdef bytes texts  # what the spans of the targets point into

cdef class PolicyBox:
    cdef Policy* c  # owned
    cdef NameTable names
    cdef NameBox name  # owner of c.target.name, or None
    cdef readonly BalanceBox balance  # owner of c.balance, or None
    cdef readonly Context tls  # owner of c.tls, or None
    cdef readonly bytes content  # what it was compiled from
    cdef readonly tuple virtual  # its virtual routes, for the next compile
    cdef readonly uint32_t own  # bytes of `content` about its route, service and plugins
    cdef readonly uint32_t plugins  # a bit for each plugin that runs on the route
    cpdef uint64_t users(self)
