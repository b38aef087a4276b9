"""The token cache: SHA-256 of a token → what it says.  One thread writes, all read."""

from dataplane._core cimport *

cdef enum:
    TOKEN_PROBES = 16  # slots of a digest's window: all that a lookup ever reads
    TOKEN_CAPACITY_MAX = 1 << 26
    NEGATIVE_CAPACITY_MAX = 4096  # so that a million wrong tokens leave memory as it was (S16)
    CLAIM_BYTES_MAX = 4096  # of a scope and of a user id, as prepared
    AUDIENCES_MAX = 8  # of one token
    NAME_BYTES = 16  # of SHA-256 of an issuer or audience
    TOKEN_RANDOM_BYTES = 26  # as wire.TOKEN_RANDOM_CHARS
    TOKEN_CHECK_BYTES = 6

cdef struct Entry:
    # How Claims and Negative begin: all that the tables know of what they hold.

    uint8_t digest[32]
    double expires_at  # seconds since 1970; 0: never
    uint64_t order  # of its put: the oldest goes first among equals

cdef struct Claims:
    # One malloc block with its texts; immutable once published.

    uint8_t digest[32]
    double expires_at  # seconds since 1970; 0: never
    uint64_t order
    uint8_t credential[16]
    uint8_t service[16]
    uint8_t plugin[16]  # that issued it; zeros: made by hand
    uint8_t jti[16]  # of a JWT, else zeros
    uint8_t has_service  # 0: a global token
    uint8_t has_issuer  # a JWT: good only where its issuer is the policy's
    uint8_t audience_n  # 0: for whoever takes it
    uint64_t version  # config version it was made at
    Span scope  # in this block, control bytes percent-encoded; empty when there is none
    Span user_id  # likewise
    # Behind the struct: NAME_BYTES of the issuer, if there is one, of each audience, then the texts.

cdef struct Negative:
    uint8_t digest[32]
    double until  # seconds since 1970
    uint64_t order

cdef struct TokenSlot:
    uint64_t tag  # hash of the digest: a hint that spares a cache miss; the digest decides
    Entry* entry  # Claims or Negative, published; owned; NULL: free

cdef struct TokenTable:
    TokenSlot* slots  # owned
    uint64_t mask
    uint64_t capacity  # entries at most
    uint64_t count
    uint64_t hand  # where the next eviction looks when the window offers nobody
    # Invariant: count <= capacity <= mask / 2 + 1, mask + 1 a power of two.

cdef struct TokenStore:
    uint64_t seed[2]  # of the hash
    uint64_t hash_mask  # all ones; tests keep fewer bits, so that digests collide
    TokenTable known
    TokenTable negative
    uint64_t evicted  # known tokens that had to make room: they may be good, and may have no check

# Borrowed until the worker's turn ends; expired ones too: the caller looks at expires_at.
cdef const Claims* token_find(TokenStore* store, const uint8_t* digest) noexcept nogil
# Whether the control plane said, for the time until now, that there is no such token.
cdef bint token_negative(TokenStore* store, const uint8_t* digest, double now) noexcept nogil
# Whether the token's issuer, if it has one, is this one, and its audiences, if any, name this one.
cdef bint token_meant_for(
    const Claims* claims, const uint8_t* issuer, const uint8_t* audience
) noexcept nogil
# Whether this has a JWT's shape: three parts of base64url with a dot in between.
cdef bint token_is_jwt(const uint8_t* token, uint32_t size) noexcept nogil
# SHA-256 into 32 bytes; zeros, which no token has, when OpenSSL has no memory.
cdef void token_digest(const uint8_t* token, uint32_t size, uint8_t* out) noexcept nogil
# Whether the last six characters are wire.token_check of the first 26.  `key`: 32 bytes.
cdef bint token_check_passes(
    const uint8_t* key, const uint8_t* token, uint32_t size
) noexcept nogil

cdef class TokenCache:
    cdef TokenStore* c  # owned
    cdef Reclaimer reclaimer
    cdef uint64_t order
    cdef void _publish(self, TokenTable* table, Entry* entry)
    cdef bint _remove(self, TokenTable* table, const uint8_t* digest)
