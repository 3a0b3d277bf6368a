"""The demo: an embedded Postgres, a small shop and a live workload; the tests use its server."""
