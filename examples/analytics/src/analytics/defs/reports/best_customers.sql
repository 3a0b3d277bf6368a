CREATE OR REPLACE TABLE best_customers AS
SELECT c.id, c.country, sum(o.amount) AS amount, count(*) AS orders
FROM shop.public.customers c JOIN shop.public.orders o ON o.customer_id = c.id
GROUP BY ALL
ORDER BY amount DESC
LIMIT 100
