-- The role of source.dsn, with no more than a pipeline needs. Run as an administrator; replace the
-- names, the password and the schema.
--
-- REPLICATION lets a role read every published row through the slot, whatever SELECT it has: one
-- role per pipeline. SELECT is for the first copy of a table; it may be revoked once all are copied.

CREATE ROLE shop_cdc LOGIN REPLICATION PASSWORD 'change me';
GRANT CONNECT ON DATABASE shop TO shop_cdc;
GRANT USAGE ON SCHEMA public TO shop_cdc;
GRANT SELECT ON public.customers, public.products, public.orders, public.order_items TO shop_cdc;

-- If you like: 'cdc-assets status' then says since when other roles' transactions are open, and how
-- large the WAL's folder is.
-- GRANT pg_monitor TO shop_cdc;
