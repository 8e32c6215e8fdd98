"""Which error stands for a task group's."""

from __future__ import annotations

import asyncio

import pytest

from common.errors import ConnectionLostError
from primary_site.background import first_of


async def fail() -> None:
    raise ConnectionLostError("gone")


async def inner() -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fail())


async def outer() -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(inner())
        tasks.create_task(asyncio.Event().wait())


async def test_a_nested_group_is_known_by_its_first_error() -> None:
    with pytest.raises(BaseExceptionGroup) as failed:
        await outer()
    assert isinstance(first_of(failed.value), ConnectionLostError)
