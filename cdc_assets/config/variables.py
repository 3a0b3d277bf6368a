"""`{env: NAME}` in place of a value that differs between development and production.

A variable is read when the config is loaded, but for the DSN's: that is read when a run starts, so
that definitions load where there is no source.
"""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

# Where {env: NAME} is understood: a template there is refused with a better way.
PLACES = frozenset(
    {
        "source.dsn",
        "mask_key",
        "source.slot",
        "source.publication",
        "warehouse.duckdb.path",
        "warehouse.duckdb.publish",
        "schedule",
        "schedule.cron",
        "schedule.timezone",
        "schedule.start",
    }
)


class EnvironmentVariable(BaseModel):
    """A reference to an environment variable: `{env: SHOP_SOURCE_DSN}`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    env: Annotated[
        str,
        Field(
            min_length=1,
            description="The environment variable's name.",
            examples=["SHOP_SOURCE_DSN"],
        ),
    ]


def read_variable(value: object) -> object:
    """Give the text of the variable that stands for a value; any other value as it is.

    Raises:
        ValueError: The variable is not set, or empty, or its name is none.
    """
    if not (isinstance(value, dict) and "env" in value):
        return value
    name = value["env"]
    if len(value) > 1 or not isinstance(name, str) or not name:
        raise ValueError("expected {env: NAME}, NAME being that of an environment variable")
    found = os.environ.get(name)
    if not found:
        raise ValueError(f"environment variable {name!r} is not set")
    return found


# Puts a variable's text in the place of the reference, before anything else looks at it.
FromEnvironment = BeforeValidator(
    read_variable,
    json_schema_input_type=Annotated[str, Field(min_length=1)] | EnvironmentVariable,
)
