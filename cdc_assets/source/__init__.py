"""Everything that talks to Postgres.

Invariant: nothing here writes to the source beyond its own slot, in `setup` and `teardown` its own
publication, and an empty transaction to have its log flushed; and nothing is given out before the
source itself shows it to other sessions.
"""
