"""`cdc-assets preview`."""

from __future__ import annotations

import argparse

from cdc_assets.cli.output import DONE, say, say_json
from cdc_assets.cli.selection import selected


def preview(options: argparse.Namespace) -> int:
    """Show what a config makes of rows."""
    config = selected(options)
    (table,) = config.select([options.table])
    from cdc_assets.operations.preview_text import preview_as_json, preview_lines
    from cdc_assets.replication.previewing import preview

    found = preview(config, table, rows=options.rows)
    if options.json:
        say_json(preview_as_json(found))
    else:
        say(preview_lines(found))
    return DONE
