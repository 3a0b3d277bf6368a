"""The one place that turns this package's errors into Dagster's.

A Failure's description is the whole story: message and hint, whose commands name the pipeline, as
they are typed elsewhere. The chain of causes is cut, because Dagster stores every message of it,
and a driver's message may quote what it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import dagster as dg

from cdc_assets.errors import CdcError, TableError
from cdc_assets.identifiers import TableName
from cdc_assets.operations.hints import with_options
from cdc_assets.progress import TableResult

MAX_RETRIES = 3
_FIRST_WAIT_SECONDS = 2.0

T = TypeVar("T")


def or_failure(context: dg.OpExecutionContext, pipeline: str, do: Callable[[], T]) -> T:
    """Do what may end a run.

    Raises:
        dg.Failure: It has, and somebody has to do something about it.
        dg.RetryRequested: It has, and what is in the way may be gone at the next try.
    """
    try:
        return do()
    except CdcError as error:
        broke_off = error  # raised below, where it is no failure's context
    context.log.error(describe(broke_off, pipeline))
    raise run_failure(broke_off, pipeline, retries=context.retry_number)


def each_table(
    context: dg.OpExecutionContext,
    pipeline: str,
    tables: Iterable[TableName],
    do: Callable[[TableName], None],
    *,
    otherwise: str,
) -> None:
    """Do something with tables one by one; one that fails does not stop the others.

    Args:
        context: The op's.
        pipeline: Its name.
        tables: Which.
        do: What is done with one.
        otherwise: What is said of a table that failed, after its name.

    Raises:
        dg.Failure: A table failed, or something that ends the run did.
        dg.RetryRequested: What is in the way may be gone at the next try.
    """

    def one_by_one() -> list[TableError]:
        failed = list[TableError]()
        for table in tables:
            try:
                do(table)
            except TableError as error:
                failed.append(error)
                context.log.info(f"{table} {otherwise}")
        return failed

    if failed := or_failure(context, pipeline, one_by_one):
        raise dg.Failure(
            "\n".join(describe(error, pipeline) for error in failed), allow_retries=False
        )


def run_failure(error: CdcError, pipeline: str, *, retries: int) -> dg.Failure | dg.RetryRequested:
    """Turn an error that ended a run into what the op raises.

    Args:
        error: What ended the run.
        pipeline: Its name.
        retries: How often the op was tried again already.
    """
    if error.retryable and retries < MAX_RETRIES:
        return dg.RetryRequested(
            max_retries=MAX_RETRIES, seconds_to_wait=_FIRST_WAIT_SECONDS * 2**retries
        )
    return dg.Failure(
        description=describe(error, pipeline),
        metadata={"cdc/error": type(error).__name__},
        allow_retries=False,
    )


def tables_failure(failed: Sequence[TableResult], pipeline: str) -> dg.Failure:
    """Turn the errors of tables that were left behind into what the op raises at its end."""
    reasons = {str(table.table): describe(table.error, pipeline) for table in failed if table.error}
    which = ", ".join(repr(name) for name in reasons)
    many = len(reasons) > 1
    return dg.Failure(
        description="\n".join(
            [
                f"{'tables' if many else 'table'} {which} {'were' if many else 'was'} left behind,"
                " the others were synced",
                *(f"{name}: {reason}" for name, reason in reasons.items()),
            ]
        ),
        metadata={f"cdc/error/{name}": reason for name, reason in reasons.items()},
        allow_retries=False,
    )


def describe(error: CdcError, pipeline: str) -> str:
    """Say what happened, where, and the way out."""
    message = error.message
    if isinstance(error, TableError) and error.lsn not in message:
        message += f" at {error.lsn}"
    whole = f"{message}\nhint: {error.hint}" if error.hint else message
    return with_options(whole, f"--pipeline {pipeline}")
