"""The token cache.

Two tables of one kind: tokens that are known, and digests that the control plane called unknown.
One writer, the Python thread; any number of readers that take no lock and never wait.

A digest's window is the TOKEN_PROBES slots from its start; the start comes from SipHash-1-3 under a
process secret, so that nobody can choose tokens that share one.  An entry is only ever in its own
window and never moves, so a reader that looks at the whole window cannot miss what is there.
An entry is written, then its pointer is published; what is displaced goes to the Reclaimer and is
freed when no worker can still be reading it.  The tag beside the pointer may be out of step with it
for a moment: a reader then misses an entry that is just coming or going, and asks; it never takes
one for another, for it compares the whole digest.

The tables have twice as many slots as entries allowed, so that a full window is rare.  A full
window, or a full table, evicts: the entry of the window that expires first, the oldest of equals.
"""

from dataplane._core cimport *

cdef extern from *:
    """
    #define OPENSSL_SUPPRESS_DEPRECATED 1
    #include <openssl/sha.h>
    """
    ctypedef struct SHA256_CTX:
        pass
    # One-shot SHA256() looks its algorithm up under a lock and takes memory each time, as SHA1().
    int SHA256_Init(SHA256_CTX* context) nogil
    int SHA256_Update(SHA256_CTX* context, const void* data, size_t size) nogil
    int SHA256_Final(unsigned char* digest, SHA256_CTX* context) nogil

cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct EVP_MD:
        pass
    const EVP_MD* EVP_sha256()

cdef extern from "<openssl/hmac.h>" nogil:
    unsigned char* HMAC(
        const EVP_MD* kind, const void* key, int key_size, const unsigned char* data, size_t size,
        unsigned char* out, unsigned int* out_size,
    )

cdef extern from "<openssl/crypto.h>" nogil:
    int CRYPTO_memcmp(const void* a, const void* b, size_t size)

cdef const char* ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


# --- where a digest belongs -----------------------------------------------------------------------


cdef inline uint64_t _rotate(uint64_t value, int by) noexcept nogil:
    return (value << by) | (value >> (64 - by))


cdef inline void _sip_round(uint64_t* v) noexcept nogil:
    v[0] += v[1]
    v[1] = _rotate(v[1], 13) ^ v[0]
    v[0] = _rotate(v[0], 32)
    v[2] += v[3]
    v[3] = _rotate(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = _rotate(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = _rotate(v[1], 17) ^ v[2]
    v[2] = _rotate(v[2], 32)


cdef uint64_t digest_hash(const TokenStore* store, const uint8_t* digest) noexcept nogil:
    """SipHash-1-3 of 32 bytes under the store's seed."""
    cdef uint64_t v[4]
    cdef uint64_t words[5]
    cdef int i
    memcpy(words, digest, 32)
    words[4] = <uint64_t>32 << 56
    v[0] = store.seed[0] ^ 0x736F6D6570736575ULL
    v[1] = store.seed[1] ^ 0x646F72616E646F6DULL
    v[2] = store.seed[0] ^ 0x6C7967656E657261ULL
    v[3] = store.seed[1] ^ 0x7465646279746573ULL
    for i in range(5):
        v[3] ^= words[i]
        _sip_round(v)
        v[0] ^= words[i]
    v[2] ^= 0xFF
    for i in range(3):
        _sip_round(v)
    return (v[0] ^ v[1] ^ v[2] ^ v[3]) & store.hash_mask


cdef inline TokenSlot* _slot(const TokenTable* table, uint64_t hash, uint64_t i) noexcept nogil:
    return &table.slots[(hash + i) & table.mask]


cdef TokenSlot* table_slot(
    const TokenTable* table, uint64_t hash, const uint8_t* digest, Entry** entry
) noexcept nogil:
    """The slot that holds `digest`, and its entry as it was read once; NULL when there is none."""
    cdef TokenSlot* slot
    cdef Entry* held
    cdef int i
    for i in range(TOKEN_PROBES):
        slot = _slot(table, hash, i)
        if nx_peek(&slot.tag) != hash:
            continue
        held = <Entry*>nx_load_ptr(&slot.entry)
        if held != NULL and memcmp(held.digest, digest, 32) == 0:
            entry[0] = held
            return slot
    return NULL


# --- readers: any worker --------------------------------------------------------------------------


cdef const Claims* token_find(TokenStore* store, const uint8_t* digest) noexcept nogil:
    cdef Entry* entry = NULL
    table_slot(&store.known, digest_hash(store, digest), digest, &entry)
    return <const Claims*>entry


cdef bint token_negative(TokenStore* store, const uint8_t* digest, double now) noexcept nogil:
    cdef Entry* entry = NULL
    table_slot(&store.negative, digest_hash(store, digest), digest, &entry)
    return entry != NULL and now < (<Negative*>entry).until


cdef void token_digest(const uint8_t* token, uint32_t size, uint8_t* out) noexcept nogil:
    cdef SHA256_CTX context
    SHA256_Init(&context)
    SHA256_Update(&context, token, size)
    SHA256_Final(out, &context)


cdef bint token_meant_for(
    const Claims* claims, const uint8_t* issuer, const uint8_t* audience
) noexcept nogil:
    cdef const uint8_t* name = <const uint8_t*>(claims + 1)
    cdef int i
    if claims.has_issuer:
        if memcmp(name, issuer, NAME_BYTES) != 0:
            return 0
        name += NAME_BYTES
    for i in range(claims.audience_n):
        if memcmp(name + i * NAME_BYTES, audience, NAME_BYTES) == 0:
            return 1
    return claims.audience_n == 0


cdef bint token_is_jwt(const uint8_t* token, uint32_t size) noexcept nogil:
    cdef uint32_t i
    cdef uint32_t begin = 0
    cdef int dots = 0
    for i in range(size):
        if token[i] == 46:
            if i == begin:
                return 0
            begin = i + 1
            dots += 1
        elif not (
            97 <= (token[i] | 0x20) <= 122 or 48 <= token[i] <= 57 or token[i] == 45
            or token[i] == 95
        ):
            return 0
    return dots == 2 and begin < size


cdef bint token_check_passes(
    const uint8_t* key, const uint8_t* token, uint32_t size
) noexcept nogil:
    cdef uint8_t mac[64]
    cdef uint8_t check[6]
    cdef unsigned int mac_size = 0
    cdef int i
    if size != TOKEN_RANDOM_BYTES + TOKEN_CHECK_BYTES:
        return 0
    if HMAC(EVP_sha256(), key, 32, token, TOKEN_RANDOM_BYTES, mac, &mac_size) == NULL:
        return 0
    for i in range(TOKEN_CHECK_BYTES):
        check[i] = ALPHABET[mac[i] % 62]
    return CRYPTO_memcmp(check, token + TOKEN_RANDOM_BYTES, TOKEN_CHECK_BYTES) == 0


# --- the writer: the Python thread ----------------------------------------------------------------


cdef int table_init(TokenTable* table, uint64_t capacity) noexcept nogil:
    """Room for `capacity` entries.  Returns 1, or -ENOMEM."""
    cdef uint64_t slots = 64
    while slots < capacity * 2:  # at most 2 * TOKEN_CAPACITY_MAX
        slots *= 2
    memset(table, 0, sizeof(TokenTable))
    table.slots = <TokenSlot*>calloc(slots, sizeof(TokenSlot))
    if table.slots == NULL:
        return -ENOMEM
    table.mask = slots - 1
    table.capacity = capacity
    return 1


cdef void table_free(TokenTable* table) noexcept nogil:
    cdef uint64_t i
    if table.slots == NULL:
        return
    for i in range(table.mask + 1):
        free(table.slots[i].entry)
    free(table.slots)
    table.slots = NULL


cdef Entry* slot_clear(TokenTable* table, TokenSlot* slot) noexcept nogil:
    """Unpublish what the slot holds.  Returns it: the caller retires it."""
    cdef Entry* entry = slot.entry
    nx_store_ptr(&slot.entry, NULL)
    nx_store_u64(&slot.tag, 0)
    table.count -= 1
    return entry


cdef inline bint _sooner(const Entry* a, const Entry* b) noexcept nogil:
    """Whether `a` should be evicted rather than `b`.  Those that never expire go last."""
    if a.expires_at != b.expires_at:
        return b.expires_at == 0 or (a.expires_at != 0 and a.expires_at < b.expires_at)
    return a.order < b.order


cdef Entry* table_evict(TokenTable* table) noexcept nogil:
    """Take the next entry from anywhere; for a full table whose chosen window is empty."""
    cdef TokenSlot* slot
    cdef uint64_t i
    for i in range(table.mask + 1):
        slot = &table.slots[table.hand & table.mask]
        table.hand += 1
        if slot.entry != NULL:
            return slot_clear(table, slot)
    BUG_ON(1)  # only called with count == capacity > 0
    return NULL


cdef Entry* table_put(TokenTable* table, uint64_t hash, Entry* entry) noexcept nogil:
    """Publish `entry`, owned by the table from now on.  Returns what it displaced, or NULL."""
    cdef Entry* displaced = NULL
    cdef TokenSlot* spare = NULL
    cdef TokenSlot* victim = NULL
    cdef TokenSlot* slot = table_slot(table, hash, entry.digest, &displaced)
    cdef int i
    if slot != NULL:
        nx_store_ptr(&slot.entry, entry)
        return displaced
    for i in range(TOKEN_PROBES):
        slot = _slot(table, hash, i)
        if slot.entry == NULL:
            spare = slot if spare == NULL else spare
        elif victim == NULL or _sooner(slot.entry, victim.entry):
            victim = slot
    if victim != NULL and (spare == NULL or table.count == table.capacity):
        displaced = slot_clear(table, victim)
        spare = victim
    elif table.count == table.capacity:
        displaced = table_evict(table)
    nx_store_u64(&spare.tag, hash)
    nx_store_ptr(&spare.entry, entry)
    table.count += 1
    return displaced


cdef void store_check(const TokenStore* store) noexcept nogil:
    BUG_ON(store.known.count > store.known.capacity)
    BUG_ON(store.negative.count > store.negative.capacity)
    BUG_ON(store.known.capacity * 2 > store.known.mask + 1)


# --- for Python -----------------------------------------------------------------------------------


NOTHING = bytes(16)  # in the place of an id


cdef const uint8_t* _bytes(object value, Py_ssize_t size, str what) except NULL:
    if type(value) is not bytes or len(<bytes>value) != size:
        raise ValueError(f"{what} must be {size} bytes")
    return <const uint8_t*><const char*><bytes>value


cdef bytes _prepared(object text, str what):
    """UTF-8 of a scope or user id as it may stand in a header: control bytes as %XX."""
    if text is None:
        return b""
    cdef bytes raw
    try:
        raw = (<str?>text).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} has a lone surrogate") from None
    if not text.isprintable():  # rare: some control or other odd character
        raw = b"".join([b"%%%02X" % b if b < 32 or b == 127 else b"%c" % b for b in raw])
    if len(raw) > CLAIM_BYTES_MAX:
        raise ValueError(f"{what} is longer than {CLAIM_BYTES_MAX} bytes")
    return raw


cdef class TokenCache:
    """What tokens say, by the SHA-256 of the token.  For the one thread that writes.

    Holds `capacity` tokens and evicts past that.  `seed`: 16 random bytes.  `hash_bits`: fewer than
    64 make digests collide, for tests.
    """

    def __cinit__(self, capacity, bytes seed, Reclaimer reclaimer not None, hash_bits=64):
        if not 1 <= capacity <= TOKEN_CAPACITY_MAX:
            raise ValueError(f"the token cache holds 1 to {TOKEN_CAPACITY_MAX} tokens")
        if len(seed) < 16:
            raise ValueError("the token cache's seed must have 16 bytes")
        self.reclaimer = reclaimer
        self.c = <TokenStore*>calloc(1, sizeof(TokenStore))
        if self.c == NULL:
            raise MemoryError
        memcpy(self.c.seed, <const char*>seed, 16)
        self.c.hash_mask = (1 << hash_bits) - 1
        if table_init(&self.c.known, capacity) < 0:
            raise MemoryError
        if table_init(&self.c.negative, min(capacity, NEGATIVE_CAPACITY_MAX)) < 0:
            raise MemoryError

    def __dealloc__(self):
        # Workers have been joined by now: nobody reads any more.
        if self.c != NULL:
            table_free(&self.c.known)
            table_free(&self.c.negative)
            free(self.c)

    def put(
        self, digest, credential, service, scope, user_id, double expires_at, uint64_t version,
        issuer=None, audience=(), plugin=None, jti=None,
    ):
        """Publish a token, in place of what was known of it; its negative goes.

        Raises:
            ValueError: a field of the wrong size, a scope or user id over CLAIM_BYTES_MAX, or more
                than AUDIENCES_MAX audiences.
        """
        cdef const uint8_t* digest_c = _bytes(digest, 32, "a digest")
        cdef const uint8_t* credential_c = _bytes(credential, 16, "a credential id")
        cdef const uint8_t* service_c = NULL
        cdef const uint8_t* plugin_c = _bytes(plugin or NOTHING, 16, "a plugin id")
        cdef const uint8_t* jti_c = _bytes(jti or NOTHING, 16, "a jti")
        cdef bytes scope_b = _prepared(scope, "a scope")
        cdef bytes user_b = _prepared(user_id, "a user id")
        cdef size_t scope_n = len(scope_b)
        cdef size_t user_n = len(user_b)
        if service is not None:
            service_c = _bytes(service, 16, "a service id")
        if len(audience) > AUDIENCES_MAX:
            raise ValueError(f"a token has more than {AUDIENCES_MAX} audiences")
        cdef bytes names_b = b"".join([name_hash(name) for name in audience])
        if issuer is not None:
            names_b = name_hash(issuer) + names_b
        cdef size_t names_n = len(names_b)
        cdef Claims* claims = <Claims*>calloc(1, sizeof(Claims) + names_n + scope_n + user_n)
        if claims == NULL:
            raise MemoryError
        memcpy(claims + 1, <const char*>names_b, names_n)
        cdef uint8_t* text = <uint8_t*>(claims + 1) + names_n
        memcpy(claims.digest, digest_c, 32)
        memcpy(claims.credential, credential_c, 16)
        if service_c != NULL:
            memcpy(claims.service, service_c, 16)
            claims.has_service = 1
        memcpy(claims.plugin, plugin_c, 16)
        memcpy(claims.jti, jti_c, 16)
        claims.has_issuer = issuer is not None
        claims.audience_n = <uint8_t>len(audience)
        memcpy(text, <const char*>scope_b, scope_n)
        memcpy(text + scope_n, <const char*>user_b, user_n)
        claims.scope.data = text
        claims.scope.size = scope_n
        claims.user_id.data = text + scope_n
        claims.user_id.size = user_n
        claims.expires_at = expires_at
        claims.version = version
        self._publish(&self.c.known, <Entry*>claims)
        self._remove(&self.c.negative, digest_c)

    def put_negative(self, digest, double until):
        """Remember until then that there is no such token."""
        cdef const uint8_t* digest_c = _bytes(digest, 32, "a digest")
        cdef Negative* negative = <Negative*>calloc(1, sizeof(Negative))
        if negative == NULL:
            raise MemoryError
        memcpy(negative.digest, digest_c, 32)
        negative.until = until
        self._publish(&self.c.negative, <Entry*>negative)

    def remove(self, digest):
        """Forget a token.  Returns whether it was there."""
        return self._remove(&self.c.known, _bytes(digest, 32, "a digest"))

    def remove_credential(self, credential):
        """Forget every token of a credential.  Returns how many those were."""
        cdef const uint8_t* credential_c = _bytes(credential, 16, "a credential id")
        cdef TokenTable* table = &self.c.known
        cdef TokenSlot* slot
        cdef uint64_t i
        removed = 0
        for i in range(table.mask + 1):
            slot = &table.slots[i]
            if slot.entry and memcmp((<Claims*>slot.entry).credential, credential_c, 16) == 0:
                self.reclaimer.retire(slot_clear(table, slot))
                removed += 1
        return removed

    cdef void _publish(self, TokenTable* table, Entry* entry):
        cdef Entry* displaced
        self.order += 1
        entry.order = self.order
        displaced = table_put(table, digest_hash(self.c, entry.digest), entry)
        if (
            displaced != NULL
            and table == &self.c.known
            and memcmp(displaced.digest, entry.digest, 32) != 0
        ):
            nx_store_u64(&self.c.evicted, self.c.evicted + 1)
        self.reclaimer.retire(displaced)
        store_check(self.c)

    cdef bint _remove(self, TokenTable* table, const uint8_t* digest):
        cdef Entry* entry = NULL
        cdef TokenSlot* slot = table_slot(table, digest_hash(self.c, digest), digest, &entry)
        if slot == NULL:
            return False
        self.reclaimer.retire(slot_clear(table, slot))
        return True

    def get(self, digest):
        """What is known of a token, or None; scope and user id as they go upstream.

        (credential, service or None, scope or None, user id or None, expires_at, version)
        """
        cdef const Claims* claims = token_find(self.c, _bytes(digest, 32, "a digest"))
        if claims == NULL:
            return None
        return (
            claims.credential[:16],
            claims.service[:16] if claims.has_service else None,
            claims.scope.data[:claims.scope.size].decode() if claims.scope.size else None,
            claims.user_id.data[:claims.user_id.size].decode() if claims.user_id.size else None,
            claims.expires_at,
            claims.version,
        )

    def meant_for(self, digest, bytes issuer not None, bytes audience not None):
        """Whether a known token may be used where these are asked for, both as `name_hash`."""
        cdef const Claims* claims = token_find(self.c, _bytes(digest, 32, "a digest"))
        return claims != NULL and bool(token_meant_for(
            claims, _bytes(issuer, NAME_BYTES, "an issuer"),
            _bytes(audience, NAME_BYTES, "an audience"),
        ))

    def is_negative(self, digest, double now):
        return bool(token_negative(self.c, _bytes(digest, 32, "a digest"), now))

    def window(self, digest):
        """Where the window of a digest starts among the known, and how many slots there are."""
        cdef uint64_t hash = digest_hash(self.c, _bytes(digest, 32, "a digest"))
        return hash & self.c.known.mask, self.c.known.mask + 1

    def __len__(self):
        return self.c.known.count

    @property
    def evicted(self):
        """How many known tokens had to make room for others."""
        return self.c.evicted

    @property
    def negatives(self):
        return self.c.negative.count


def name_hash(str name not None):
    """What stands for an issuer or audience in a token's claims and in a policy."""
    cdef uint8_t out[32]
    cdef bytes text
    try:
        text = name.encode()
    except UnicodeEncodeError:
        raise ValueError("an issuer or audience has a lone surrogate") from None
    token_digest(<const uint8_t*><const char*>text, len(text), out)
    return out[:NAME_BYTES]


def is_jwt(bytes token not None):
    """Whether a token has a JWT's shape, as workers see it."""
    return bool(token_is_jwt(<const uint8_t*><const char*>token, len(token)))


def digest(bytes token not None):
    """SHA-256 of a token, as workers compute it."""
    cdef uint8_t out[32]
    token_digest(<const uint8_t*><const char*>token, len(token), out)
    return out[:32]


def check_passes(bytes key not None, bytes token not None):
    """Whether a token ends as `wire.token_check` says, as workers compute it."""
    cdef const uint8_t* key_c = _bytes(key, 32, "a check key")
    return bool(token_check_passes(key_c, <const uint8_t*><const char*>token, len(token)))
