"""Who may open what: the first rule that fits, of those that govern the export."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.nbd.access import ANYBODY, Access, AccessRule, Caller, access_to
from common.nbd.server import NbdSecurity, NbdServer
from tests.support.memory_volume import MemoryExports, MemoryVolume
from tests.support.nbd_client import NbdClient, NbdReplyError, OptionRefusedError

VOLUMES = ["orders/data", "orders/log", "other/data"]
SUFFIXES = ["", "@cut", "@17", "@0", "+copy", "@17+copy", "+copy@cut", "@", "@@"]
EXPORTS = [volume + suffix for volume in VOLUMES for suffix in SUFFIXES]
PATTERNS = [
    *VOLUMES,
    *("orders/data@cut", "orders/*@1?", "*+copy"),
    *("orders/*", "*/data", "*", "ord?rs/log"),
]
UIDS = st.frozensets(st.integers(0, 3), max_size=2)
NAMES = st.frozensets(st.sampled_from(["a.test", "b.test"]), max_size=2)
RULES = st.lists(
    st.builds(
        AccessRule,
        exports=st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=2).map(tuple),
        access=st.sampled_from(Access),
        uids=UIDS,
        gids=UIDS,
        certificates=NAMES,
        anyone=st.booleans(),
    ),
    max_size=5,
).map(tuple)
CALLERS = st.one_of(
    st.just(ANYBODY),
    st.builds(Caller, uid=st.integers(0, 3), gid=st.integers(0, 3)),
    st.builds(Caller, certificate_names=NAMES),
)


@given(rules=RULES, export=st.sampled_from(EXPORTS), caller=CALLERS)
def test_rules_that_do_not_fit_or_name_another_export_change_nothing(
    rules: tuple[AccessRule, ...], export: str, caller: Caller
) -> None:
    verdict = access_to(rules, export, caller)
    naming = [rule for rule in rules if rule.governs(export)]
    fitting = [rule for rule in naming if rule.fits(caller)]
    if not naming:
        assert verdict is Access.READ_WRITE
    elif not fitting:
        assert verdict is None
    else:
        assert verdict is fitting[0].access
        later = AccessRule((export,), Access.READ_WRITE, anyone=True)
        assert access_to((*rules, later), export, caller) is verdict


@given(
    rules=RULES,
    volume=st.sampled_from(VOLUMES),
    suffix=st.builds("{}{}".format, st.sampled_from("@+"), st.text(max_size=8)),
    caller=CALLERS,
)
def test_whoever_may_not_open_a_volume_opens_none_of_its_moments_by_default(
    rules: tuple[AccessRule, ...], volume: str, suffix: str, caller: Caller
) -> None:
    # Only rules that name volumes, as an administrator writes them first.
    of_volumes = tuple(
        rule for rule in rules if not any(set("@+") & set(e) for e in rule.exports)
    )
    on_volume = access_to(of_volumes, volume, caller)
    assert access_to(of_volumes, volume + suffix, caller) is on_volume
    # Rules for moments, whatever they are, never open one to all again.
    closed = (*rules, AccessRule((volume,), Access.READ_WRITE, uids=frozenset({99})))
    if not any(rule.fits(caller) for rule in rules):
        assert access_to(closed, volume + suffix, caller) is None


def test_the_order_decides_between_a_volume_and_one_of_its_moments() -> None:
    backup = Caller(uid=2)
    volume = AccessRule(("orders/data",), Access.READ_WRITE, uids=frozenset({1}))
    cut = AccessRule(("orders/data@cut",), Access.READ_ONLY, uids=frozenset({1, 2}))
    for rules in ((volume, cut), (cut, volume)):
        assert access_to(rules, "orders/data@cut", backup) is Access.READ_ONLY
        assert access_to(rules, "orders/data", backup) is None
        assert access_to(rules, "orders/data@17", backup) is None
        first = access_to(rules, "orders/data@cut", Caller(uid=1))
        assert first is rules[0].access


def test_a_name_is_no_prefix_of_another_and_brackets_mean_themselves() -> None:
    rule = AccessRule(("orders/data", "[ab]/v"), Access.READ_ONLY)
    for export in ("orders/data2", "orders/data2@cut", "xorders/data", "a/v", "b/v@1"):
        assert not rule.governs(export)
    assert rule.governs("[ab]/v@1")


@given(rules=RULES, export=st.sampled_from(EXPORTS))
def test_who_is_unknown_gets_in_by_anyone_only(
    rules: tuple[AccessRule, ...], export: str
) -> None:
    naming = [rule for rule in rules if rule.governs(export)]
    if naming and not any(rule.anyone for rule in naming):
        assert access_to(rules, export, ANYBODY) is None


def test_names_of_certificates_are_compared_whole() -> None:
    rules = (
        AccessRule(("*",), Access.READ_WRITE, certificates=frozenset({"app.test"})),
    )
    for name in ("app.test.evil", "xapp.test", "*.test", "APP.TEST", ""):
        caller = Caller(certificate_names=frozenset({name}))
        assert access_to(rules, "g/v", caller) is None


class TestServed:
    async def test_a_caller_sees_and_opens_its_own_only(self, tmp_path: Path) -> None:
        mine, other = os.geteuid(), os.geteuid() + 1
        rules = (
            AccessRule(("mine",), Access.READ_WRITE, uids=frozenset({mine})),
            AccessRule(("look",), Access.READ_ONLY, gids=frozenset({os.getegid()})),
            AccessRule(("theirs",), Access.READ_WRITE, uids=frozenset({other})),
        )
        names = ("mine", "look", "theirs", "theirs@cut", "theirs+copy", "free")
        exports = MemoryExports({name: MemoryVolume(4096) for name in names})
        server = NbdServer(exports, security=NbdSecurity(rules=rules))
        address = f"unix:{tmp_path / 'nbd.sock'}"
        await server.listen([address])
        try:
            client = await NbdClient.connect_unnegotiated(address)
            listed = [name for name, _ in await client.list_exports()]
            assert listed == ["mine", "look", "free"]
            refusals = []
            for name in ("theirs", "theirs@cut", "theirs+copy", "absent"):
                try:
                    await client.go(name, [])
                except OptionRefusedError as error:
                    refusals.append(str(error).replace(name, "NAME"))
            assert len(refusals) == 4
            assert len(set(refusals)) == 1
            assert exports.volumes["theirs"].opened_count == 0
            client.abort()

            reader = await NbdClient.connect(address, "look")
            assert await reader.read(0, 4) == bytes(4)
            with pytest.raises(NbdReplyError) as refused:
                await reader.write(0, b"no")
            assert refused.value.number == 1
            await reader.disconnect()
            assert exports.volumes["look"].content == bytes(4096)
        finally:
            await server.close()
        assert exports.all_released()
