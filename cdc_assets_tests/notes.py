"""A table whose rows enter its publication's filter without their stored-apart values."""

from __future__ import annotations

from cdc_assets.config import PipelineConfig
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase


def filtered_notes(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    """Make `notes` with rows 501 to 510, of which those with an id below 100 are published."""
    database.execute(
        "CREATE TABLE notes (id int PRIMARY KEY, body text);"
        "ALTER TABLE notes ALTER body SET STORAGE EXTERNAL;"
        "INSERT INTO notes SELECT n, repeat(n::text, 9000) FROM generate_series(501, 510) n"
    )
    config = pipeline("public.notes")
    database.execute(
        f'ALTER PUBLICATION "{config.source.publication}" SET TABLE notes WHERE (id < 100)'
    )
    return config
