"""`cdc-assets rebuild`."""

from __future__ import annotations

import argparse
from contextlib import closing

from cdc_assets.cli.output import DONE, say, say_json, say_progress
from cdc_assets.cli.selection import selected


def rebuild(options: argparse.Namespace) -> int:
    """Make a mirror anew from its change table."""
    config = selected(options)
    (table,) = config.select([options.table])
    from cdc_assets.operations.rebuild_text import rebuild_line, rebuilt_as_json
    from cdc_assets.progress import TableRebuilt
    from cdc_assets.replication.rebuilding import rebuild

    with closing(rebuild(config, table, to_lsn=options.to_lsn, into=options.into)) as events:
        for event in events:
            if not isinstance(event, TableRebuilt):
                say_progress(rebuild_line(event))
            elif options.json:
                say_json(rebuilt_as_json(event))
            else:
                say([rebuild_line(event), *(f"note: {note}" for note in event.notes)])
    return DONE
