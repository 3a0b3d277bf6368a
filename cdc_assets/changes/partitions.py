"""What is below a partitioned table, by two looks at the catalog.

Where changes are published via the root, a partition that comes with rows, goes with them, or is
truncated by itself leaves no message on the slot. What tells are the relations below the root: of
each its oid, since when it is there, and the file that holds its rows.
"""

from __future__ import annotations

from dataclasses import dataclass

_NO_FILE = "0"


@dataclass(frozen=True, slots=True)
class PartitionsAltered:
    """How what is below a table differs, by oids.

    Attributes:
        gone: Not there any more.
        returned: Gone in between, and there again.
        moved: Those whose rows lie in another file.
        new: Those that were not there.
        stayed: Those whose rows lie where they lay.
    """

    gone: frozenset[int]
    returned: frozenset[int]
    moved: frozenset[int]
    new: frozenset[int]
    stayed: frozenset[int]

    @property
    def are_all_moved(self) -> bool:
        """Whether rows lie in other files and nothing else is altered of what was there."""
        return bool(self.moved) and not (self.gone or self.returned or self.stayed)


def compare_partitions(before: str, after: str) -> PartitionsAltered:
    """Compare two looks, by `TableShape.partitions`: nothing differs where one is not known."""
    known, now = _parsed(before), _parsed(after)
    if not known or not now:
        return PartitionsAltered(*[frozenset()] * 5)
    both = known.keys() & now.keys()
    returned = frozenset(oid for oid in both if known[oid][0] != now[oid][0])
    moved = frozenset(oid for oid in both - returned if known[oid] != now[oid])
    holding = frozenset(oid for oid in both if now[oid][1] != _NO_FILE)
    return PartitionsAltered(
        gone=frozenset(known.keys() - now.keys()),
        returned=returned,
        moved=moved,
        new=frozenset(now.keys() - known.keys()),
        stayed=holding - returned - moved,
    )


def _parsed(partitions: str) -> dict[int, tuple[str, str]]:
    found = {}
    for entry in partitions.split():
        oid, since, file = entry.split(":")
        found[int(oid)] = since, file
    return found
