-- What to watch on the source. A slot keeps WAL until it is confirmed: a pipeline that does not run
-- fills the source's disk, unless max_slot_wal_keep_size ends the slot before.

-- How far each slot is, and how much WAL it keeps.
SELECT slot_name, active, wal_status, confirmed_flush_lsn,
       pg_size_pretty(pg_current_wal_lsn() - confirmed_flush_lsn) AS behind,
       pg_size_pretty(pg_current_wal_lsn() - restart_lsn) AS retained,
       pg_size_pretty(safe_wal_size) AS until_lost
FROM pg_replication_slots
WHERE slot_type = 'logical';

-- What holds restart_lsn back: every window is read again from there, so a transaction that stays
-- open makes every window slower.
SELECT pid, usename, application_name, state, now() - xact_start AS open_for, backend_xid
FROM pg_stat_activity
WHERE backend_xid IS NOT NULL
ORDER BY xact_start
LIMIT 5;

-- The same by transactions that were prepared and forgotten.
SELECT gid, owner, database, now() - prepared AS prepared_for
FROM pg_prepared_xacts
ORDER BY prepared
LIMIT 5;

-- Published tables whose UPDATE and DELETE fail, because nothing says which row they are about.
SELECT p.pubname, p.schemaname, p.tablename
FROM pg_publication_tables p
JOIN pg_namespace n ON n.nspname = p.schemaname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
WHERE c.relreplident = 'n'
   OR c.relreplident = 'd'
      AND NOT EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary);
