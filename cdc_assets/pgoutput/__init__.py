"""pgoutput's bytes to Arrow columns, for a whole batch of messages at once.

No I/O, and no Python code per row or value on the fast path: kinds, positions and lengths are numpy
gathers over the one buffer that holds all messages, and a column's text is cut out of that buffer
with one offsets array. Invariant: a decoder either gives exactly what the bytes say or raises
`ProtocolError`; it never reads past a message's end without noticing.

Message formats: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""
