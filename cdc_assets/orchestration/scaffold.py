"""What `dg scaffold defs cdc_assets.PostgresCdcComponent NAME` writes."""

from __future__ import annotations

import re

import dagster as dg

_TEMPLATE = """\
type: cdc_assets.PostgresCdcComponent

attributes:
  # Starts every asset key; the job is {name}_sync, its schedule {name}_sync_schedule.
  name: {name}

  source:
    # A libpq URI or keyword string. It holds a password, so it belongs in the environment.
    dsn: {{env: {variable}}}
    # 'cdc-assets setup' creates both; a slot is read by one pipeline only.
    slot: {name}_cdc
    publication: {name}_cdc

  warehouse:
    # A relative path starts at the project's root. One process at a time can open the file.
    duckdb: {{path: data/{name}.duckdb}}

  # Spelled as Postgres' catalog spells them; a part with a dot in it stands in double quotes.
  tables:
    - source: public.my_table
    # - source: public.my_other_table
    #   keep: [mirror]

  # How much WAL one window reads at the most: more is faster, and costs memory and disk.
  # window: {{max_wal_bytes: 268435456}}

  # A tick is skipped while a run is queued or running. Times are UTC.
  schedule: "* * * * *"

  # What Dagster shows of each mirror: a table's schema and name are {{{{ table.schema }}}} and
  # {{{{ table.name }}}}.
  # translation:
  #   group_name: "{{{{ table.schema }}}}"
  #   owners: [team:shop]

  # The op that syncs: its name, tags, description and pool.
  # op:
  #   tags: {{purpose: cdc}}
"""


class PostgresCdcScaffolder(dg.Scaffolder):
    """Writes a config that shows every key."""

    def scaffold(self, request: dg.ScaffoldRequest) -> None:
        """Write `defs.yaml` into the folder that was asked for.

        Raises:
            ValueError: It was asked for as Python.
        """
        if request.scaffold_format != "yaml":
            raise ValueError("the command line reads the config too, so it is YAML only")
        name = re.sub(r"\W", "_", request.target_path.name.lower(), flags=re.ASCII)
        text = _TEMPLATE.format(name=name, variable=f"{name.upper()}_SOURCE_DSN")
        if request.append:
            with request.target_path.open("a", encoding="utf-8") as file:
                file.write(f"---\n{text}")
        else:
            (request.target_path / "defs.yaml").write_text(text, encoding="utf-8")
