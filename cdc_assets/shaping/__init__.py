"""What the config makes of changes on their way into the warehouse. No I/O.

Values are computed in columns, by DuckDB in memory, whatever the warehouse is.

Invariant: shaping is a function of the row alone, so the same row gives the same, by copy and by
stream, and again after a crash; and no two keys become one.
"""
