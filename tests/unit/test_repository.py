"""The repository's outside: nothing of one machine in it, no broken link, a whole
wheel."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from release.completions import PLACES
from tests.support.sites import PATIENCE_SECONDS, Pair, VolumeSpec

REPOSITORY = Path(__file__).resolve().parents[2]
MADE_HERE = {
    ".git",
    ".venv",
    "run",
    "dist",
    "build",
    ".hypothesis",
    ".import_linter_cache",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    "__pycache__",
}
"""What .gitignore keeps out, and git itself."""

FILE_BYTES_MAX = 4 << 20

# In pieces, so that this file does not hold what it looks for.
FOREIGN = (
    "../" + "shared",
    "/" + "work/",
    "/" + "root/",
    "/" + "home/",
    "/opt/" + "wheels",
    "pypi" + ".org",
    "python" + "hosted.org",
    "extra-" + "index-url",
    "--find-" + "links",
)


@cache
def files() -> list[Path]:
    """Return the repository's files, sorted: as git has them, else all but what is
    made here (an unpacked archive has no git)."""
    if shutil.which("git") is None:
        return sorted(_walk(REPOSITORY))
    listing = subprocess.run(
        [
            *("git", "-c", "safe.directory=*", "-C", str(REPOSITORY), "ls-files"),
            *("-z", "--cached", "--others", "--exclude-standard"),
        ],
        capture_output=True,
        text=True,
    )
    if listing.returncode:
        return sorted(_walk(REPOSITORY))
    names = filter(None, listing.stdout.split("\0"))
    return sorted(p for p in map(REPOSITORY.joinpath, names) if p.is_file())


def tracked(suffix: str = "") -> list[Path]:
    return [path for path in files() if path.name.endswith(suffix)]


def _walk(directory: Path) -> Iterator[Path]:
    for path in directory.iterdir():
        if path.name in MADE_HERE or path.name.endswith(".egg-info"):
            continue
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path


def name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


PAGES = tracked(".md")


def test_no_file_names_another_machine_s_places() -> None:
    found = []
    for path in tracked():
        raw = path.read_bytes()
        assert len(raw) <= FILE_BYTES_MAX, f"{name(path)} is too large for a repository"
        text = raw.decode("utf-8", "replace")
        found += [f"{name(path)}: {word}" for word in FOREIGN if word in text]
    assert found == []


def test_no_two_test_modules_have_one_name() -> None:
    """pytest imports them by that alone, and would run but one of the two."""
    names = Counter(
        path.name for path in tracked(".py") if path.name.startswith("test_")
    )
    assert [each for each, times in names.items() if times > 1] == []


def test_the_top_level_has_what_a_visitor_looks_for() -> None:
    for expected in (
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "Makefile",
        "README.md",
        "SECURITY.md",
        "requirements-dev.lock",
        "requirements.lock",
        ".ci/run",
    ):
        assert (REPOSITORY / expected).is_file(), expected
    assert (REPOSITORY / ".ci/run").stat().st_mode & 0o111


def test_the_locks_pin_every_requirement_with_its_hashes() -> None:
    for lock in ("requirements.lock", "requirements-dev.lock"):
        text = (REPOSITORY / lock).read_text().replace("\\\n", " ")
        lines = [line for line in text.splitlines() if re.match(r"[a-zA-Z0-9]", line)]
        assert lines
        for line in lines:
            assert re.match(r"\S+==\S+ .*--hash=sha256:", line), f"{lock}: {line[:60]}"


# -- documents -------------------------------------------------------------------------


def slugs(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as hosting sites make them."""
    found = set()
    for heading in re.findall(r"^#+ +(.+)$", page.read_text(), re.MULTILINE):
        kept = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
        found.add(kept.strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{name(page)} links to {target}"
        assert REPOSITORY in found.parents, f"{name(page)} links outside: {target}"
        if anchor:
            assert anchor in slugs(found), f"{name(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_source_at_the_end_of_a_page_is_used_and_there(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    there = re.findall(r"^\[([\w-]+)\]: https?://", text, re.MULTILINE)
    used = re.findall(r"\]\[([\w-]+)\]", text)
    assert sorted(there) == sorted(set(used)), name(page)


def test_every_page_is_in_the_index() -> None:
    docs = REPOSITORY / "docs"
    listed = re.findall(r"\]\(([\w./-]+\.md)", (docs / "README.md").read_text())
    pages = {page for page in PAGES if docs in page.parents} - {docs / "README.md"}
    missing = pages - {(docs / link).resolve() for link in listed}
    assert missing == set(), "add them to docs/README.md, where they are needed"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_and_test_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    tops = "common|primary_site|remote_site|tests|demo|benchmarks|config|docs"
    for path in re.findall(rf"`((?:{tops})/[\w./-]+)", text):
        assert (REPOSITORY / path.rstrip("/.")).exists(), f"{name(page)}: {path}"
    for path, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        source = (REPOSITORY / path).read_text()
        assert re.search(rf"def {test}\(", source), f"{name(page)}: {path}::{test}"


def test_the_architecture_page_draws_the_layers_that_are_enforced() -> None:
    text = (REPOSITORY / "docs/internals/architecture.md").read_text()
    (drawing,) = re.findall(r"## Layers\n+```\n(.*?)```", text, re.DOTALL)
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    layers, pure = settings["tool"]["importlinter"]["contracts"]
    named = [name for row in layers["layers"] for name in row.split(" | ")]
    drawn = [drawing.index(name) for name in named]
    assert drawn == sorted(drawn)
    for exception in layers["ignore_imports"]:
        site, _, module = exception.partition(" ")[0].partition(".")
        assert module == "daemon" or f"`{site}.{module}`" in text, exception
    for module in pure["source_modules"]:
        if not module.startswith("common."):
            assert f"`{module}`" in text, module


def test_every_page_that_a_source_or_a_config_names_exists() -> None:
    named = 0
    for path in tracked():
        if path.suffix in {".py", ".toml", ".yml", ".sh", ".service", ".socket"}:
            for page in re.findall(r"\bdocs/[\w/-]+\.md\b", path.read_text()):
                assert (REPOSITORY / page).is_file(), f"{name(path)}: {page}"
                named += 1
    assert named > 30


def test_recovery_names_functions_that_exist() -> None:
    text = (REPOSITORY / "docs/internals/recovery.md").read_text()
    named = re.findall(r"`([\w/]+\.py)` `(?:\w+\.)?(\w+)`", text)
    assert len(named) > 10
    for path, function in named:
        source = (REPOSITORY / path).read_text()
        assert re.search(rf"def {function}\(", source), f"{path}: {function}"


def test_each_claim_names_modules_and_a_test() -> None:
    text = (REPOSITORY / "docs/internals/claims.md").read_text()
    rows = [line for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(row.split("|")[1]) for row in rows] == list(range(1, 18))
    for row in rows:
        _, _, _, modules, tests, _ = row.split("|")
        assert re.search(r"`\w+/[\w/]+\.py`", modules), row
        assert re.search(r"`tests/[\w/]+\.py::test_\w+`", tests), row


def test_each_invariant_names_a_test() -> None:
    text = (REPOSITORY / "docs/internals/invariants.md").read_text()
    sections = re.split(r"^## I(\d+): ", text, flags=re.MULTILINE)[1:]
    assert [int(number) for number in sections[::2]] == list(range(1, 13))
    for section in sections[1::2]:
        assert re.search(r"`tests/[\w/]+\.py::test_\w+`", section), section


# -- the wheel -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            *(sys.executable, "-m", "build", "--wheel", "--no-isolation"),
            *("--outdir", str(folder), str(REPOSITORY)),
        ],
        check=True,
        capture_output=True,
    )
    (found,) = folder.glob("farshore-*.whl")
    return found


def test_the_wheel_holds_the_packages_and_the_config_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for package in ("common", "primary_site", "remote_site"):
        sources = {name(path) for path in tracked(".py") if package in path.parts}
        expected = {path for path in sources if path.startswith(f"{package}/")}
        assert expected
        assert expected <= names
    data = "/data/share/farshore/config/"
    configs = {name.partition(data)[2] for name in names if data in name}
    assert configs == {
        str(path.relative_to(REPOSITORY / "config"))
        for path in tracked()
        if REPOSITORY / "config" in path.parents
    }
    shared = {name.partition("/data/share/")[2] for name in names}
    assert {"man/man1/farshore.1", *PLACES.values()} <= shared
    roots = {name.partition("/")[0] for name in names if ".d" not in name}
    assert roots == {"common", "primary_site", "remote_site"}


def test_daemons_of_an_installed_wheel_start_and_say_when_they_serve(
    wheel: Path, tmp_path: Path
) -> None:
    """In an environment of its own, with the dependencies of this one: offline."""
    home, python = tmp_path / "home", tmp_path / "home/bin/python"
    run = functools.partial(subprocess.run, check=True, capture_output=True, text=True)
    run([sys.executable, "-m", "venv", "--without-pip", home])
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps")
    run([*pip, "--no-index", "--disable-pip-version-check", wheel])
    (site,) = home.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("platlib") + "\n")
    environment = {"PATH": os.environ["PATH"]}

    told = run([home / "bin/farshore", "--version"], env=environment, cwd=tmp_path)
    assert told.stdout == f"farshore, version {wheel.name.split('-')[1]}\n"
    assert (home / "share/farshore/config/systemd/farshore-primary.service").is_file()
    with (
        Pair(tmp_path, [VolumeSpec("v", 1 << 20)]) as pair,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
    ):
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(PATIENCE_SECONDS)
        for daemon in pair.daemons:
            process = subprocess.Popen(
                [home / f"bin/farshore-{daemon.role}", "--config", daemon.config_path],
                env=environment | {"NOTIFY_SOCKET": systemd.getsockname()},
                cwd=tmp_path,
                stdout=subprocess.DEVNULL,
            )
            try:
                assert systemd.recv(1000) == b"STATUS=opening group g"
                assert systemd.recv(1000).startswith(b"READY=1\nSTATUS=")
                daemon.call("status")  # it serves
                process.terminate()
                assert process.wait(PATIENCE_SECONDS) == 0
            finally:
                process.kill()
                process.wait()
            systemd.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while systemd.recv(1000):  # its status, and its end
                    pass
            systemd.settimeout(PATIENCE_SECONDS)
