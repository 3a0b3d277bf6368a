"""The commands that hints name, with what says which pipeline they are about."""

from __future__ import annotations

import re

_COMMAND = re.compile(
    r"\bcdc-assets "
    r"(?:check|setup|sync|status|teardown|backfill|reconcile|resync|adopt|rebuild|preview"
    r"|sql (?:role|publication|monitoring))\b"
    r"(?! --(?:config|pipeline))"
)


def with_options(text: str, options: str) -> str:
    """Add options to every command of ours in a text: a hint is to be run as it stands.

    Args:
        text: What an error, a hint or a report says.
        options: For example `--pipeline shop`; nothing changes nothing.
    """
    return _COMMAND.sub(lambda match: f"{match[0]} {options}", text) if options else text
