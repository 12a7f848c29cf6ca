"""Set up, run, test, check and measure kbqa from a checkout. Needs nothing but Python 3.11 or newer.

python scripts/dev.py setup     everything for developing, into .venv
python scripts/dev.py run       take in knowledge/samples and answer three questions
python scripts/dev.py test      the tests, side by side; with further arguments, which go to pytest, one by one
python scripts/dev.py check     formatting, lint and types
python scripts/dev.py bench     the benchmarks that the README quotes
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = VENV / "kbqa-setup.json"  # what is installed: the digest of pyproject.toml, and the extras
SCRIPTS = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = SCRIPTS / ("python.exe" if os.name == "nt" else "python")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")  # in which the page is tested
DEV_EXTRAS = ("test", "dev", "st", "langchain", "ocr", "transformers", "glm", "tune")
# The embedding models need torch. Named exactly, pip takes the CPU build where one is offered; a looser requirement,
# such as the one sentence-transformers has, can bring gigabytes of CUDA libraries that nothing here uses.
TORCH = "torch==2.13.0"

QUESTIONS = (  # a fact, a cell of a table, and one that the documents cannot answer
    "试用期有多长？",
    "LQ-120激光测微仪买五台以上的单价是多少？",
    "公司的注册资本是多少？",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("setup", "run", "test", "check", "bench"))
    arguments, further = parser.parse_known_args()
    if sys.version_info < (3, 11):  # noqa: UP036  (this script is started by whatever Python is there)
        return fail(f"kbqa needs Python 3.11 or newer; this is {sys.version.split()[0]} ({sys.executable})")
    try:
        return globals()[f"do_{arguments.command}"](further)
    except subprocess.CalledProcessError as error:
        return error.returncode or 1
    except KeyboardInterrupt:
        return 130


def do_setup(further: list[str]) -> int:
    install(DEV_EXTRAS)
    say(f"ready: {VENV}")
    return 0


def do_run(further: list[str]) -> int:
    """A stranger's first minute: the light default install, real documents, real answers."""
    install(())
    kbqa("ingest", "--kb", "samples")
    for question in QUESTIONS:
        kbqa("ask", question, "--kb", "samples")
    return 0


def do_test(further: list[str]) -> int:
    install(DEV_EXTRAS)
    install_browser()
    return run([PYTHON, "-m", "pytest", *(further or side_by_side())], check=False)


def side_by_side() -> list[str]:
    """Whole files in several processes: tests of one file share servers, models and a browser. They come in the order
    of tests/conftest.py, the longest first."""
    return ["-n", str(min(os.cpu_count() or 1, 4)), "--dist", "loadfile", "--no-loadscope-reorder"]


def do_check(further: list[str]) -> int:
    install(DEV_EXTRAS)
    checks = (["ruff", "format", "--check", "."], ["ruff", "check", "."], ["mypy"])
    return max(run([PYTHON, "-m", *check], shown=shlex.join(check), check=False) for check in checks)


def do_bench(further: list[str]) -> int:
    install(DEV_EXTRAS)
    for script in sorted((ROOT / "scripts").glob("bench_*.py")):
        run([PYTHON, script, *further], shown=f"python scripts/{script.name}")
    return 0


def install(extras: tuple[str, ...]) -> None:
    """.venv with kbqa and at least `extras`; does nothing when it is so already."""
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    have = read_stamp() if PYTHON.exists() else {}
    if have.get("pyproject") == digest and set(extras) <= set(have.get("extras", [])):
        return
    if not PYTHON.exists():
        say(f"making {VENV}")
        try:
            run([sys.executable, "-m", "venv", VENV])
        except subprocess.CalledProcessError:
            fail("no virtual environment could be made; on Debian and Ubuntu: apt-get install python3-venv")
            raise
    STAMP.unlink(missing_ok=True)  # an install that breaks off must not look finished
    extras = tuple(sorted({*extras, *(set(have.get("extras", [])) & set(DEV_EXTRAS))}))  # none that is gone
    say(f"installing kbqa{list(extras) if extras else ''} into .venv, which takes a minute or two the first time")
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if extras:
        run([*pip, TORCH])
    run([*pip, "-e", f".[{','.join(extras)}]" if extras else "."])
    STAMP.write_text(json.dumps({"pyproject": digest, "extras": extras}), encoding="utf-8")


def install_browser() -> None:
    """Chromium, from the system's packages, on machines that are there for testing; on others it is the user's choice,
    and the tests of the page skip without it."""
    if any(map(shutil.which, BROWSERS)):
        return
    if not (os.environ.get("CI") and shutil.which("apt-get") and os.geteuid() == 0):
        say("no Chromium: the page in the browser is not tested; on Debian and Ubuntu: apt-get install chromium")
        return
    say("installing Chromium, in which the page is tested")
    for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-qq", "--no-install-recommends", "chromium"]):
        run(["env", "DEBIAN_FRONTEND=noninteractive", *command], check=False)  # if it fails, the tests say so


def read_stamp() -> dict:
    try:
        return json.loads(STAMP.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def kbqa(*arguments: str) -> None:
    """Runs kbqa as a user would type it, and shows that; exit code 3 (some files failed) does not stop the show."""
    code = run([PYTHON, "-m", "kbqa", *arguments], shown=f"kbqa {shlex.join(arguments)}", check=False)
    if code not in (0, 3):
        raise subprocess.CalledProcessError(code, "kbqa")
    print(flush=True)


def run(command: list, shown: str = "", check: bool = True) -> int:
    """Runs `command` in the checkout's root; its output is the user's to see."""
    if shown:
        say(f"$ {shown}")
    environment = {**os.environ, "PYTHONUTF8": "1"}  # Windows code pages cannot print Chinese file names
    environment.pop("KBQA_HOME", None)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # every program that a test starts would compile kbqa anew
    return subprocess.run([str(part) for part in command], cwd=ROOT, env=environment, check=check).returncode


def say(text: str) -> None:
    print(text, flush=True)


def fail(text: str) -> int:
    print(f"dev.py: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="replace")
    sys.exit(main())
