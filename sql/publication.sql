-- What `cdc-assets setup` would create, for a source where the pipeline's role may not: run it as
-- the tables' owner, in this order and each statement by itself, as psql does. The publication comes
-- before the slot: the slot decodes a change with the catalog as it was then.
--
-- Name the tables. FOR ALL TABLES makes UPDATE and DELETE fail on every table without a replica
-- identity, of today and of tomorrow.

CREATE PUBLICATION shop_cdc
    FOR TABLE ONLY public.customers, ONLY public.products, ONLY public.orders, ONLY public.order_items
    WITH (publish_via_partition_root = true);

SELECT pg_create_logical_replication_slot('shop_cdc', 'pgoutput');

-- Before the first sync: a commit that waits for a synchronous standby may be before the slot's
-- start and not be shown yet. Wait until every transaction of now has ended.
DO $$
DECLARE
    now_xid constant text := pg_current_xact_id()::text;
BEGIN
    COMMIT;
    WHILE pg_snapshot_xmin(pg_current_snapshot()) <= now_xid::xid8 LOOP
        PERFORM pg_sleep(0.1);
    END LOOP;
END $$;
