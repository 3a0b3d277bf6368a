"""Orders that take columns of their customers, and a trigger that notes what each row saw.

Whatever a row sees of its customer when it is written stands in its own `saw_` columns: what the
columns that it takes have to be.
"""

from __future__ import annotations

import random
from typing import Any

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.identifiers import TableName
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import sync_all

CUSTOMERS = TableName("public", "customers")
ORDERS = TableName("public", "orders")
SHOP_SQL = """
CREATE TABLE customers (
    region text, id int, email text, phone text, body text, PRIMARY KEY (region, id)
);
ALTER TABLE customers ALTER body SET STORAGE EXTERNAL;
CREATE TABLE orders (
    id int PRIMARY KEY, region text, customer bigint, n int,
    saw_email text, saw_phone text, saw_body text
);
CREATE TABLE plain (id int PRIMARY KEY);
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    SELECT email, phone, body INTO NEW.saw_email, NEW.saw_phone, NEW.saw_body
    FROM customers WHERE region = NEW.region AND id = NEW.customer;
    RETURN NEW;
END $$;
CREATE TRIGGER look BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION look();
INSERT INTO customers SELECT CASE i % 2 WHEN 0 THEN 'eu' ELSE 'us' END, i, 'mail' || i, '0' || i,
    repeat(md5(i::text), 90) FROM generate_series(1, 30) i;
INSERT INTO orders SELECT i, CASE i % 2 WHEN 0 THEN 'eu' ELSE 'us' END, i % 40, 0
    FROM generate_series(1, 150) i;
"""
ENRICH = {
    "from": "public.customers",
    "on": {"area": "region", "customer": "key"},
    "columns": {"email": "customer_email", "tel": "customer_phone", "body": "customer_body"},
}
SAW = ("saw_email", "saw_phone", "saw_body")
TAKEN = ("customer_email", "customer_phone", "customer_body")


def enriched(config: PipelineConfig, *, of: Any = None, **orders: Any) -> PipelineConfig:
    """Give the pipeline in which orders take columns of customers.

    Args:
        config: One of customers, orders and a plain table.
        of: More of the customers' config.
        orders: More of the orders'.
    """
    customers = {
        "source": "public.customers",
        "columns": {"rename": {"id": "key", "phone": "tel"}},
        "mask": {"phone": "sha256"},
    }
    orders = {
        "source": "public.orders",
        "columns": {"rename": {"region": "area"}},
        "mask": {"saw_phone": "sha256"},
        "enrich": [ENRICH],
        **orders,
    }
    tables = [orders, {**customers, **(of or {})}, {"source": "public.plain"}]
    return load_config(rewrite(config, tables=tables))


class Writer:
    """Writes both tables at random; of one session, so that the oracle's order is the stream's."""

    def __init__(self, database: ScratchDatabase, seed: int) -> None:
        self._database, self._random = database, random.Random(seed)
        self._next = 1000

    def commit(self, transactions: int) -> None:
        """Commit some transactions, each of a few statements."""
        for _ in range(transactions):
            count = self._random.randint(1, 6)
            self._database.execute(
                "BEGIN;" + ";".join(self._statement() for _ in range(count)) + ";COMMIT"
            )

    def _statement(self) -> str:
        self._next += 1
        new, key, row = self._next, self._random.randint(0, 40), self._random.randint(1, 150)
        area = self._random.choice(["eu", "us"])
        kinds = [
            (8, f"UPDATE orders SET n = n + 1 WHERE id = {row}"),
            (6, f"UPDATE orders SET customer = {key}, region = '{area}'"
                f" WHERE id % 50 = {row % 50}"),
            (4, f"INSERT INTO orders VALUES ({new}, '{area}', {key}, 1)"),
            (2, f"UPDATE orders SET id = {new} WHERE id = {row}"),
            (2, f"UPDATE orders SET customer = NULL WHERE id = {row}"),
            (2, f"DELETE FROM orders WHERE id = {row}"),
            (8, f"UPDATE customers SET email = 'm{new}' WHERE id = {key}"),
            (4, f"UPDATE customers SET body = repeat('{new}', 900), phone = '{new}'"
                f" WHERE id % 10 = {key % 10}"),
            (4, f"UPDATE customers SET id = {key} WHERE id = {row} AND NOT EXISTS"
                f" (SELECT FROM customers WHERE id = {key})"),
            (4, f"DELETE FROM customers WHERE id = {key}"),
            (8, f"INSERT INTO customers VALUES ('{area}', {key}, 'i{new}', '1',"
                f" repeat('{new}', 700)) ON CONFLICT DO NOTHING"),
            (1, "TRUNCATE customers"),
            (1, f"INSERT INTO customers SELECT '{area}', i, 'r' || {new} + i, '2', 'x'"
                " FROM generate_series(0, 40) i ON CONFLICT DO NOTHING"),
        ]  # fmt: skip
        weights, statements = zip(*kinds, strict=True)
        return str(self._random.choices(statements, weights)[0])


def settle(database: ScratchDatabase, config: PipelineConfig) -> None:
    """Write every row once more than its copy, so that none has what a copy found."""
    sync_all(config)
    database.execute("UPDATE orders SET n = n + 1")
