"""What the fuzz targets share: copies that end where the input ends, and cuts at random places.

Each target includes the source it fuzzes, so that its functions are in the same file: a `cdef`
function of another module would be a NULL pointer here, where nothing is ever imported.
"""
from libc.stdlib cimport abort, free, malloc
from libc.string cimport memcmp, memcpy, memset

cdef extern from "<stdio.h>" nogil:
    int fputs(const char* text, void* stream)
    void* stderr

cdef enum:
    SEED_BYTES = 8  # at the start of an input: where it is cut

cdef struct Cuts:
    uint64_t state


cdef void expect(bint holds, const char* what) noexcept nogil:
    """The property that a target is about."""
    if not holds:
        fputs(b"fuzz: not so: ", stderr)
        fputs(what, stderr)
        fputs(b"\n", stderr)
        abort()


cdef Cuts cuts_of(const uint8_t* data) noexcept nogil:
    cdef Cuts cuts
    memcpy(&cuts.state, data, SEED_BYTES)
    return cuts


cdef size_t cut(Cuts* cuts, size_t left) noexcept nogil:
    """The size of the next piece, 1 to `left`; often small, sometimes all."""
    cuts.state = cuts.state * 6364136223846793005ULL + 1442695040888963407ULL
    cdef uint64_t roll = cuts.state >> 33
    if roll % 8 == 0:
        return left
    return 1 + (roll >> 3) % (left if left < 40 else 40)


cdef uint8_t* copied(const uint8_t* data, size_t size) noexcept nogil:
    """A block of just these bytes: AddressSanitizer sees who reads before or behind them."""
    cdef uint8_t* block = <uint8_t*>malloc(size if size else 1)
    expect(block != NULL, b"memory")
    if size:
        memcpy(block, data, size)
    return block
