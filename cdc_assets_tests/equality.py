"""The assertion that matters: the warehouse holds what the source holds."""

from __future__ import annotations

from cdc_assets.config import PipelineConfig
from cdc_assets.demo.compare import compare
from cdc_assets_tests.database import ScratchDatabase


def assert_equal_to_source(database: ScratchDatabase, config: PipelineConfig) -> None:
    """Fail unless every mirror equals its table, row by row, as the superuser reads it."""
    compared = compare(config, dsn=database.dsn)
    different = [str(comparison) for comparison in compared if not comparison.equal]
    assert not different, "\n".join(different)
