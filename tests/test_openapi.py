"""The OpenAPI description holds: whatever is sent that it allows or forbids, the answer is one of those it names."""

import shutil
import subprocess

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks as openapi
from serverkit import serving

from kbqa.build import Installation
from kbqa.config import Config, Home
from kbqa.server.app import ROUTERS

CHECKS = [
    not_a_server_error,
    openapi.status_code_conformance,
    openapi.content_type_conformance,
    openapi.response_schema_conformance,
]
OPERATIONS = [("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics")]
OPERATIONS += [
    (method, route.path_format)
    for router in ROUTERS
    for route in router.routes
    if route.include_in_schema
    for method in sorted(route.methods)
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    folder = home / "knowledge" / "default"
    folder.mkdir(parents=True)
    (folder / "员工手册.md").write_text("# 年假\n\n工作满一年的员工每年享有10天年假。\n", encoding="utf-8")
    Installation(Home(home), Config()).ingest("default")
    return home


@pytest.fixture(scope="module")
def service(home):
    with serving(home, max_upload_mb=1) as running:
        yield running


@pytest.fixture(scope="module")
def described(service):
    return schemathesis.openapi.from_url(f"{service.url}/openapi.json")


def test_every_operation_is_tried(described):
    tried = {(method, path) for method, path in OPERATIONS}
    there = {(it.ok().method.upper(), it.ok().path) for it in described.get_all_operations()}
    assert tried == there


GENERATED = settings(
    derandomize=True, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_answer_is_one_that_is_described(described, method, path):
    operation = described[path][method]
    right, wrong = (operation.as_strategy(generation_mode=mode) for mode in GenerationMode)

    @settings(GENERATED, max_examples=12)
    @given(case=right | wrong, default=st.booleans())
    def hold(case, default):
        if default and method != "DELETE":  # else it would be about what is not there, nearly always
            there = {"kb": "default", "source": "员工手册.md", "model": "kb:default"}
            case.path_parameters.update({name: there[name] for name in case.path_parameters if name in there})
            if isinstance(case.body, dict) and "model" in case.body:
                case.body["model"] = "kb:default"
        case.call_and_validate(checks=CHECKS)

    hold()


@pytest.mark.parametrize(
    "part", ["bytes=abc", "bytes=5-2", "bytes=9999-", "items=0-1", "bytes=-", "bytes=0-0,2-3", "bytes=0-1"]
)
def test_parts_of_files_are_described(described, part):
    case = described["/api/v1/kb/{kb}/files/{source}"]["GET"].Case(
        path_parameters={"kb": "default", "source": "员工手册.md"}, headers={"Range": part}
    )
    case.call_and_validate(checks=CHECKS)


def test_every_answer_to_who_has_no_key_is_described_too(home):
    with serving(home) as running:
        running.service.keys.add("somebody")
        described = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
        for method, path in OPERATIONS:
            _check_refused(described[path][method], path in ("/healthz", "/readyz"))
        running.service.keys.revoke("somebody")  # or every other test of this home would need a key


KEPT = {  # what is kept in vectorstore/kbqa.sqlite, by who sends it
    "/v1/chat-messages": {"query": "年假有几天？", "user": "甲", "inputs": {"kb": "default"}},
    "/api/v1/kb/{kb}/feedback": {"question": "年假有几天？", "answer": "十天。", "rating": "up"},
    "/api/v1/kb/{kb}/ingest": None,
}


def test_what_cannot_be_kept_on_a_read_only_disk_is_described_and_says_what_to_do(home, tmp_path, mounts):
    shutil.copytree(home, tmp_path / "copy", ignore=shutil.ignore_patterns("kbqa.sqlite*"))  # no key is in the way
    with mounts(tmp_path / "home", "--bind", str(tmp_path / "copy")) as there:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(there)], check=True)
        with serving(there) as running:
            described = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
            for path, body in KEPT.items():
                names = {"path_parameters": {"kb": "default"}} if "{kb}" in path else {}
                case = described[path]["POST"].Case(**names, **({} if body is None else {"body": body}))
                answer = case.call_and_validate(checks=[it for it in CHECKS if it is not not_a_server_error])
                assert answer.status_code == 503
                assert "kbqa.sqlite cannot be" in answer.text
                assert "mount its file system for writing" in answer.text
            assert running.ask("年假有几天？").json()["grounded"], "who only asks is answered"
            told = [it.getMessage() for it in running.log.records if "jobs cannot be looked at" in it.getMessage()]
            assert [it.endswith("; mount its file system for writing") for it in told] == [True], "once"


def _check_refused(operation, is_open):
    @settings(GENERATED, max_examples=3)
    @given(case=operation.as_strategy())
    def hold(case):
        answer = case.call_and_validate(checks=CHECKS)
        assert answer.status_code in (400, 401, 403, 422) or is_open

    hold()
