"""Records as JSON log lines.

Every value is a number, a UUID, an address or a static text of ours: nothing that a client chose
can be in one, so nothing needs escaping (S96).  `records.FIELDS` names the same fields for the
console format; a test holds the two together.
"""


cdef void _put_key(Writer* out, const char* name) noexcept nogil:
    put(out, b', "', 3)
    put_text(out, name)
    put(out, b'": ', 3)


cdef void _put_string(Writer* out, const char* name, const void* text, uint32_t size) noexcept nogil:
    _put_key(out, name)
    put(out, b'"', 1)
    put(out, text, size)
    put(out, b'"', 1)


cdef void _put_number(Writer* out, const char* name, uint64_t value) noexcept nogil:
    _put_key(out, name)
    put_uint(out, value)


cdef void _put_code(Writer* out, const char* name, uint16_t code) noexcept nogil:
    _put_key(out, name)
    if code:
        put_uint(out, code)
    else:
        put(out, b"null", 4)


cdef void _put_uuid(Writer* out, const char* name, const uint8_t* id, bint there) noexcept nogil:
    _put_key(out, name)
    if not there:
        put(out, b"null", 4)
        return
    put(out, b'"', 1)
    put_hex(out, id, 4)
    put(out, b"-", 1)
    put_hex(out, id + 4, 2)
    put(out, b"-", 1)
    put_hex(out, id + 6, 2)
    put(out, b"-", 1)
    put_hex(out, id + 8, 2)
    put(out, b"-", 1)
    put_hex(out, id + 10, 6)
    put(out, b'"', 1)


cdef void _put_why(Writer* out, const char* why) noexcept nogil:
    """Our own words, of which some have quotes."""
    cdef size_t i
    _put_key(out, b"why")
    put(out, b'"', 1)
    for i in range(strlen(why)):
        if why[i] == 34 or why[i] == 92:
            put(out, b"\\", 1)
        put(out, why + i, 1)
    put(out, b'"', 1)


cdef void _put_duration(Writer* out, uint64_t ms) noexcept nogil:
    """Seconds with three decimals."""
    cdef uint8_t decimals[3]
    decimals[0] = <uint8_t>(48 + ms % 1000 // 100)
    decimals[1] = <uint8_t>(48 + ms % 100 // 10)
    decimals[2] = <uint8_t>(48 + ms % 10)
    _put_number(out, b"duration_s", ms // 1000)
    put(out, b".", 1)
    put(out, decimals, 3)


cdef const char* _side(int ended_by) noexcept nogil:
    if ended_by == 0:
        return b"gateway"
    if ended_by == 1:
        return b"client"
    return b"upstream"


cdef void _put_ended(Writer* out, const Record* record) noexcept nogil:
    cdef const char* side = _side(record.ended_by)
    _put_string(out, b"ended_by", side, <uint32_t>strlen(side))
    _put_why(out, record.why)
    _put_code(out, b"client_code", record.client_code)
    _put_code(out, b"upstream_code", record.upstream_code)
    _put_duration(out, record.duration_ms)
    _put_number(out, b"messages_from_client", record.messages_up)
    _put_number(out, b"messages_from_upstream", record.messages_down)
    _put_number(out, b"bytes_from_client", record.bytes_up)
    _put_number(out, b"bytes_from_upstream", record.bytes_down)
    _put_uuid(out, b"route", record.route, record.flags & RECORD_HAS_ROUTE)
    _put_uuid(out, b"service", record.service, record.flags & RECORD_HAS_SERVICE)
    _put_uuid(out, b"consumer", record.consumer, record.flags & RECORD_HAS_CONSUMER)
    _put_uuid(out, b"credential", record.credential, record.flags & RECORD_HAS_CREDENTIAL)


cdef void line_put(Writer* out, const Record* record, const Span* ts) noexcept nogil:
    cdef char ip[64]
    cdef uint32_t size = address_text(record.remote, record.v6, ip)
    if record.kind == RECORD_REFUSED:
        put_text(out, b'{"event": "handshake.refused"')
    else:
        put_text(out, b'{"event": "session.ended"')
    put_text(out, b', "level": "info", "plane": "data"')
    _put_string(out, b"ts", ts.data, ts.size)
    if record.kind == RECORD_REFUSED:
        _put_number(out, b"status", record.status)
        _put_why(out, record.why)
        _put_uuid(out, b"route", record.route, record.flags & RECORD_HAS_ROUTE)
    else:
        _put_ended(out, record)
    put_text(out, b', "client": "')
    if record.v6:
        put(out, b"[", 1)
    put(out, ip, size)
    if record.v6:
        put(out, b"]", 1)
    if record.remote_port:  # 0: a trusted peer named the address
        put(out, b":", 1)
        put_uint(out, record.remote_port)
    put_text(out, b'", "request_id": "')
    put_hex(out, record.id, 16)
    put_text(out, b'"}\n')
