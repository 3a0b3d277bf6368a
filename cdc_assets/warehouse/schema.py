"""The tables of our own state in a DuckDB file, as SQL: made where they are not there yet."""

from __future__ import annotations

STATE_SCHEMA = """
CREATE SCHEMA IF NOT EXISTS {schema};
CREATE TABLE IF NOT EXISTS {schema}.checkpoints (
    pipeline VARCHAR NOT NULL,
    source_table VARCHAR NOT NULL,
    lsn UBIGINT NOT NULL,
    lsn_text VARCHAR NOT NULL,
    phase VARCHAR NOT NULL,
    copied_to VARCHAR,
    shape VARCHAR NOT NULL,
    identity VARCHAR NOT NULL,
    last_transaction VARCHAR,
    error VARCHAR NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL
);
CREATE TABLE IF NOT EXISTS {schema}.fences (
    pipeline VARCHAR NOT NULL,
    source_table VARCHAR NOT NULL,
    low VARCHAR,
    high VARCHAR,
    low_inclusive BOOLEAN NOT NULL,
    snapshot VARCHAR NOT NULL,
    lsn UBIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS {schema}.copies (
    pipeline VARCHAR NOT NULL,
    source_table VARCHAR NOT NULL,
    part VARCHAR NOT NULL,
    stage VARCHAR NOT NULL,
    made_by VARCHAR NOT NULL,
    low VARCHAR,
    high VARCHAR,
    predicate VARCHAR NOT NULL,
    baseline VARCHAR NOT NULL,
    files VARCHAR NOT NULL,
    next_place UBIGINT NOT NULL,
    end_place UBIGINT NOT NULL,
    rows_read UBIGINT NOT NULL,
    bytes_read UBIGINT NOT NULL,
    progressed_at TIMESTAMP WITH TIME ZONE NOT NULL
);
CREATE TABLE IF NOT EXISTS {schema}.chunks (
    pipeline VARCHAR NOT NULL,
    source_table VARCHAR NOT NULL,
    part VARCHAR NOT NULL,
    snapshot VARCHAR NOT NULL,
    lsn UBIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS {schema}.gaps (
    pipeline VARCHAR NOT NULL,
    source_table VARCHAR NOT NULL,
    part VARCHAR NOT NULL,
    key VARCHAR NOT NULL
);
-- of an earlier version: a copy in ranges of keys starts over
UPDATE {schema}.checkpoints SET phase = 'copying', copied_to = NULL
WHERE copied_to IS NOT NULL AND phase = 'copying' OR (pipeline, source_table) IN
    (SELECT (pipeline, source_table) FROM {schema}.fences WHERE NOT low_inclusive);
DELETE FROM {schema}.fences WHERE NOT low_inclusive;
CREATE TABLE IF NOT EXISTS {schema}.memory (limit_bytes UBIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS {schema}.warehouse (id UUID NOT NULL);
INSERT INTO {schema}.warehouse SELECT uuid() WHERE NOT EXISTS (FROM {schema}.warehouse);
CREATE TABLE IF NOT EXISTS {schema}.content (stamp UUID NOT NULL);
INSERT INTO {schema}.content SELECT uuid() WHERE NOT EXISTS (FROM {schema}.content);
CREATE TABLE IF NOT EXISTS {schema}.buckets (
    pipeline VARCHAR NOT NULL,
    source_table VARCHAR NOT NULL,
    bounds VARCHAR NOT NULL,
    key VARCHAR NOT NULL,
    planned_at TIMESTAMP WITH TIME ZONE NOT NULL
);
CREATE TABLE IF NOT EXISTS {schema}.change_tables (
    pipeline VARCHAR NOT NULL,
    source_table VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    since_lsn UBIGINT NOT NULL,
    until_lsn UBIGINT
);
ALTER TABLE {schema}.change_tables ADD COLUMN IF NOT EXISTS since_time TIMESTAMP WITH TIME ZONE;
CREATE TABLE IF NOT EXISTS {schema}.histories (
    pipeline VARCHAR NOT NULL,
    source_table VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    since_lsn UBIGINT NOT NULL,
    until_lsn UBIGINT
);
ALTER TABLE {schema}.histories ADD COLUMN IF NOT EXISTS since_time TIMESTAMP WITH TIME ZONE;
CREATE TABLE IF NOT EXISTS {schema}.record_gaps (
    pipeline VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    from_lsn UBIGINT NOT NULL,
    from_time TIMESTAMP WITH TIME ZONE NOT NULL,
    to_lsn UBIGINT,
    to_time TIMESTAMP WITH TIME ZONE
);
CREATE TABLE IF NOT EXISTS {schema}.placed (
    pipeline VARCHAR NOT NULL,
    source_table VARCHAR NOT NULL,
    shape VARCHAR NOT NULL
);
-- between which LSNs rows of a table were read ahead of the stream; no end while they are
CREATE TABLE IF NOT EXISTS {schema}.unread (
    pipeline VARCHAR NOT NULL,
    source_table VARCHAR NOT NULL,
    from_lsn UBIGINT NOT NULL,
    upto_lsn UBIGINT
);
-- up to which time, by the source's clock, a table has all that was committed
CREATE TABLE IF NOT EXISTS {schema}.reached (
    pipeline VARCHAR NOT NULL,
    source_table VARCHAR NOT NULL,
    upto_time TIMESTAMP WITH TIME ZONE NOT NULL
);
-- of rows that were copied into change tables: what the mirror had in the columns that it adds
CREATE TABLE IF NOT EXISTS {schema}.copied_rows (
    pipeline VARCHAR NOT NULL,
    source_table VARCHAR NOT NULL,
    seq BIGINT NOT NULL,
    lsn UBIGINT,
    commit_ts TIMESTAMP WITH TIME ZONE,
    as_of TIMESTAMP WITH TIME ZONE NOT NULL
);
-- what rebuilds have left; no LSN while it is made
CREATE TABLE IF NOT EXISTS {schema}.rebuilt (
    pipeline VARCHAR NOT NULL,
    source_table VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    lsn UBIGINT
);
CREATE TABLE IF NOT EXISTS {schema}.change_numbers (copied BIGINT NOT NULL);
INSERT INTO {schema}.change_numbers SELECT 0 WHERE NOT EXISTS (FROM {schema}.change_numbers);
"""
