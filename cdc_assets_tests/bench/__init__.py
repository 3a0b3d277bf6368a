"""How long a sync takes, next to the server's own decoding and to pg_recvlogical."""
