"""`make deb`: a Debian package with farshore and all it needs, installed offline.

    python -m release.deb [--output FOLDER] [--python /usr/bin/python3]

The environment at /opt/farshore is made from requirements.lock, hash by hash, for the
distribution's own Python: the package depends on that version. Times in it are those of
the last commit (or SOURCE_DATE_EPOCH), and nothing in it names the machine that built
it, so that two builds are the same, byte for byte.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from release.completions import PLACES
from release.debian_control import control, file_sums

ROOT = Path(__file__).resolve().parents[1]
HOME = "opt/farshore"
COMMANDS = ("farshore", "farshore-primary", "farshore-remote")
SCRIPTS = ("postinst", "prerm", "postrm")
UMASK = 0o022
PYTHON_MIN = (3, 11)

_COMPLETIONS = {**PLACES, "zsh": "zsh/vendor-completions/_farshore"}
"""Where Debian's shells look, below `share`."""


def _run(*command: str | Path) -> str:
    """Run a command whose output is only wanted where it fails; return stdout."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise click.ClickException(
            f"{command[0]} failed ({done.returncode}):\n{done.stdout}{done.stderr}"
        )
    return done.stdout


def _say(what: str) -> None:
    click.echo(f"deb: {what} ...")


def python_version(python: str) -> tuple[int, int]:
    """Return (major, minor) of the interpreter that the package will run on."""
    told = _run(python, "-c", "import json, sys; print(json.dumps(sys.version_info))")
    major, minor = json.loads(told)[:2]
    if (major, minor) < PYTHON_MIN:
        raise click.ClickException(
            f"{python} is Python {major}.{minor}: name another with --python"
        )
    return major, minor


def build_time() -> int:
    """Return what the package says its files' times are, in seconds since 1970."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return int(given)
    git = ("git", "-c", "safe.directory=*", "-C", ROOT)
    return int(_run(*git, "log", "-1", "--format=%ct").strip())


def install_environment(home: Path, python: str, wheel: Path) -> None:
    """Make the virtual environment that will be at /opt/farshore, in `home`."""
    _run(python, "-m", "venv", "--without-pip", home)
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python"]
    pip += [home / "bin/python3", "install", "--quiet", "--no-compile"]
    pip += ["--disable-pip-version-check"]
    _run(*pip, "--require-hashes", "--requirement", ROOT / "requirements.lock")
    _run(*pip, "--no-deps", wheel)
    _move_to_its_place(home)
    _run(
        *(home / "bin/python3", "-m", "compileall", "-q", "-j0"),
        *("--invalidation-mode", "unchecked-hash"),
        *("-s", home, "-p", f"/{HOME}", home / "lib"),
    )


def _move_to_its_place(home: Path) -> None:
    """Have nothing in the environment name the folder that it was made in."""
    for script in (home / "bin").iterdir():
        if script.is_symlink():
            continue
        if script.name not in COMMANDS:
            script.unlink()
            continue
        lines = script.read_text().splitlines(keepends=True)
        script.write_text("".join([f"#!/{HOME}/bin/python3\n", *lines[1:]]))
    settings = home / "pyvenv.cfg"
    kept = [line for line in settings.read_text().splitlines() if "command" not in line]
    settings.write_text("\n".join([*kept, ""]))
    # What pip needs to remove a package again: dpkg does that, and these name places
    # of the machine that built it.
    for name in ("direct_url.json", "RECORD"):
        for told in home.glob(f"lib/*/site-packages/*.dist-info/{name}"):
            told.unlink()


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)


def lay_out(stage: Path) -> None:
    """Put units, pages, completion, samples and documents where Debian has them."""
    share, config = stage / HOME / "share", stage / HOME / "share/farshore/config"
    units = stage / "usr/lib/systemd/system"
    shutil.copytree(config / "systemd", units)
    for shell, place in _COMPLETIONS.items():
        _move(share / PLACES[shell], stage / "usr/share" / place)
    for page in sorted((share / "man").glob("man*/*")):
        packed = stage / "usr/share/man" / page.parent.name / f"{page.name}.gz"
        packed.parent.mkdir(parents=True, exist_ok=True)
        packed.write_bytes(gzip.compress(page.read_bytes(), 9, mtime=0))
    for folder in ("man", "bash-completion", "zsh", "fish"):
        shutil.rmtree(share / folder)
    (stage / "etc/farshore/keys").mkdir(parents=True)
    for role in ("primary", "remote"):
        sample = stage / f"etc/farshore/sample-{role}.toml"
        shutil.copy(config / f"{role}.toml", sample)
    documents = stage / "usr/share/doc/farshore"
    shutil.copytree(ROOT / "docs", documents)
    for name in (
        "README.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "release/debian/copyright",
    ):
        shutil.copy(ROOT / name, documents)
    (documents / "examples").symlink_to(f"/{HOME}/share/farshore/config")
    for command in COMMANDS:
        link = stage / "usr/bin" / command
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"/{HOME}/bin/{command}")


def write_control(stage: Path, version: str, python: tuple[int, int]) -> None:
    """Write DEBIAN/: what dpkg has to know of the package."""
    folder = stage / "DEBIAN"
    sums = file_sums(stage)
    folder.mkdir()
    files = [path for path in stage.rglob("*") if path.is_file()]
    size_bytes = sum(path.stat().st_size for path in files if not path.is_symlink())
    architecture = _run("dpkg", "--print-architecture").strip()
    (folder / "control").write_text(control(version, architecture, python, size_bytes))
    (folder / "md5sums").write_text(sums)
    samples = sorted((stage / "etc").rglob("*.toml"))
    names = [f"/{path.relative_to(stage)}\n" for path in samples]
    (folder / "conffiles").write_text("".join(names))
    for script in SCRIPTS:
        shutil.copy(ROOT / "release/debian" / script, folder)


def settle(stage: Path, seconds: int) -> None:
    """Give every file the package's time, and the mode that its kind has."""
    for path in [stage, *stage.rglob("*")]:
        if not path.is_symlink():
            is_open = path.is_dir() or bool(path.stat().st_mode & 0o100)
            path.chmod(0o755 if is_open else 0o644)
        os.utime(path, (seconds, seconds), follow_symlinks=False)
    (stage / "etc/farshore/keys").chmod(0o700)


def build(output: Path, python: str) -> Path:
    """Build the package into `output`; return its file."""
    version_of_python, seconds = python_version(python), build_time()
    os.environ["SOURCE_DATE_EPOCH"] = str(seconds)
    os.environ["PYTHONHASHSEED"] = "0"  # it orders sets in compiled files
    os.umask(UMASK)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="farshore-deb-") as scratch:
        folder, stage = Path(scratch), Path(scratch) / "stage"
        _say("packing the wheel")
        build_wheel = (sys.executable, "-m", "build", "--wheel", "--no-isolation")
        _run(*build_wheel, "--outdir", folder, ROOT)
        (wheel,) = folder.glob("*.whl")
        version = re.match(r"farshore-([^-]+)-", wheel.name)
        assert version is not None
        _say(f"installing the locked dependencies for {python}")
        install_environment(stage / HOME, python, wheel)
        _say("packing all of it")
        lay_out(stage)
        write_control(stage, version[1], version_of_python)
        settle(stage, seconds)
        packed = folder / "farshore.deb"
        pack = ("dpkg-deb", "--root-owner-group", "-Zzstd", "-z9", "--build")
        _run(*pack, stage, packed)
        architecture = _run("dpkg", "--print-architecture").strip()
        deb = output / f"farshore_{version[1]}_{architecture}.deb"
        shutil.move(packed, deb)
    return deb


@click.command()
@click.option("--output", type=click.Path(path_type=Path), default=ROOT / "dist")
@click.option("--python", default="/usr/bin/python3", help="The distribution's own.")
def main(output: Path, python: str) -> None:
    """Build the Debian package."""
    for needed in ("dpkg-deb", "dpkg"):
        if shutil.which(needed) is None:
            raise click.ClickException(f"needs {needed}: run this on Debian or Ubuntu")
    deb = build(output, python)
    digest = hashlib.sha256(deb.read_bytes()).hexdigest()
    click.echo(f"deb: {deb} ({deb.stat().st_size >> 20} MiB)\ndeb: sha256 {digest}")
    click.echo(f"next: apt-get install {deb}")


if __name__ == "__main__":
    main()
