"""Changes as typed columns, and what is left of them per key. No I/O.

Invariant: changes keep their order (commit, then place in the transaction) up to compaction, and
compaction leaves of every key what applying all of its changes one after another would leave.
"""
