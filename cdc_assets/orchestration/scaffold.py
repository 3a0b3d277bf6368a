"""What `dg scaffold defs cdc_assets.PostgresCdcComponent NAME` writes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
import dagster as dg
from pydantic import BaseModel, Field, ValidationError

from cdc_assets.config import TableConfig, project_root, read_environment
from cdc_assets.errors import CdcError
from cdc_assets.identifiers import TableName

if TYPE_CHECKING:
    from cdc_assets.source.discovery import Discovered

_TEMPLATE = """\
type: cdc_assets.PostgresCdcComponent

attributes:
  # Starts every asset key; the job is {name}_sync, its schedule {name}_sync_schedule.
  name: {name}

  source:
    # A libpq URI or keyword string. It holds a password, so it belongs in the environment, or into
    # the project's .env.
    dsn: {{env: {variable}}}
    # 'cdc-assets setup' creates both; a slot is read by one pipeline only.
    slot: {name}_cdc
    publication: {name}_cdc

  warehouse:
    # A relative path starts at the project's root. One process at a time can open the file.
    duckdb:
      path: data/{name}.duckdb
      # A copy for readers, which no run holds, made anew after each run that changed something.
      # publish: data/{name}_published.duckdb
      # How long a run waits for a reader that has the file open.
      # wait_seconds: 120

  # Spelled as Postgres' catalog spells them; a part with a dot in it stands in double quotes.
  tables:
{tables}

  # When mirrors are compared with the source, and how much of them; never without it.
  # reconcile: {{schedule: "0 3 * * *", sample: 0.1}}

  # How much WAL one window reads at the most: more is faster, and costs memory and disk.
  # window: {{max_wal_bytes: 268435456}}

  # A cron expression in UTC; null for none. A tick is skipped while a run is queued or running.
  schedule: "* * * * *"
  # schedule: {{cron: "0 3 * * *", timezone: Europe/Berlin, start: stopped}}

  # From where on the slot's health is reported as a problem.
  # health: {{lag_bytes: 1073741824, retained_bytes: 10737418240}}

  # What Dagster shows of each mirror: a table's schema and name are {{{{ table.schema }}}} and
  # {{{{ table.name }}}}.
  # translation:
  #   group_name: "{{{{ table.schema }}}}"
  #   owners: [team:shop]

  # The op that syncs: its name, tags, description and pool.
  # op:
  #   tags: {{purpose: cdc}}
"""
_PLACEHOLDER = """\
    - source: public.my_table
    # - source: public.my_other_table
    #   keep: [mirror]
    #   backfill: {buckets: 8, max_rows_per_second: 20000, first: wait}"""
_COMMA = re.compile(r',(?=(?:[^"]*"[^"]*")*[^"]*$)')  # none between double quotes
_PLAIN = re.compile(r"\w+\.\w+")


class ScaffoldParameters(BaseModel):
    """What `dg scaffold defs` takes for this component."""

    dsn_env: str = Field("", description="The environment variable that holds the source's DSN.")
    tables: str = Field("", description="Tables as schema.table, with commas between them.")


class PostgresCdcScaffolder(dg.Scaffolder[ScaffoldParameters]):
    """Writes a config that shows every key.

    The tables are those that were given; else those of the source, where the DSN's variable is set
    already, here or in the project's `.env`.
    """

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldParameters]:
        """Give what the command takes."""
        return ScaffoldParameters

    def scaffold(self, request: dg.ScaffoldRequest[ScaffoldParameters]) -> None:
        """Write `defs.yaml` into the folder that was asked for.

        Raises:
            ClickException: It was asked for as Python, or a table's name is none.
        """
        if request.scaffold_format != "yaml":
            raise click.ClickException("the command line reads the config too, so it is YAML only")
        target = request.target_path
        folder = target.parent if request.append else target
        name = re.sub(r"\W", "_", folder.name.lower(), flags=re.ASCII)
        variable = request.params.dsn_env or f"{name.upper()}_SOURCE_DSN"
        text = _TEMPLATE.format(
            name=f"_{name}" if name[:1].isdigit() else name,
            variable=variable,
            tables=_tables(request.params.tables, variable, request.project_root or folder),
        )
        if request.append:
            with target.open("a", encoding="utf-8") as file:
                file.write(f"---\n{text}")
        else:
            (target / "defs.yaml").write_text(text, encoding="utf-8")


def _tables(given: str, variable: str, project: Path) -> str:
    if given:
        names = [name.strip() for name in _COMMA.split(given) if name.strip()]
        return "\n".join(f"    - source: {_scalar(_checked(name))}" for name in names)
    environment = {**os.environ, **read_environment([project_root(project)])}
    dsn = environment.get(variable)
    if not dsn:
        return _PLACEHOLDER
    from cdc_assets.source.discovery import discover_tables

    try:
        found = discover_tables(dsn)
    except CdcError as error:
        click.echo(f"The source could not be asked for its tables: {error}", err=True)
        return _PLACEHOLDER
    return "\n".join(_listed(found)) or _PLACEHOLDER


def _listed(found: Mapping[TableName, Discovered]) -> Iterable[str]:
    """List usable tables, and behind a # those that are not, each with its reason.

    Those whose changes alone can be kept are offered so.
    """
    spelled: dict[tuple[str, str], TableName] = {}
    usable = 0
    for table, of in found.items():
        refused = _refused(str(table))
        reason = of.problem.message if of.problem else refused
        other = spelled.setdefault(table.folded, table)
        if not reason and other != table:
            reason = f"in a warehouse that ignores case it has the name of '{other}'"
        usable += not reason
        if reason:
            yield f"    # - source: {_scalar(str(table))}  # {' '.join(reason.split())}"
            if of.problem and of.takes_changes and not refused and other == table:
                yield "    #   keep: [changes]  # which takes no key"
        else:
            yield f"    - source: {_scalar(str(table))}"
    if found and not usable:
        yield _PLACEHOLDER


def _checked(name: str) -> str:
    if reason := _refused(name):
        raise click.ClickException(f"--tables: {reason}")
    return str(TableName.parse(name))


def _refused(name: str) -> str:
    try:
        TableConfig(source=name)
    except ValidationError as error:
        return error.errors()[0]["msg"].removeprefix("Value error, ")
    return ""


def _scalar(name: str) -> str:
    """Write a name as YAML reads it, plainly where that does."""
    return name if _PLAIN.fullmatch(name) else json.dumps(name, ensure_ascii=False)
