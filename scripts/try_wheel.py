"""Install the wheel alone in a clean environment, and say what that takes: `python scripts/try_wheel.py dist`.

Raises SystemExit where the package that is installed is not the one of this clone, does not import, needs more than
torch and transformers at once, or does not say what is missing. The same is tried with the sdist, without its
dependencies, as they are the same.
"""

import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MISSING = 'which are not installed: `pip install "supertickets[report]"`.'
PROBE = "import sys, supertickets; print(supertickets.__version__, 'torch' in sys.modules, *supertickets.__all__)"


def run(*words: object, code: int = 0) -> str:
    """Return what a command printed; raises SystemExit where it ends otherwise than it must."""
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, cwd=tempfile.gettempdir())
    if done.returncode != code:
        raise SystemExit(f"{' '.join(map(str, words))}\nended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def seconds(python: Path, source: str) -> float:
    """Return the median of five starts of Python with an import, less that of an empty one."""

    def one(code: str) -> float:
        begin = time.perf_counter()
        run(python, "-c", code)
        return time.perf_counter() - begin

    return statistics.median(one(source) for _ in range(5)) - statistics.median(one("") for _ in range(5))


def in_environment(folder: Path, package: Path, *more: str) -> tuple[Path, Path, str]:
    """Return Python, site-packages and the list of packages of a new environment with a package in it."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    site = next((folder / "lib").glob("python*/site-packages"))
    before = megabytes(site)
    run(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", package, *more)
    packages = [line for line in run(python, "-m", "pip", "freeze", "--disable-pip-version-check").splitlines() if line]
    torch = sum(megabytes(path) for path in site.glob("torch*"))
    said = f"{len(packages)} packages, {megabytes(site) - before:.0f} MB, of which torch takes {torch:.0f} MB"
    return python, site, said


def main(dist: Path) -> None:
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    with tempfile.TemporaryDirectory() as folder:
        python, _, said = in_environment(Path(folder) / "wheel", wheel.resolve())
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB; installed: {said}")
        print(f"import supertickets: {seconds(python, 'import supertickets'):.3f} s")
        found, torch, *names = run(python, "-c", PROBE).split()
        if (found, torch) != (version, "False") or "load_ticket" not in names:
            raise SystemExit(f"expected version {version} without torch, got {found} with {torch}")
        run(python, "-c", "from supertickets import Ticket, apply_ticket, cut, load_shared, load_ticket, unshare")
        command = python.parent / "supertickets"
        run(command, "--help")
        run(command, "env")
        if MISSING not in run(command, "find", "--help", code=2):
            raise SystemExit("find does not say what is missing")
        python, site, _ = in_environment(Path(folder) / "sdist", sdist.resolve(), "--no-deps")
        run(python, "-c", "import supertickets")
        with tarfile.open(sdist) as archive:
            names = [name.partition("/")[2] for name in archive.getnames()]
        for needed in ("LICENSE", "README.md", "CITATION.cff", "constraints.txt", "tests/conftest.py"):
            if needed not in names:
                raise SystemExit(f"{sdist.name}: {needed} is not in it")
        if not (site / "supertickets" / "tasks" / "builtin.parquet").exists():
            raise SystemExit(f"{sdist.name}: the built-in tasks are not in it")
        print(f"{sdist.name}: {sdist.stat().st_size / 1e6:.2f} MB, {len(names)} files")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
