"""Everything that talks to Postgres.

Invariant: nothing here writes to the source beyond its own slot and, in `setup` and `teardown`, its
own publication; and nothing is given out before the source itself shows it to other sessions.
"""
