from __future__ import annotations

import dagster as dg
import pytest

from cdc_assets.errors import (
    CdcError,
    ConnectionLostError,
    PreflightError,
    SlotAheadOfCheckpointError,
    SlotInUseError,
    ValueConversionError,
    WarehouseBusyError,
)
from cdc_assets.orchestration.failures import MAX_RETRIES, describe, run_failure


@pytest.mark.parametrize("kind", [SlotInUseError, ConnectionLostError, WarehouseBusyError])
def test_what_may_pass_is_tried_again_later_each_time(kind: type[CdcError]) -> None:
    waits = []
    for retries in range(MAX_RETRIES):
        failure = run_failure(kind("busy"), "shop", retries=retries)
        assert isinstance(failure, dg.RetryRequested)
        waits.append(failure.seconds_to_wait)

    assert waits == [2, 4, 8]


def test_retries_end_with_the_error_itself() -> None:
    failure = run_failure(SlotInUseError("slot 'a' is in use"), "shop", retries=MAX_RETRIES)

    assert isinstance(failure, dg.Failure)
    assert failure.description == "slot 'a' is in use"
    assert not failure.allow_retries


@pytest.mark.parametrize("kind", [SlotAheadOfCheckpointError, PreflightError])
def test_what_needs_somebody_is_not_tried_again(kind: type[CdcError]) -> None:
    failure = run_failure(kind("gone", hint="run 'cdc-assets check'"), "shop", retries=0)

    assert isinstance(failure, dg.Failure)
    assert failure.description == "gone\nhint: run 'cdc-assets check --pipeline shop'"
    assert not failure.allow_retries
    assert failure.metadata["cdc/error"].value == kind.__name__


def test_a_tables_error_says_where_once() -> None:
    with_lsn = ValueConversionError("bad value at 0/19", table="public.t", lsn="0/19")
    without = ValueConversionError("bad value", table="public.t", lsn="0/19")

    assert describe(with_lsn, "shop") == describe(without, "shop") == "bad value at 0/19"
