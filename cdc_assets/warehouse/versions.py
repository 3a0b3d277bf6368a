"""Which DuckDB this is."""

from __future__ import annotations

import duckdb

MAJOR = int(duckdb.__version__.partition(".")[0])
