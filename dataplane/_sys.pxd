"""The syscalls, C library calls and compiler builtins that the engine uses, and nothing else."""

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stddef cimport size_t
from libc.stdlib cimport abort, calloc, free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memmove, memset, strlen

ctypedef Py_ssize_t ssize_t

cdef extern from "<string.h>" nogil:
    void* memmem(const void* text, size_t size, const void* wanted, size_t wanted_size)

cdef extern from "<malloc.h>" nogil:
    int mallopt(int name, int value)
    int M_MMAP_THRESHOLD

cdef extern from "<errno.h>" nogil:
    int errno
    int EAGAIN, EINTR, EINPROGRESS, EMFILE, ENFILE, ENOMEM, ECONNREFUSED, ETIMEDOUT, EPIPE
    int ECONNRESET, EHOSTUNREACH, ENETUNREACH, ECONNABORTED, ENOBUFS, EADDRNOTAVAIL, EALREADY
    int EADDRINUSE, EISCONN, ENOTCONN, EINVAL, ENOSYS, EPERM

cdef extern from "<sys/types.h>" nogil:
    ctypedef unsigned int socklen_t

cdef extern from "<sys/socket.h>" nogil:
    struct sockaddr:
        unsigned short sa_family
    struct sockaddr_storage:
        unsigned short ss_family
    int socket(int domain, int kind, int protocol)
    int bind(int fd, const sockaddr* addr, socklen_t size)
    int listen(int fd, int backlog)
    int accept4(int fd, sockaddr* addr, socklen_t* size, int flags)
    int connect(int fd, const sockaddr* addr, socklen_t size)
    int shutdown(int fd, int how)
    int getsockopt(int fd, int level, int name, void* value, socklen_t* size)
    int setsockopt(int fd, int level, int name, const void* value, socklen_t size)
    int getsockname(int fd, sockaddr* addr, socklen_t* size)
    struct linger_option "linger":
        int l_onoff
        int l_linger
    int AF_INET, AF_INET6, SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC, SOL_SOCKET, SO_REUSEADDR
    int SO_REUSEPORT, SO_ERROR, SO_LINGER, SHUT_WR, SHUT_RD
    int MSG_NOSIGNAL, MSG_MORE, MSG_DONTWAIT, MSG_PEEK
    int SO_MEMINFO  # uint32_t[SK_MEMINFO_VARS]

# In a process with threads glibc's recv and send are points of cancellation: two locked instructions
# each, a seventh of what a message takes in user space.  Nobody cancels a thread of ours.
cdef extern from *:
    """
    #include <sys/syscall.h>
    #include <unistd.h>
    static inline ssize_t nx_recv(int fd, void *data, size_t size, int flags) {
        return syscall(SYS_recvfrom, fd, data, size, flags, NULL, NULL);
    }
    static inline ssize_t nx_send(int fd, const void *data, size_t size, int flags) {
        return syscall(SYS_sendto, fd, data, size, flags, NULL, 0);
    }
    """
    ssize_t recv "nx_recv"(int fd, void* data, size_t size, int flags) nogil
    ssize_t send "nx_send"(int fd, const void* data, size_t size, int flags) nogil

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        unsigned short sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    uint16_t htons(uint16_t value)
    uint16_t ntohs(uint16_t value)
    int IPPROTO_TCP, IPPROTO_IPV6, IPPROTO_IP, IPV6_V6ONLY, IP_BIND_ADDRESS_NO_PORT

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_NODELAY, TCP_QUICKACK, TCP_DEFER_ACCEPT, TCP_USER_TIMEOUT

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        void* ptr
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int maxevents, int timeout)
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
    uint32_t EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLET, EPOLLERR, EPOLLHUP

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int count, int flags)
    int EFD_NONBLOCK, EFD_CLOEXEC

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, void* argument)

cdef extern from "<linux/sockios.h>" nogil:
    unsigned long SIOCOUTQ  # bytes sent and not acknowledged

cdef extern from "<linux/sock_diag.h>" nogil:
    enum:
        SK_MEMINFO_SNDBUF  # bytes that may be queued to be sent
        SK_MEMINFO_WMEM_QUEUED  # bytes that are
        SK_MEMINFO_VARS

cdef extern from "<fcntl.h>" nogil:
    int fcntl(int fd, int command, ...)
    ssize_t splice(
        int from_fd, int64_t* from_at, int to_fd, int64_t* to_at, size_t size, unsigned int flags
    )
    int O_CLOEXEC, O_NONBLOCK, F_SETPIPE_SZ
    unsigned int SPLICE_F_MOVE, SPLICE_F_NONBLOCK

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    int pipe2(int* fds, int flags)
    ssize_t read(int fd, void* data, size_t size)
    ssize_t write(int fd, const void* data, size_t size)

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void* data, size_t size, unsigned int flags)

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* out)
    int CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int sigfillset(sigset_t* mask)
    int pthread_sigmask(int how, const sigset_t* mask, sigset_t* old)
    int SIG_BLOCK

cdef extern from *:
    """
    #ifndef NARTHEX_SYS
    #define NARTHEX_SYS
    #include <stdint.h>
    #include <stdio.h>
    #include <stdlib.h>
    #define nx_load_u64(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define nx_store_u64(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define nx_exchange_u64(p, v) __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)
    #define nx_add_u64(p, n) __atomic_fetch_add((p), (n), __ATOMIC_SEQ_CST)
    #define nx_swap_u64(p, e, v) __atomic_compare_exchange_n((p), (e), (v), 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)
    /* Sequentially consistent, so that no load passes the worker's store to its `turn` before it:
       the Reclaimer's other half of that bargain.  Costs nothing more on x86-64 and arm64. */
    #define nx_load_ptr(p) __atomic_load_n((void**)(p), __ATOMIC_SEQ_CST)
    #define nx_store_ptr(p, v) __atomic_store_n((void**)(p), (void*)(v), __ATOMIC_SEQ_CST)
    #define nx_bump(p, n) __atomic_store_n((p), __atomic_load_n((p), __ATOMIC_RELAXED) + (n), __ATOMIC_RELAXED)
    #define nx_peek(p) __atomic_load_n((p), __ATOMIC_RELAXED)
    #define nx_ctz(x) ((uint64_t)__builtin_ctzll(x))
    #define nx_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    #define nx_likely(x) __builtin_expect(!!(x), 1)
    #define nx_unlikely(x) __builtin_expect(!!(x), 0)
    #ifdef __SANITIZE_ADDRESS__
    #include <sanitizer/asan_interface.h>
    #define nx_poison(p, n) __asan_poison_memory_region((p), (n))
    #define nx_unpoison(p, n) __asan_unpoison_memory_region((p), (n))
    #else
    #define nx_poison(p, n) ((void)(p), (void)(n))
    #define nx_unpoison(p, n) ((void)(p), (void)(n))
    #endif
    #define BUG_ON(x) do { if (__builtin_expect(!!(x), 0)) { \\
        fprintf(stderr, "narthex: BUG at %s:%d: %s\\n", __FILE__, __LINE__, #x); abort(); } } while (0)
    #ifdef NARTHEX_DEBUG
    #define BUG_ON_HOT(x) BUG_ON(x)
    #else
    #define BUG_ON_HOT(x) do { (void)sizeof(x); } while (0)
    #endif
    #endif
    """
    uint64_t nx_load_u64(const uint64_t* p) noexcept nogil  # acquire
    void nx_store_u64(uint64_t* p, uint64_t v) noexcept nogil  # release
    uint64_t nx_exchange_u64(uint64_t* p, uint64_t v) noexcept nogil  # sequentially consistent
    uint64_t nx_add_u64(uint64_t* p, uint64_t n) noexcept nogil  # what was there before; likewise
    # Whether `v` was stored in the place of what stood in `e`, which else tells what is there.
    bint nx_swap_u64(uint64_t* p, uint64_t* e, uint64_t v) noexcept nogil  # likewise
    void* nx_load_ptr(void* p) noexcept nogil  # sequentially consistent; `p` is the address of a pointer
    void nx_store_ptr(void* p, const void* v) noexcept nogil  # sequentially consistent
    void nx_bump(uint64_t* p, uint64_t n) noexcept nogil  # one writer, torn-free readers
    uint64_t nx_peek(const uint64_t* p) noexcept nogil
    uint64_t nx_ctz(uint64_t x) noexcept nogil  # zero bits below the lowest one; `x` is not 0
    void nx_fence() noexcept nogil
    bint nx_likely(bint x) noexcept nogil
    bint nx_unlikely(bint x) noexcept nogil
    # Under AddressSanitizer: whoever touches these bytes is reported.  Else nothing.
    void nx_poison(void* p, size_t size) noexcept nogil
    void nx_unpoison(void* p, size_t size) noexcept nogil
    void BUG_ON(bint x) noexcept nogil  # aborts: names what no input can cause
    void BUG_ON_HOT(bint x) noexcept nogil  # the same in debug and test builds only

cdef extern from "<arpa/inet.h>" nogil:
    const char* inet_ntop(int family, const void* address, char* out, socklen_t size)
    int inet_pton(int family, const char* text, void* address)
