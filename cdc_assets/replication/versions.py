"""The version of what a config makes of a table's rows: Dagster and the warehouse both show it."""

from __future__ import annotations

import hashlib
import json

from cdc_assets.config import PipelineConfig
from cdc_assets.config.tables import MIRROR
from cdc_assets.identifiers import TableName
from cdc_assets.replication.shaping import enrichment, transform_of

# Raised when the same changes would give other rows than before.
_VERSION = 1

# Where a config says nothing of these, versions stay what they were before there were these keys.
_SHAPING = ("columns", "where", "mask", "deletes", "transform")


def code_version(config: PipelineConfig, table: TableName) -> str:
    """Give what is another one when the same changes of a table would give other rows.

    A new password or slot leaves it, and so does what is kept beside a mirror, and for how long:
    that alters no row of what was there.
    """
    one = config.table(table).model_copy(update={"keep": [MIRROR]})
    unsaid = dict.fromkeys((key for key in _SHAPING if key not in one.model_fields_set), True)
    shape = one.model_dump_json(
        exclude={
            "backfill": True,
            "append_only": True,
            "changes": True,
            "schema_changes": True,
            "unfit_values": True,
            "transform": {"lineage": True},
            **unsaid,
        }
    )
    if one.enrich:  # a mask or a name that is given at the other table is one of this table, too
        shape += json.dumps([enrichment(config, each).declaration for each in one.enrich])
    if not config.table(table).keeps_mirror:
        shape += " changes alone"
    function = transform_of(one, config.root)
    digest = "" if function is None else f" {function.digest}"
    return hashlib.sha256(f"{_VERSION} {shape}{digest}".encode()).hexdigest()[:12]
