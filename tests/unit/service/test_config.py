"""What a loaded config holds, and that no input makes loading fail otherwise."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.addresses import TcpAddress, UnixAddress
from common.errors import ConfigError
from common.service.config import _build, load_any, load_primary, load_remote, schema
from common.service.config_primary import PrimaryConfig
from common.service.config_reference import reference
from common.service.config_text import config_text, config_values

ROOT = Path(__file__).parents[3]
VECTORS = ROOT / "tests/vectors/config"
PRIMARY = (VECTORS / "primary-valid.toml").read_text()
REMOTE = (VECTORS / "remote-valid.toml").read_text()


def write(folder: Path, text: str) -> str:
    path = folder / "config.toml"
    path.write_text(text)
    return str(path)


def test_units_become_bytes_and_seconds(tmp_path: Path) -> None:
    text = PRIMARY.replace('rpo = "5s"', 'interval = "1.5m"\nhold_max = "20ms"')
    text = text.replace('size = "1GiB"', 'size = "1GiB"\ntrack_size = "64KiB"')
    group = load_primary(write(tmp_path, text)).groups[0]

    assert group.interval_seconds == 90.0
    assert group.rpo_seconds is None
    assert group.hold_max_seconds == 0.02
    assert group.volumes[0].size_bytes == 1 << 30
    assert group.volumes[0].track_bytes == 64 << 10


def test_what_is_not_said_has_the_documented_default(tmp_path: Path) -> None:
    config = load_primary(write(tmp_path, PRIMARY.replace('rpo = "5s"', "")))
    group = config.groups[0]

    assert config.site.state_directory == "/var/lib/farshore/primary"
    assert config.nbd.listen == ()
    assert group.rpo_seconds == 5.0
    assert (group.hold_max_seconds, group.hold_retries) == (0.05, 5)
    assert group.resume_timeout_seconds == 600.0
    assert group.flashcopy.directory == "/var/lib/farshore/primary/flashcopy"
    assert (group.link.connections, group.link.compression) == (1, "auto")
    volume = group.volumes[0]
    assert (volume.track_bytes, volume.region_bytes) == (None, 4 << 20)
    assert volume.hot_regions_max == 4096


@pytest.mark.parametrize("trigger", ["interval", "changed", "schedule", "manual"])
def test_another_trigger_replaces_the_default_one(trigger: str, tmp_path: Path) -> None:
    values = {
        "interval": '"1m"',
        "changed": '"1MiB"',
        "schedule": '"*/5 * * * *"',
        "manual": "true",
    }
    text = PRIMARY.replace('rpo = "5s"', f"{trigger} = {values[trigger]}")

    assert load_primary(write(tmp_path, text)).groups[0].rpo_seconds is None


def test_manual_false_is_no_trigger(tmp_path: Path) -> None:
    text = PRIMARY.replace('rpo = "5s"', "manual = false")

    assert load_primary(write(tmp_path, text)).groups[0].rpo_seconds == 5.0


def test_relative_paths_start_at_the_config_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = PRIMARY.replace("/dev/v0", "images/v0").replace(
        'name = "a"', 'name = "a"\nstate_dir = "../state"\ncontrol_socket = "c.sock"'
    )
    text = text.replace("[[group]]", '[nbd]\nlisten = ["unix:n.sock"]\n[[group]]')
    write(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    config = load_primary("config.toml")

    assert config.groups[0].volumes[0].device == str(tmp_path / "images/v0")
    assert config.site.state_directory == str(tmp_path.parent / "state")
    assert config.site.control_socket == str(tmp_path / "c.sock")
    assert config.nbd.listen == (UnixAddress(str(tmp_path / "n.sock")),)
    assert config.groups[0].flashcopy.directory == str(
        tmp_path.parent / "state/flashcopy"
    )


def test_two_spellings_of_one_device_are_one_device(tmp_path: Path) -> None:
    (tmp_path / "v0").touch()
    (tmp_path / "link").symlink_to(tmp_path / "v0")
    second = '\n[[group.volume]]\nname = "log"\ndevice = "link"\n'
    path = write(tmp_path, PRIMARY.replace("/dev/v0", "v0") + second)

    with pytest.raises(ConfigError, match="orders/data and volume orders/log both use"):
        load_primary(path)


def test_addresses_are_parsed(tmp_path: Path) -> None:
    text = PRIMARY.replace('"b:7420"', '"b:7420", "[2001:db8::7]:1"').replace(
        "[[group]]", '[nbd]\nlisten = ["tcp:[::1]:10809", "unix:/n"]\n[[group]]'
    )
    config = load_primary(write(tmp_path, text))

    assert config.groups[0].link.remotes == (
        TcpAddress("b", 7420),
        TcpAddress("2001:db8::7", 1),
    )
    assert config.nbd.listen == (TcpAddress("::1", 10809), UnixAddress("/n"))
    listed = config_values(config)
    assert listed["nbd"]["listen"] == ["tcp:[::1]:10809", "unix:/n"]
    assert listed["group"][0]["link"]["remotes"] == ["b:7420", "[2001:db8::7]:1"]


def test_a_strange_path_survives_being_shown(tmp_path: Path) -> None:
    text = PRIMARY.replace('"/dev/v0"', '"/dev/\\"\\u007f\\\\\\té"')
    config = load_primary(write(tmp_path, text))

    assert config.groups[0].volumes[0].device == '/dev/"\x7f\\\té'
    assert load_primary(write(tmp_path, config_text(config))) == config


def test_nbd_limits_reach_the_server(tmp_path: Path) -> None:
    text = PRIMARY.replace(
        "[[group]]",
        '[nbd]\nlimits.handshake_timeout = "2s"\nlimits.connections_max = 7\n'
        'limits.bytes_in_flight_max = "2MiB"\n[[group]]',
    )
    given_limits = load_primary(write(tmp_path, text)).nbd.limits.nbd_limits()

    assert given_limits.handshake_seconds == 2.0
    assert given_limits.connections_max == 7
    assert given_limits.requests_in_flight_max == 128
    assert given_limits.bytes_in_flight_max == 2 << 20


def test_values_that_ask_for_nothing_new_are_accepted(tmp_path: Path) -> None:
    plain = 'delta = false\nseed = "none"\nprofile = "custom"\ncompression = 19'
    text = PRIMARY.replace('peer = "b"', f'peer = "b"\n{plain}')

    assert load_primary(write(tmp_path, text)).groups[0].link.compression == 19


def test_a_config_cannot_be_changed(tmp_path: Path) -> None:
    config = load_primary(write(tmp_path, PRIMARY))

    with pytest.raises(ValueError, match="frozen"):
        config.site.name = "other"  # type: ignore[misc]


def test_either_kind_is_recognised(tmp_path: Path) -> None:
    assert type(load_any(write(tmp_path, PRIMARY))).__name__ == "PrimaryConfig"
    assert type(load_any(write(tmp_path, REMOTE))).__name__ == "RemoteConfig"


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: the file does not exist"):
        load_any(str(tmp_path / "missing.toml"))
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        load_any(str(tmp_path))
    (tmp_path / "binary").write_bytes(b"\n\nname = '\xff'")
    with pytest.raises(ConfigError, match="line 3 is not UTF-8"):
        load_any(str(tmp_path / "binary"))
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2 << 20)
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load_any(str(tmp_path / "large"))
    (tmp_path / "deep").write_text("a = " + "[" * 50_000)
    with pytest.raises(ConfigError):
        load_any(str(tmp_path / "deep"))


def test_loading_changes_nothing_on_disk(tmp_path: Path) -> None:
    path = write(tmp_path, PRIMARY.replace("/dev/v0", "v0"))
    load_primary(path)

    assert [item.name for item in tmp_path.iterdir()] == ["config.toml"]


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield from leaves(inner, (*place, key))


def replaced(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    if isinstance(value, dict):
        return value | {place[0]: replaced(value[place[0]], place[1:], new)}
    items = list(value)
    items[place[0]] = replaced(items[place[0]], place[1:], new)
    return items


FULL = config_values(load_primary(str(ROOT / "config/primary.toml")))
FULL["group"][0] |= {"interval": "1m", "schedule": "* * * * *", "changed": "1MiB"}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(place=st.sampled_from(list(leaves(FULL))), new=ANYTHING)
@settings(max_examples=400, deadline=None)
def test_any_value_in_any_place_loads_or_is_a_config_error(
    place: tuple[Any, ...], new: Any
) -> None:
    triggers = ("rpo", "interval", "schedule", "changed")
    raw = replaced(copy.deepcopy(FULL), place, new)
    try:
        group = raw["group"][0]
        kept = place[2] if len(place) == 3 and place[2] in triggers else "rpo"
        for name in set(triggers) - {kept}:
            group.pop(name, None)
    except (TypeError, KeyError, IndexError, AttributeError):
        pass
    if not isinstance(raw, dict):
        return  # TOML's top level is always a table
    try:
        _build("x.toml", raw, "primary", PrimaryConfig)
    except ConfigError as error:
        assert str(error).startswith("x.toml: ")  # noqa: PT017 - either will do


@given(text=st.text(max_size=200))
@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_text_loads_or_is_a_config_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "any.toml"
    path.write_bytes(text.encode(errors="surrogatepass"))

    with pytest.raises(ConfigError, match=r"any\.toml: "):
        load_any(str(path))


def properties(node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        for name, value in node.get("properties", {}).items():
            yield name, value
        for value in node.values():
            yield from properties(value)


@pytest.mark.parametrize("kind", ["primary", "remote"])
def test_every_key_of_the_schema_is_described_and_no_table_is_open(kind: Any) -> None:
    whole = schema(kind)

    for name, value in properties(whole):
        assert value.get("description") or "$ref" in value, name
    for definition in [whole, *whole["$defs"].values()]:
        assert definition["additionalProperties"] is False
    assert "null" not in str(whole)


def test_the_schema_shows_defaults_as_users_write_them() -> None:
    group = schema("primary")["$defs"]["PrimaryGroup"]["properties"]

    assert group["hold_max"]["default"] == "50ms"
    assert group["hold_max"]["x-bounds"] == ["1ms", "10s"]


def test_the_reference_page_is_up_to_date() -> None:
    page = (ROOT / "docs/reference/config.md").read_text()

    assert page == reference(), "run python -m common.service.config_reference"


def test_the_vectors_are_valid_toml_but_for_one() -> None:
    broken = []
    for path in VECTORS.glob("*.toml"):
        try:
            tomllib.loads(path.read_text())
        except tomllib.TOMLDecodeError:
            broken.append(path.stem)

    assert broken == ["primary-syntax"]


def test_a_remote_keeps_its_journals_in_the_state_directory(tmp_path: Path) -> None:
    config = load_remote(write(tmp_path, REMOTE))

    assert config.groups[0].journal.directory == "/var/lib/farshore/remote/journal"
    assert config.replication.listen == (TcpAddress("0.0.0.0", 7420),)
