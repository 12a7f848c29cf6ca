"""What runs the service elsewhere: the image, compose, the unit, the proxy. They are held against what kbqa really has;
docs/operation.md says what was tried in an engine."""

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import yaml
from chatserver import delta, encoded
from click.testing import CliRunner
from serverkit import HANDBOOK, take_in, wait_until

from kbqa.cli import kbqa
from kbqa.config import Home, ServerConfig
from kbqa.registry import FILE, Database, KeyRing
from kbqa.server import runner, stream
from kbqa.server.metrics import Metrics
from kbqa.server.serve import HUNG

ROOT = Path(__file__).parents[1]
LEAST_TO_STOP = ServerConfig().shutdown_seconds + runner.PARTING


def dockerfile():
    """(instruction, arguments) of each line, continued ones joined."""
    text = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"(?m)^#.*\n", "", text).replace("\\\n", " ").splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def of(instruction):
    return [rest for name, rest in dockerfile() if name == instruction]


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def unit():
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str
    parser.read(ROOT / "deploy" / "kbqa.service", encoding="utf-8")
    return parser


def understood(arguments):
    """Whether kbqa has this command with these options."""
    result = CliRunner().invoke(kbqa, [*arguments, "--help"])
    return result.exit_code == 0


# --- the image -------------------------------------------------------------------------------------------------------


def test_the_image_is_made_of_files_that_are_there_and_of_nothing_else():
    copied = [name for rest in of("COPY") if "--from" not in rest for name in rest.split()[:-1]]
    assert all((ROOT / name).exists() for name in copied)
    ignored = (ROOT / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[1] == "*", "documents, bases and keys stay out"
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied)


def test_the_image_runs_the_service_as_nobody_in_particular():
    assert of("USER") == ["10001:10001"]
    assert understood(json.loads(of("ENTRYPOINT")[0])[1:] + json.loads(of("CMD")[0]))
    assert "KBQA_HOME=/kbqa" in of("ENV")[0]
    assert not re.search(r"(?i)secret|token|passw|api_key", " ".join(rest for _, rest in dockerfile()))


def test_the_image_has_bytecode_because_nothing_can_write_it_later():
    build, final = of("RUN")
    assert "PYTHONDONTWRITEBYTECODE=1" in of("ENV")[0]
    assert "--no-compile" not in build
    assert "python -m compileall" in final


def test_whoever_the_service_is_run_as_may_enter_its_folder():
    folders = re.findall(r"install --directory .*?--mode=(\d+) ([^&]+)", of("RUN")[1])
    modes = {folder: int(mode, 8) for mode, several in folders for folder in several.split()}
    assert modes["/kbqa"] & 0o005 == 0o005
    assert all(modes[f"/kbqa/{name}"] & 0o007 == 0 for name in ("knowledge", "vectorstore", "logs"))


def test_the_image_can_be_built_with_what_it_may_be_given():
    extras = {"glm", "ocr"}
    declared = Path(ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f"\n{extra} = [" in declared for extra in extras)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_the_image_knows_whether_the_service_is_well(tmp_path):
    (health,) = of("HEALTHCHECK")
    python, option, code = json.loads(health[health.index("[") :])
    assert (python, option) == ("python", "-c")
    (tmp_path / "knowledge").mkdir()
    with serving(tmp_path) as (process, url):
        there = subprocess.run([sys.executable, "-c", code.replace("http://127.0.0.1:8000", url)], check=False)
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        gone = subprocess.run([sys.executable, "-c", code.replace("http://127.0.0.1:8000", url)], capture_output=True)
    assert (there.returncode, gone.returncode) == (0, 1)


# --- compose, systemd, nginx -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kbqa", "kbqa-gpu"])
def test_compose_keeps_what_must_last_and_gives_the_service_time_to_end(compose, name):
    service = compose["services"][name]
    kept = {volume.split(":")[-1 if volume.count(":") == 1 else -2] for volume in service["volumes"]}
    assert {"/kbqa/knowledge", "/kbqa/vectorstore"} <= kept
    where = ["/tmp:exec"] if name == "kbqa-gpu" else ["/tmp"]
    assert (service["read_only"], service["cap_drop"], service["tmpfs"]) == (True, ["ALL"], where)
    assert int(service["stop_grace_period"].removesuffix("s")) > LEAST_TO_STOP + 10
    assert (ROOT / "docker" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert service["ports"] == ["${KBQA_LISTEN:-127.0.0.1:8000}:8000"]
    assert not any(re.search("(?i)key|secret|passw", variable) for variable in service.get("environment", {}))


def test_each_command_for_compose_names_a_profile_without_which_there_is_no_service(compose):
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("docker/compose.yaml", "docs/operation.md")]
    commands = [line for text in texts for line in re.findall(r"docker compose -f .*", text)]
    profiles = {profile for service in compose["services"].values() for profile in service["profiles"]}
    assert len(commands) >= 4
    assert all(re.search(r"--profile (\w+)", line)[1] in profiles for line in commands)


def test_the_settings_that_compose_gives_are_settings(compose):
    from kbqa.config import load_config

    given = dict(compose["services"]["kbqa-gpu"]["environment"])
    config = load_config(Home(ROOT), given)
    assert (config.generator.kind, config.generator.device) == ("chatglm", "cuda")


def test_the_unit_starts_the_service_and_lets_it_end(unit):
    service = unit["Service"]
    program, *arguments = shlex.split(service["ExecStart"])
    assert Path(program).name == "kbqa"
    assert understood(arguments)
    assert int(service["TimeoutStopSec"]) > LEAST_TO_STOP + 10
    assert service["KillMode"] == "mixed", "the readers of documents must not be signalled beside the service"
    assert service["OOMPolicy"] == "continue"
    assert "KBQA_HOME=/var/lib/kbqa" in service["Environment"]
    assert service["StateDirectory"] == "kbqa"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path):
    unit = (ROOT / "deploy" / "kbqa.service").read_text(encoding="utf-8")
    (tmp_path / "kbqa.service").write_text(unit.replace("/opt/kbqa/bin/kbqa", sys.executable), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "kbqa.service"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "kbqa.service" in done.stderr) == (0, False), done.stderr


def test_the_proxy_lets_streams_and_uploads_through():
    conf = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
    assert conf.count("{") == conf.count("}")
    assert "proxy_buffering off;" in conf
    assert int(re.search(r"client_max_body_size (\d+)m;", conf)[1]) > ServerConfig().max_upload_total_mb
    assert int(re.search(r"proxy_read_timeout (\d+)s;", conf)[1]) > 2 * stream.PULSE


# --- the document about all this -------------------------------------------------------------------------------------


KILLED = """
import os, signal, sys
from pathlib import Path
from kbqa.registry import Database, KeyRing
ring = KeyRing(Database(Path(sys.argv[1])))
for number in range(20):
    ring.add(f"后来{number}")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="its commands are those of a POSIX shell")
@pytest.mark.parametrize(("removed", "keys"), [(True, 1), (False, 21)])
def test_a_registry_that_is_put_back_as_the_document_says_is_the_one_that_counts(tmp_path, removed, keys):
    """SQLite would write what a killed service left beside it over the copy."""
    text = (ROOT / "docs" / "operation.md").read_text(encoding="utf-8")
    remove, copy = re.search(r"To put it back: .*?`(rm [^`]*)`, `(cp [^`]*)`", text).groups()
    path, backup = tmp_path / "vectorstore" / FILE, tmp_path / "backup" / FILE
    database = Database(path)
    KeyRing(database).add("原来的")
    database.close()
    backup.parent.mkdir()
    shutil.copy(path, backup)
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    for command in [remove, copy] if removed else [copy]:
        subprocess.run(shlex.split(command.replace("/backup/", f"{backup.parent}/")), cwd=tmp_path, check=True)
    database = Database(path)
    database.check()
    assert len(KeyRing(database).all()) == keys
    database.close()


def test_the_figures_that_the_document_names_are_there():
    class Model:
        name = "none"
        load = None

    text = (ROOT / "docs" / "operation.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(kbqa_\w+?)(?:_total)?[`{\[]", text))
    metrics = Metrics(Model(), lambda: {"queued": 0})
    there = {family.name for family in metrics._registry.collect()}
    assert named - there == {"kbqa_model_requests", "kbqa_model_places", "kbqa_jobs_pending", "kbqa_info"}
    assert there <= named, "a figure that the document does not name"


# --- several processes -----------------------------------------------------------------------------------------------


class serving:  # noqa: N801
    """`kbqa serve` on a free port as a process: (process, url)."""

    def __init__(self, home, *arguments, log=None, **environment):
        self._log = log  # a file for what it has to say
        self._command = [sys.executable, "-m", "kbqa", "serve", "--port", "0", "--json", *arguments]
        self._environment = {**os.environ, "KBQA_HOME": str(home), **environment}

    def __enter__(self):
        with Path(self._log or os.devnull).open("wb") as said:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=said, env=self._environment)
        url = json.loads(self._process.stdout.readline())["url"]
        httpx.get(f"{url}/healthz", timeout=60)  # several answer a while after they have said so
        return self._process, url

    def __exit__(self, *_):
        self._process.kill()  # the others end with it
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return take_in(tmp_path_factory.mktemp("home"), default=HANDBOOK)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
def test_several_processes_are_replaced_one_after_the_other_and_end_together_without_breaking_a_stream(
    home, chat_server
):
    go_on = threading.Event()

    def slowly(handler):
        handler.begin()
        handler.chunk(encoded([delta("员工每年")]))
        go_on.wait(60)
        handler.chunk(encoded([delta("享有10天年假。"), delta(finish="stop"), "[DONE]"]))
        handler.wfile.write(b"0\r\n\r\n")

    chat_server.usual = slowly
    model = {"KIND": "openai", "BASE_URL": chat_server.url, "MODEL": "glm"}
    with serving(home, "--workers", "2", **{f"KBQA_GENERATOR__{key}": it for key, it in model.items()}) as (main, url):
        first = workers_of(main)
        asking = [Asking(url), Asking(url)]
        main.send_signal(signal.SIGHUP)
        wait_until(lambda: len(workers_of(main) - first) == 1, 60)  # beside the one that it is to replace
        assert httpx.get(f"{url}/healthz", timeout=30).is_success
        go_on.set()
        wait_until(lambda: len(workers_of(main)) == 2 and not workers_of(main) & first, 90)
        go_on.clear()
        asking.append(Asking(url))
        main.send_signal(signal.SIGTERM)
        wait_until(lambda: not answers(url), 30)
        go_on.set()
        assert main.wait(60) == 0
    assert [it.end() for it in asking] == ["done"] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
def test_connections_that_wait_are_shared_among_the_processes(home):
    """Before the service hangs up on those that ask nothing: it does so behind connection.HEADERS seconds."""
    with serving(home, "--workers", "2") as (main, url), ExitStack() as links:
        port = httpx.URL(url).port

        def connect(count):
            for _ in range(count):
                links.enter_context(socket.create_connection(("127.0.0.1", port)))
            return {pid: connections(pid, port) for pid in workers_of(main)}

        def disconnect():
            links.close()
            wait_until(lambda: not any(connect(0).values()), 60)

        def fewest_of(count, at_once):
            disconnect()
            had = workers_of(main)
            for pid in had:
                os.kill(int(pid), signal.SIGSTOP if at_once else signal.SIGCONT)
            for _ in range(count):
                connect(1)
                time.sleep(0 if at_once else 0.005)
            for pid in had:
                os.kill(int(pid), signal.SIGCONT)
            wait_until(lambda: sum(connect(0).values()) == count, 30)
            return min(connect(0).values())

        wait_until(lambda: len(had := connect(1)) == 2 and all(had.values()), 60)  # both accept
        for at_once in (True, False):
            shares = [fewest_of(40, at_once) for _ in range(8)]  # a busy machine may let one of them sleep through two
            assert sorted(shares)[2] >= 5, shares


@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
def test_a_process_that_dies_is_replaced_and_the_log_says_so(home, tmp_path):
    said = tmp_path / "log"
    with serving(home, "--workers", "2", log=said) as (main, url):
        wait_until(lambda: len(workers_of(main)) == 2, 60)
        dead = min(first := workers_of(main))
        os.kill(int(dead), signal.SIGSTOP)
        time.sleep(1)  # by now it has been asked whether it lives, and it dies before it can say so
        os.kill(int(dead), signal.SIGKILL)
        wait_until(lambda: "takes its place" in said.read_text(encoding="utf-8"), HUNG - 10)
        (new,) = workers_of(main) - first
        assert answers(url)
    lines = [json.loads(line) for line in said.read_text(encoding="utf-8").splitlines()]
    [line] = [line for line in lines if line["level"] == "warning"]
    assert line["message"] == f"process {dead} died or hung (SIGKILL); {new} takes its place"


def test_a_process_that_cannot_start_says_why_in_one_line(tmp_path):
    (tmp_path / "config.yaml").write_text("retrieval: [坏", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", "from kbqa.server.serve import application; application()"],
        env={**os.environ, "KBQA_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "config.yaml is not valid YAML" in json.loads(line)["message"]


def test_what_the_model_warns_of_is_a_line_of_json_as_all_else():
    warn = (
        "import logging; from kbqa.server.logs import log, log_to_stderr; log_to_stderr(); "
        "logging.getLogger('kbqa.chatglm').warning('没有护照'); log.info('在')"
    )
    done = subprocess.run([sys.executable, "-c", warn], capture_output=True, encoding="utf-8", timeout=60, check=True)
    assert [json.loads(line)["message"] for line in done.stderr.splitlines()] == ["没有护照", "在"]


class Asking:
    """A stream in a thread of its own, from its first word on."""

    def __init__(self, url):
        self._text = ""
        self._url = url
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        wait_until(lambda: "event: token" in self._text, 60)

    def _read(self):
        request = {"question": "年假有几天？", "stream": True}
        with httpx.stream("POST", f"{self._url}/api/v1/kb/default/ask", json=request, timeout=120) as response:
            for part in response.iter_text():
                self._text += part

    def end(self):
        """The name of its last event."""
        self._thread.join(60)
        return re.findall("event: (.*)", self._text)[-1]


def workers_of(main):
    """Those that live; beside them multiprocessing has a process of its own, and what has ended has no command."""
    children = Path(f"/proc/{main.pid}/task/{main.pid}/children").read_text().split()
    return {child for child in children if b"spawn_main" in command_of(child)}


def connections(process, port):
    """How many clients of the port it has accepted."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    its = {f"socket:[{it[9]}]" for it in lines if it[1].endswith(f":{port:04X}") and it[3] == "01"}
    return sum(target(path) in its for path in Path(f"/proc/{process}/fd").iterdir())


def target(link):
    try:
        return str(link.readlink())
    except FileNotFoundError:  # it has just been closed
        return ""


def command_of(process):
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it has just been reaped
        return b""


def answers(url):
    try:
        return httpx.get(f"{url}/healthz", timeout=5).is_success
    except httpx.TransportError:
        return False
