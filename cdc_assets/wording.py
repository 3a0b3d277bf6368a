"""Words that every message needs."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Write `1 table` or `1,204 tables`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
