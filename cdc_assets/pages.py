"""Where the package's own documentation lies, for hints that name it."""

from __future__ import annotations

from pathlib import Path


def page(name: str) -> str:
    """Give the file of a page, as it was installed with the package: `page("types")`."""
    return str(Path(__file__).parent / "docs" / f"{name}.md")
