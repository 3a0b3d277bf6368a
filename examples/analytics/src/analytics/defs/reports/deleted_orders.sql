CREATE TABLE IF NOT EXISTS deleted_orders (
    id INTEGER, deleted_at TIMESTAMP WITH TIME ZONE, lsn UBIGINT, seq BIGINT
);

-- How far this table is, it tells itself: a run that was killed has added all or nothing.
INSERT INTO deleted_orders
SELECT _cdc_before.id, _cdc_commit_ts, _cdc_lsn, _cdc_seq
FROM shop.public.orders__changes
WHERE _cdc_op = 'delete'
    AND (_cdc_lsn, _cdc_seq) > (
        SELECT coalesce(max((lsn, seq)), (0::UBIGINT, 0::BIGINT)) FROM deleted_orders
    );
