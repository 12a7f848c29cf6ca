"""config.yaml and the environment become a Config, or an error that says what to change."""

import json
import re
from dataclasses import fields
from importlib.resources import files
from pathlib import Path

import pytest

from kbqa.config import (
    Config,
    EmbedderConfig,
    GeneratorConfig,
    Home,
    RerankerConfig,
    RetrievalConfig,
    check_name,
    find_home,
    load_config,
    stray_variables,
)
from kbqa.errors import ConfigError
from kbqa.idle import KINDS, idle_settings

ROOT = Path(__file__).parents[1]
TEMPLATE = (files("kbqa") / "data" / "config.yaml").read_text(encoding="utf-8")


@pytest.fixture
def load(tmp_path):
    def load(text, environ=None):
        (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
        return load_config(Home(tmp_path), environ or {})

    return load


# --- what ships ------------------------------------------------------------------------------------------------------


def test_the_template_says_nothing_but_the_defaults(load):
    assert load(TEMPLATE) == Config()


def test_the_projects_own_config_is_the_template_with_the_samples_as_its_default_base():
    own = (ROOT / "config.yaml").read_text(encoding="utf-8")
    assert own == TEMPLATE.replace("default: default", "default: samples", 1)
    assert load_config(Home(ROOT), {}).knowledge.default == "samples"


@pytest.mark.parametrize(
    ("section", "key"),
    [(section.name, f.name) for section in fields(Config) for f in fields(getattr(Config(), section.name))],
)
def test_the_template_mentions_every_setting(section, key):
    body = re.split(r"^(\w+):$", TEMPLATE, flags=re.MULTILINE)
    text = body[body.index(section) + 1]
    assert re.search(rf"^  (?:# )?{key}: ", text, re.MULTILINE), f"{section}.{key} is not in kbqa/data/config.yaml"


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        *(("embedder", kind) for kind in ("sentence-transformers", "openai", "langchain")),
        *(("generator", kind) for kind in ("chatglm", "openai", "transformers", "langchain")),
    ],
)
def test_an_alternative_in_the_template_works_once_its_comment_signs_are_gone(load, section, kind):
    text = TEMPLATE.partition(f"\n{section}:\n")[2].partition("\n\n")[0]
    block = next(block for block in text.split("\n  #\n") if f"# kind: {kind} " in block)
    settings = re.sub("^  # ", "  ", re.sub("^  kind: static.*\n", "", block), flags=re.MULTILINE)
    assert getattr(load(f"{section}:\n{settings}"), section).kind == kind


# --- defaults and overrides ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "# nothing\n", "retrieval:\n", "\ufeffretrieval: {k: 5}"])
def test_what_is_not_said_is_the_default(load, text):
    assert load(text) == Config()


def test_no_file_is_a_working_configuration(tmp_path):
    assert load_config(Home(tmp_path), {}) == Config()


def test_the_environment_overrides_the_file(load):
    environ = {
        "KBQA_RETRIEVAL__MIN_CONFIDENCE": "0.25",
        "KBQA_KNOWLEDGE__DEFAULT": "制度",
        "KBQA_KNOWLEDGE__OCR": "false",
    }
    config = load("retrieval: {min_confidence: 0.9, k: 7}", environ)
    assert (config.retrieval.min_confidence, config.retrieval.k) == (0.25, 7)
    assert (config.knowledge.default, config.knowledge.ocr) == ("制度", False)


def test_the_environment_reaches_the_settings_of_a_section_within_a_section(load):
    environ = {"KBQA_RETRIEVAL__RERANKER__MODEL": "models/b", "KBQA_RETRIEVAL__RERANKER__BATCH_SIZE": "8"}
    reranker = load("retrieval: {reranker: {model: models/a, weight: 1}}", environ).retrieval.reranker
    assert reranker == RerankerConfig("models/b", batch_size=8, weight=1.0)
    assert load("", environ).retrieval.reranker == RerankerConfig("models/b", batch_size=8)
    whole = {"KBQA_RETRIEVAL__RERANKER": "{model: models/c}", "KBQA_RETRIEVAL__K": "7"}
    assert load("", whole).retrieval == RetrievalConfig(k=7, reranker=RerankerConfig("models/c"))


def test_the_reranker_in_the_template_works_once_its_comment_signs_are_gone(load):
    (settings,) = re.findall(r"^  # (reranker:.*\n(?:  #   .*\n)+)", TEMPLATE, re.MULTILINE)
    reranker = load("retrieval:\n  " + re.sub("^  # ", "  ", settings, flags=re.MULTILINE)).retrieval.reranker
    assert reranker == RerankerConfig("models/bge-reranker-base", device="cuda")


def test_variables_without_a_section_are_not_settings(load):
    assert load("", {"KBQA_HOME": "/anywhere", "KBQA_TESTDATA": "x", "KBQA_DEBUG": "1"}) == Config()


def test_variables_that_nothing_reads_are_known_and_what_they_may_mean():
    environ = {
        "KBQA_HOME": "/anywhere",
        "KBQA_RETRIEVAL__K": "5",
        "KBQA_EMBEDDER_KIND": "static",
        "KBQA__SPLITTER_SIZE": "200",
        "KBQA_RETRIEVAL_RERANKER_MODEL": "models/b",
        "KBQA_FOO": "1",
        "KBQA_KEY": "secret",
        "PATH": "/bin",
    }
    config = Config(embedder=EmbedderConfig(api_key_env="KBQA_KEY"))
    assert stray_variables(config, environ) == {
        "KBQA_EMBEDDER_KIND": "KBQA_EMBEDDER__KIND",
        "KBQA_FOO": "",
        "KBQA_RETRIEVAL_RERANKER_MODEL": "KBQA_RETRIEVAL__RERANKER__MODEL",
        "KBQA__SPLITTER_SIZE": "KBQA_SPLITTER__SIZE",
    }


def test_a_whole_number_serves_where_a_fraction_is_wanted(load):
    assert load("retrieval: {min_confidence: 1}").retrieval.min_confidence == 1.0


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("retreival: {k: 3}", ["retreival", "retrieval"]),
        ("retrieval: {top: 3}", ["retrieval.top", "min_confidence"]),
        ("embedder: {kind: bert}", ["embedder.kind", "'bert'", "static", "sentence-transformers"]),
        ("retrieval: {k: many}", ["retrieval.k", "'many'", "whole number"]),
        ("retrieval: {k: true}", ["retrieval.k", "True", "whole number"]),
        ("retrieval: {k: 0}", ["retrieval.k", "0", "between 1 and 1000"]),
        ("retrieval: {min_confidence: 1.5}", ["retrieval.min_confidence", "1.5", "between 0 and 1"]),
        ("knowledge: {memory_mb: 8}", ["knowledge.memory_mb is 8", "between 256 and 1000000"]),
        ("prompt: {template: 5}", ["prompt.template is 5; it must be text"]),
        ("knowledge: {workers: -1}", ["knowledge.workers", "-1", "negative"]),
        ("knowledge: {ocr: maybe}", ["knowledge.ocr", "'maybe'", "true or false"]),
        ("knowledge: {default: ../etc}", ["'../etc'", "cannot name a knowledge base"]),
        ("server: {chatglm_knowledge: ../etc}", ["server.chatglm_knowledge: '../etc'", "cannot name a knowledge base"]),
        ("splitter: {size: 100, overlap: 80}", ["splitter.overlap", "80", "50"]),
        ("prompt: {template: '{question}'}", ["prompt.template", "{context}"]),
        ("embedder: {kind: openai}", ["embedder.kind openai", "embedder.base_url"]),
        ("embedder: {kind: sentence-transformers}", ["embedder.model"]),
        ("generator: {kind: langchain}", ["generator.import_path"]),
        ("generator: {kind: transformers}", ["generator.kind transformers needs generator.model"]),
        ("generator: {kind: openai, model: glm}", ["generator.kind openai needs generator.base_url"]),
        ("generator: {kind: openai, base_url: 'http://gpu-box/v1'}", ["generator.kind openai needs generator.model"]),
        ("generator: {kind: gpt}", ["generator.kind", "'gpt'", "extractive", "openai", "transformers"]),
        ("generator: {dtype: int8}", ["generator.dtype", "'int8'", "auto, float32, bfloat16, float16"]),
        ("generator: {timeout: 0}", ["generator.timeout is 0", "between 1 and"]),
        ("generator: {timeout: .nan}", ["generator.timeout is nan", "between 1 and"]),
        ("generator: {waiting: -1}", ["generator.waiting is -1", "between 0 and"]),
        ("generator: {temperature: 3}", ["generator.temperature is 3", "between 0 and 2"]),
        ("generator: {max_tokens: 0}", ["generator.max_tokens is 0", "between 1 and"]),
        ("generator: {options: [1]}", ["generator.options", "a mapping"]),
        ("retrieval: 5", ["retrieval", "section"]),
        ("retrieval: {dense_weight: 1.5}", ["retrieval.dense_weight is 1.5", "between 0 and 1"]),
        ("retrieval: {reranker: bge}", ["retrieval.reranker is 'bge'", "section"]),
        ("retrieval: {reranker: {}}", ["retrieval.reranker needs retrieval.reranker.model"]),
        ("retrieval: {reranker: {modell: a}}", ["retrieval.reranker.modell is not", "retrieval.reranker has: model"]),
        ("retrieval: {reranker: {model: a, dtype: int8}}", ["retrieval.reranker.dtype", "'int8'", "bfloat16"]),
        ("retrieval: {reranker: {model: a, candidates: 0}}", ["retrieval.reranker.candidates is 0", "1 and 1000"]),
        ("retrieval: {reranker: {model: a, weight: -1}}", ["retrieval.reranker.weight is -1", "between 0 and 1"]),
        ("- retrieval", ["sections"]),
        ("retrieval: {k: 3\nprompt:", ["not valid YAML", "line"]),
        ("retrieval: {k: 2024-13-45}", ["not valid YAML", "month"]),
        ("retrieval: {k: \x00}", ["not valid YAML", "not allowed"]),
        ("embedder:\n  kind: static\nretrieval:\n  k: 3\nembedder:\n", ["embedder twice", "lines 1 and 5"]),
        ("retrieval:\n  k: 3\n  candidates: 50\n  k: 5", ["retrieval.k twice", "lines 2 and 4"]),
        ("embedder: {options: {a: 1, b: 2, a: 3}}", ["embedder.options.a twice", "lines 1 and 1"]),
        ("prompt: {template: '{context}{question}{zzz}'}", ["{zzz}", "{context} and {question}", "{ zzz }"]),
        ("prompt: {template: '{context}{question}{问题}'}", ["{问题}", "{context} and {question}"]),
    ],
)
def test_an_error_names_the_key_the_value_and_what_is_allowed(load, text, words):
    with pytest.raises(ConfigError) as caught:
        load(text)
    message = str(caught.value)
    assert [word for word in words if word not in message] == []
    assert "\n" not in message


def test_a_bad_variable_is_named(load):
    with pytest.raises(ConfigError, match=r"retrieval\.k is 'viele'"):
        load("", {"KBQA_RETRIEVAL__K": "viele"})
    with pytest.raises(ConfigError, match="KBQA_RETRIEVAL__K"):
        load("", {"KBQA_RETRIEVAL__K": "[1"})
    with pytest.raises(ConfigError, match="retrieve is not a section"):
        load("", {"KBQA_RETRIEVE__K": "1"})


def test_a_mapping_that_holds_itself_is_an_error_too(load):
    with pytest.raises(ConfigError, match="a is not a section"):
        load("a: &x {b: *x}")


@pytest.mark.parametrize("braces", ['{"answer": "…", "sources": [1, {"page": 2}]}', "{ answer }", "{}", "{a, b}"])
def test_a_template_may_hold_other_braces_as_they_stand(load, braces):
    template = f"{braces}\n{{context}}\n{{question}}"
    assert load(f"prompt: {{template: {json.dumps(template)}}}").prompt.template == template


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("KBQA_RETRIEVAL__K", "viele"),
        ("KBQA_RETRIEVAL__K", "0"),
        ("KBQA_RETRIEVAL__TOP", "3"),
        ("KBQA_RETRIEVE__K", "1"),
        ("KBQA_KNOWLEDGE__DEFAULT", "../etc"),
        ("KBQA_EMBEDDER__KIND", "openai"),
        ("KBQA_RETRIEVAL__RERANKER__BATCH_SIZE", "viele"),
        ("KBQA_RETRIEVAL__RERANKER__MODELL", "bge"),
        ("KBQA_RETRIEVAL__RERANKER", "{model: bge, weight: 2}"),
    ],
)
def test_an_error_that_a_variable_made_names_the_variable(load, variable, value):
    with pytest.raises(ConfigError, match=variable):
        load("", {variable: value, "KBQA_RETRIEVAL__CANDIDATES": "60"})


def test_an_error_that_the_file_made_names_no_variable(load):
    with pytest.raises(ConfigError) as caught:
        load("retrieval: {k: many}", {"KBQA_RETRIEVAL__CANDIDATES": "60"})
    assert "KBQA" not in str(caught.value)


def test_a_file_that_is_no_text_is_an_error(tmp_path):
    (tmp_path / "config.yaml").write_bytes("knowledge: {default: 制度}".encode("gb18030"))
    with pytest.raises(ConfigError, match=r"config\.yaml is not UTF-8 text; save it as UTF-8"):
        load_config(Home(tmp_path), {})
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"config\.yaml cannot be read: \w"):
        load_config(Home(tmp_path), {})


# --- names and places ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["default", "制度 2024", "a.b-c_d", "部门１", "é"])
def test_such_names_are_fit_for_a_base(name):
    assert check_name(name)


def test_a_name_is_the_same_however_its_accents_are_written():
    assert check_name("e\u0301") == check_name("\u00e9")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        ".hidden",
        "a.",
        "a ",
        " a",
        "-rf",
        "CON",
        "nul.txt",
        "a\nb",
        "a\0b",
        "😀",
        "制" * 50,
    ],
)
def test_such_names_are_not(name):
    with pytest.raises(ConfigError, match="cannot name a knowledge base"):
        check_name(name)


def test_the_home_folder_is_the_nearest_parent_with_a_config(tmp_path, monkeypatch):
    monkeypatch.delenv("KBQA_HOME", raising=False)
    deep = tmp_path / "knowledge" / "制度"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert find_home().folder == deep
    (tmp_path / "config.yaml").touch()
    assert find_home().folder == tmp_path


def test_home_can_be_named_by_option_and_by_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("KBQA_HOME", str(tmp_path))
    assert find_home().folder == tmp_path
    (tmp_path / "other").mkdir()
    assert find_home(tmp_path / "other").folder == tmp_path / "other"
    with pytest.raises(ConfigError, match="kbqa init"):
        find_home(tmp_path / "nowhere")


def test_every_setting_of_a_kind_is_told_where_the_kind_is_another():
    for name, section in (("embedder", EmbedderConfig()), ("generator", GeneratorConfig())):
        of_all = {"kind", "teachers"}
        assert set(KINDS[name]) == {field.name for field in fields(section)} - of_all
    config = Config(generator=GeneratorConfig(kind="openai", quantize=4, model="m", timeout=9.0))
    assert list(map(str, idle_settings(config))) == [
        "generator.quantize is for kind chatglm; it does nothing with kind openai"
    ]
    assert list(idle_settings(Config())) == []
