-- What `cdc-assets setup` would create, for a source where the pipeline's role may not: run it as
-- the tables' owner, and the second statement afterwards. The publication comes before the slot:
-- the slot decodes a change with the catalog as it was then.
--
-- Name the tables. FOR ALL TABLES makes UPDATE and DELETE fail on every table without a replica
-- identity, of today and of tomorrow.

CREATE PUBLICATION shop_cdc
    FOR TABLE public.customers, public.products, public.orders, public.order_items
    WITH (publish_via_partition_root = true);

SELECT pg_create_logical_replication_slot('shop_cdc', 'pgoutput');
