"""What customers and staff of the shop do; each action is part of a transaction."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

Action = Callable[[psycopg.Connection, random.Random], None]

_STATUSES = ("placed", "paid", "shipped", "returned")
_TAGS = ("vip", "new", "päckchen", 'says "hi"', "{brace}", "NULL", "")


def register_customer(session: psycopg.Connection, rng: random.Random) -> None:
    """Insert a customer, with a TOASTed text now and then."""
    number = rng.getrandbits(48)
    session.execute(
        "INSERT INTO public.customers"
        " (public_id, name, email, tags, preferences, biography, credit)"
        " VALUES (md5(%(n)s::text)::uuid, 'Customer ' || %(n)s, %(n)s || '@example.com',"
        " %(tags)s::text[], %(preferences)s, %(biography)s, %(credit)s::numeric)",
        {
            "n": str(number),
            "tags": rng.sample(_TAGS, rng.randint(0, 3)),
            "preferences": Jsonb({"n": number, "limit": rng.random()}),
            "biography": _long_text(rng) if rng.random() < 0.3 else None,
            "credit": str(number / 1000),
        },
    )


def change_customer(session: psycopg.Connection, rng: random.Random) -> None:
    """Update a customer; the biography stays, and a TOASTed one is not part of the change."""
    session.execute(
        "UPDATE public.customers SET tier = %s::public.tier, credit = credit + %s::numeric,"
        " newsletter = NOT newsletter, tags = %s::text[], updated_at = clock_timestamp()"
        " WHERE id = %s",
        [
            rng.choice(("basic", "silver", "gold")),
            f"{rng.uniform(-10, 10):.{rng.randint(0, 12)}f}",
            rng.sample(_TAGS, rng.randint(0, 4)),
            _customer(session, rng),
        ],
    )


def rewrite_biography(session: psycopg.Connection, rng: random.Random) -> None:
    """Replace a long text by another one, a short one or NULL."""
    text = rng.choice((None, "", "short", _long_text(rng), _long_text(rng)))
    session.execute(
        "UPDATE public.customers SET biography = %s WHERE id = %s", [text, _customer(session, rng)]
    )


def renumber_customer(session: psycopg.Connection, rng: random.Random) -> None:
    """Change a customer's key; the orders follow by a foreign key."""
    session.execute(
        "UPDATE public.customers"
        " SET id = nextval(pg_get_serial_sequence('public.customers', 'id')) WHERE id = %s",
        [_customer(session, rng)],
    )


def delete_customer(session: psycopg.Connection, rng: random.Random) -> None:
    """Delete a customer, and all that hangs on it."""
    session.execute("DELETE FROM public.customers WHERE id = %s", [_customer(session, rng)])


def place_order(session: psycopg.Connection, rng: random.Random) -> None:
    """Insert an order and its items, and take the items from the stock."""
    order = _one(
        session,
        "INSERT INTO public.orders (customer_id, status, due_date, delivery_within, shipping, note)"
        " VALUES (%s, 'placed', current_date + %s::int, make_interval(hours => %s), %s, %s)"
        " RETURNING id",
        [
            _customer(session, rng),
            rng.randint(1, 30),
            rng.randint(1, 100),
            Jsonb({"city": f"City {rng.randint(1, 300)}"}),
            _long_text(rng) if rng.random() < 0.1 else None,
        ],
    )
    for line in range(1, rng.randint(2, 5)):
        price = f"{rng.uniform(1, 1000):.2f}"
        session.execute(
            "WITH sold AS (UPDATE public.products SET stock = stock - 1 WHERE sku = %s"
            " RETURNING sku) INSERT INTO public.order_items"
            " SELECT %s, %s, sku, %s, %s::numeric, %s::int[] FROM sold",
            [_sku(session, rng), order, line, rng.randint(1, 9), price, [line, rng.randint(0, 99)]],
        )


def advance_order(session: psycopg.Connection, rng: random.Random) -> None:
    """Move an order on; a TOASTed note is not part of the change."""
    session.execute(
        "UPDATE public.orders SET status = %s::public.order_status, payment_id = %s::uuid,"
        " total = (SELECT coalesce(sum(quantity * unit_price), 0) FROM public.order_items"
        " WHERE order_id = id) WHERE id = %s",
        [rng.choice(_STATUSES), f"{rng.getrandbits(128):032x}", _order(session, rng)],
    )


def cancel_order(session: psycopg.Connection, rng: random.Random) -> None:
    """Delete an order; its items go with it."""
    session.execute("DELETE FROM public.orders WHERE id = %s", [_order(session, rng)])


def shift_lines(session: psycopg.Connection, rng: random.Random) -> None:
    """Change one half of the composite key of an order's items."""
    session.execute(
        "UPDATE public.order_items SET line = line + %s, quantity = quantity + 1"
        " WHERE order_id = %s AND quantity < 1000",
        [rng.choice((10, 100)), _order(session, rng)],
    )


def reprice(session: psycopg.Connection, rng: random.Random) -> None:
    """Update a few products at once; their long descriptions stay."""
    session.execute(
        "UPDATE public.products SET price = greatest(0.01, price + %s::numeric),"
        " weight_kg = weight_kg * %s WHERE sku IN (SELECT sku FROM public.products"
        " WHERE sku >= %s ORDER BY sku LIMIT 5 FOR UPDATE)",
        [f"{rng.uniform(-5, 5):.2f}", rng.uniform(0.9, 1.1), _random_sku(rng)],
    )


def rename_product(session: psycopg.Connection, rng: random.Random) -> None:
    """Change the key of a row with a TOASTed text; the items follow by a foreign key."""
    session.execute(
        "UPDATE public.products SET sku = %s WHERE sku = %s",
        [f"{_random_sku(rng)}-{rng.getrandbits(24):06x}", _sku(session, rng)],
    )


def come_and_go(session: psycopg.Connection, rng: random.Random) -> None:
    """Insert a product, change it and delete it in one transaction."""
    sku = f"TMP-{rng.getrandbits(48):012x}"
    session.execute(
        "INSERT INTO public.products (sku, title, price, description) VALUES (%s, 'x', 1, %s)",
        [sku, _long_text(rng)],
    )
    session.execute("UPDATE public.products SET stock = 7 WHERE sku = %s", [sku])
    session.execute("DELETE FROM public.products WHERE sku = %s", [sku])


_WEIGHTED: tuple[tuple[Action, int], ...] = (
    (register_customer, 6),
    (change_customer, 20),
    (rewrite_biography, 4),
    (renumber_customer, 3),
    (delete_customer, 2),
    (place_order, 20),
    (advance_order, 25),
    (cancel_order, 6),
    (shift_lines, 5),
    (reprice, 6),
    (rename_product, 2),
    (come_and_go, 1),
)
ACTIONS = tuple(action for action, _ in _WEIGHTED)
WEIGHTS = tuple(weight for _, weight in _WEIGHTED)


def _customer(session: psycopg.Connection, rng: random.Random) -> Any:
    return _near(session, "public.customers", rng)


def _order(session: psycopg.Connection, rng: random.Random) -> Any:
    return _near(session, "public.orders", rng)


def _near(session: psycopg.Connection, table: str, rng: random.Random) -> Any:
    """Find a row by its place in the range of ids, which has gaps and grows."""
    return _one(
        session,
        f"SELECT id FROM {table} WHERE id >= (SELECT (max(id) * %s)::bigint FROM {table})"
        " ORDER BY id LIMIT 1",
        [rng.random()],
    )


def _sku(session: psycopg.Connection, rng: random.Random) -> Any:
    query = "SELECT sku FROM public.products WHERE sku >= %s ORDER BY sku LIMIT 1"
    return _one(session, query, [_random_sku(rng)])


def _random_sku(rng: random.Random) -> str:
    return f"SKU-{rng.randint(1, 1900):05}"


def _one(session: psycopg.Connection, query: str, parameters: list[Any]) -> Any:
    row = session.execute(query.encode(), parameters).fetchone()
    return row[0] if row else None


def _long_text(rng: random.Random) -> str:
    return "".join(f"{rng.getrandbits(256):064x}\n" for _ in range(rng.randint(40, 80)))
