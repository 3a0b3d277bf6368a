"""Loading the shop into a database."""

from __future__ import annotations

from importlib.resources import files

import psycopg
from psycopg import sql

TABLES = ("customers", "products", "orders", "order_items")


def load(dsn: str) -> bool:
    """Create and fill the shop's tables in schema `public`, all or nothing.

    Returns:
        False when they were there before; then nothing is done.
    """
    with psycopg.connect(dsn) as connection:
        found = connection.execute("SELECT to_regclass('public.order_items')").fetchone()
        if found is not None and found[0] is not None:
            return False
        script = (files("cdc_assets.demo") / "shop.sql").read_bytes()
        connection.execute("SET LOCAL search_path = public")
        connection.execute(script)
    return True


def create_database(dsn: str, name: str) -> None:
    """Create a database when it is missing; `dsn` connects to another one."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        query = "SELECT FROM pg_database WHERE datname = %s"
        if connection.execute(query, [name]).rowcount == 0:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
