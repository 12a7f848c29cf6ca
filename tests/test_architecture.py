"""Lower never imports higher; siblings on one floor do not import each other; kbqa itself starts light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "kbqa"

FLOORS = [  # lowest first
    {"errors"},
    {"cancellation"},
    {"types", "importing", "endpoint", "yamlfile"},
    {"config", "numberwords"},
    {"analyzer", "idle"},
    {"questions", "sentences", "ranges"},
    {"pointers"},
    {"evidence"},
    {"readers", "splitter", "embedders", "store", "registry", "prompt", "support", "chatglm"},
    {"generators", "retriever", "sandbox", "documents"},
    {"ingest"},
    {"chain", "fields"},
    {"tuning", "evaluation"},
    {"build"},
    {"checks"},
    {"bridge", "server"},
    {"cli"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> set[str]:
    """The rooms of kbqa that a file imports, also inside functions and for type checking."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            rooms |= {room_of(alias.name) for alias in node.names if alias.name.startswith("kbqa.")}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "kbqa":
            rooms |= {room_of(node.module)} if "." in node.module else {alias.name for alias in node.names}
    return {room for room in rooms if room in FLOOR}


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room not in ("__init__", "__main__"):
            found.append((room, path))
    return found


def test_every_room_has_a_floor():
    assert {room for room, _ in modules()} <= set(FLOOR)


@pytest.mark.parametrize(("room", "path"), modules(), ids=lambda value: str(value).split("kbqa/")[-1])
def test_a_module_imports_only_from_floors_below(room, path):
    wrong = {other for other in imports(path) if other != room and FLOOR[other] >= FLOOR[room]}
    assert not wrong, f"{path.name} ({room}) imports {', '.join(sorted(wrong))}"


def test_help_loads_nothing_heavy():
    """`kbqa --help` must answer at once, so importing the command line may not pull in the heavy libraries."""
    code = "import sys, kbqa.cli; print(*sorted(sys.modules))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    heavy = {"torch", "transformers", "sentence_transformers", "faiss", "langchain_core", "tantivy", "numpy", "docx"}
    heavy |= {"fastapi", "pydantic", "uvicorn", "prometheus_client"}
    assert not loaded & heavy
