"""Who has to go when too many connections have not said who they are."""

from __future__ import annotations

import pytest

from remote_site.unknown_connections import (
    FAMILIAR_MAX,
    UNKNOWN_CONNECTIONS_MAX,
    Unknown,
    UnknownConnections,
    origin_of,
)


def filled(*origins: str) -> tuple[UnknownConnections, list[Unknown]]:
    """Return a full waiting room, its places given out to the origins in turn."""
    found = UnknownConnections()
    waiting = [
        Unknown(origins[number % len(origins)])
        for number in range(UNKNOWN_CONNECTIONS_MAX)
    ]
    for each in waiting:
        assert found.admit(each) is None
    return found, waiting


def test_the_oldest_makes_room_for_the_newest() -> None:
    found, waiting = filled("x")
    for oldest in waiting:
        assert found.admit(Unknown("x")) is oldest
        assert len(found) == UNKNOWN_CONNECTIONS_MAX


def test_the_address_with_most_connections_pays() -> None:
    found, waiting = filled("few", "many", "many")
    assert found.admit(Unknown("new")) is waiting[1]


def test_one_that_has_spoken_stays() -> None:
    found, waiting = filled("x")
    waiting[0].can_be_dropped = False
    assert found.admit(Unknown("x")) is waiting[1]


def test_where_all_have_spoken_the_newest_is_refused() -> None:
    found, waiting = filled("x")
    for each in waiting:
        each.can_be_dropped = False
    newest = Unknown("x")
    assert found.admit(newest) is newest
    assert len(found) == UNKNOWN_CONNECTIONS_MAX
    found.forget(waiting[0])
    found.forget(waiting[0])
    assert found.admit(newest) is None


def test_a_familiar_address_goes_last_however_many_come_from_elsewhere() -> None:
    found = UnknownConnections()
    peer = Unknown("peer")
    found.admit(peer)
    found.recognise(peer)
    found.forget(peer)
    again = Unknown("peer")
    found.admit(again)
    for number in range(10 * UNKNOWN_CONNECTIONS_MAX):
        assert found.admit(Unknown(f"stranger-{number}")) is not again


def test_only_so_many_addresses_are_remembered() -> None:
    found = UnknownConnections()
    for number in range(2 * FAMILIAR_MAX):
        found.recognise(Unknown(f"{number}"))
    assert len(found._familiar) == FAMILIAR_MAX
    assert f"{2 * FAMILIAR_MAX - 1}" in found._familiar


@pytest.mark.parametrize(
    ("peer", "origin"),
    [
        ("10.1.2.3:7420", "10.1.2.3"),
        ("[2001:db8:1:2:3:4:5:6]:7420", "2001:db8:1:2::"),
        ("[fe80::1%eth0]:7420", "fe80::"),
        ("unknown", ""),
        ("host.example:1", "host.example"),
    ],
)
def test_an_address_counts_as(peer: str, origin: str) -> None:
    assert origin_of(peer) == origin
