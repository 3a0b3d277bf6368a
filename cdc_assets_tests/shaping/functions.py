"""What a project might put its rows through; the tests' configs name these."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

MODULE = __name__


def as_it_is(frame: pd.DataFrame) -> pd.DataFrame:
    """Change nothing."""
    return frame


def add_margin(frame: pd.DataFrame) -> pd.DataFrame:
    """Add a column that is made of two others."""
    return frame.assign(margin=frame["total"] - frame["cost"])


def shape_orders(frame: pd.DataFrame) -> pd.DataFrame:
    """Add, change and drop columns, drop rows, and give the rest in another order."""
    length = frame["body"].str.len().astype(pd.ArrowDtype(pa.int64()))
    kept = frame.assign(margin=frame["total"] - frame["cost"], length=length)
    kept["status"] = kept["status"].str.upper()
    kept = kept[(kept["margin"] > 0).fillna(False)]
    return kept.drop(columns=["cost", "body"]).sort_values("total", kind="stable")


def shape_events(frame: pd.DataFrame) -> pd.DataFrame:
    """Drop rows and change columns of a table without a key, and give it in another order."""
    kept = frame[(frame["amount"] > 0).fillna(False)]
    shaped = kept.assign(kind=kept["kind"].str.upper(), amount=-kept["amount"])
    return shaped.drop(columns=["body"]).sort_values("kind", kind="stable")


def with_greeting(frame: pd.DataFrame) -> pd.DataFrame:
    """Make a column of one that is taken, and drop one, in another order."""
    greeted = frame.assign(greeting="to " + frame["customer_email"])
    return greeted.drop(columns=["saw_phone"]).sort_values("customer_email", kind="stable")


def without_strangers(frame: pd.DataFrame) -> pd.DataFrame:
    """Drop rows by what they have taken."""
    return frame[frame["customer_email"].notna()]


def without_taken(frame: pd.DataFrame) -> pd.DataFrame:
    """Drop a column that is taken of another table."""
    return frame.drop(columns=["customer_email"])


def upper_taken(frame: pd.DataFrame) -> pd.DataFrame:
    """Change a column that is taken of another table."""
    return frame.assign(customer_email=frame["customer_email"].str.upper())


def upper_email(frame: pd.DataFrame) -> pd.DataFrame:
    """Change a column that another table takes, and drop rows."""
    kept = frame[~frame["email"].str.endswith("3").fillna(False)]
    return kept.assign(email=kept["email"].str.upper())


def reset_index(frame: pd.DataFrame) -> pd.DataFrame:
    """Forget which row is which."""
    return frame[frame["total"] > 0].reset_index(drop=True)


def no_frame(frame: pd.DataFrame) -> list[int]:
    """Give no frame."""
    return list(frame["id"])


def without_key(frame: pd.DataFrame) -> pd.DataFrame:
    """Lose the key."""
    return frame.drop(columns=["id"])


def text_key(frame: pd.DataFrame) -> pd.DataFrame:
    """Give the key another type."""
    return frame.assign(id=frame["id"].astype(str))


def other_keys(frame: pd.DataFrame) -> pd.DataFrame:
    """Give rows the keys of others."""
    return frame.assign(id=frame["id"].iloc[::-1].array)


def reserved_name(frame: pd.DataFrame) -> pd.DataFrame:
    """Take one of our names."""
    return frame.assign(_cdc_lsn=1)


def two_spellings(frame: pd.DataFrame) -> pd.DataFrame:
    """Make two columns of one name."""
    return frame.assign(Status="x")


def no_type(frame: pd.DataFrame) -> pd.DataFrame:
    """Add a column whose type an empty frame does not tell."""
    return frame.assign(extra=pd.Series([None] * len(frame), dtype=object, index=frame.index))


def needs_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Take no empty frame."""
    first = frame["total"].iloc[0]
    return frame.assign(first=first == first)


def fails_for_some(frame: pd.DataFrame) -> pd.DataFrame:
    """Fail with a row in the message."""
    if (frame["status"] == "canary").any():
        raise ValueError(f"what is {frame['status'].tolist()}")
    return frame


def fails_in_a_library(frame: pd.DataFrame) -> pd.DataFrame:
    """Have pandas fail, of rows alone."""
    return frame.assign(total=frame["gone"]) if len(frame) else frame


def no_such_column(frame: pd.DataFrame) -> pd.DataFrame:
    """Ask for a column that is not given."""
    return frame.assign(total=frame["gone"])


def named_by_values(frame: pd.DataFrame) -> pd.DataFrame:
    """Give columns that are called like values."""
    return pd.concat([frame, pd.get_dummies(frame["status"])], axis=1)


def thirds(frame: pd.DataFrame) -> pd.DataFrame:
    """Give what no decimal holds."""
    return frame.assign(third=frame["total"].astype("float64") / 3)


def shape_docs(frame: pd.DataFrame) -> pd.DataFrame:
    """Drop rows by a value, and make another column of it."""
    thirds = frame["amount"] // 3 * 3  # Arrow has no remainder
    kept = frame[(frame["amount"] != thirds).fillna(True)]
    return kept.assign(double=kept["amount"] * 2).drop(columns=["amount"])
