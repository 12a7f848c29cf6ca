"""From a checkpoint to what a running service answers with: by name, several at once, and only where it belongs."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="kbqa[tune] is not installed")
pytest.importorskip("peft", reason="kbqa[tune] is not installed")
pytest.importorskip("transformers", reason="kbqa[tune] is not installed")

from click.testing import CliRunner  # noqa: E402
from serverkit import serving  # noqa: E402
from tunekit import base, settings  # noqa: E402

from kbqa.build import Installation  # noqa: E402
from kbqa.chatglm import load_chatglm  # noqa: E402
from kbqa.cli import kbqa  # noqa: E402
from kbqa.config import Home  # noqa: E402
from kbqa.errors import BeyondModel, ConfigError, ModelError, RegistryError  # noqa: E402
from kbqa.generators.chatglm import ChatGLMGenerator  # noqa: E402
from kbqa.registry import Adapters, Database, Served  # noqa: E402
from kbqa.tuning import Row  # noqa: E402
from kbqa.tuning.guard import Answered, Forgetting, Standing, write_evaluation  # noqa: E402
from kbqa.tuning.promote import promote  # noqa: E402
from kbqa.tuning.train import train  # noqa: E402
from kbqa.types import GenerationRequest, Message  # noqa: E402

QUESTION = "你好"


def taught(run: Path, answer: str, family: str = "chatglm3", **more) -> Path:
    """A checkpoint of a run that learnt to answer QUESTION so."""
    more = {"max_steps": 40, "save_steps": 40, "learning_rate": 0.02, "method": "lora", "lora_rank": 4} | more
    lora = "query_key_value,dense,dense_h_to_4h,dense_4h_to_h"
    return train(settings(run, family, rows=[Row(QUESTION, answer)], lora_target=lora, **more)).last


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """Two LoRA adapters and a prefix, each with an answer of its own."""
    folder = tmp_path_factory.mktemp("runs")
    prefix = {"method": "p-tuning", "max_steps": 80, "save_steps": 80, "learning_rate": 0.1, "pre_seq_len": 16}
    return {
        "年假": taught(folder / "one", "年假3天。"),
        "价格": taught(folder / "two", "价格是8元。"),
        "重量": taught(folder / "three", "重量5克。", **prefix),
    }


ANSWERS = {"年假": "年假3天。", "价格": "价格是8元。", "重量": "重量5克。"}


@pytest.fixture
def home(tmp_path) -> Path:
    folder = tmp_path / "home"
    (folder / "knowledge").mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"generator:\n  kind: chatglm\n  model: {base('chatglm3')}\n  dtype: float32\n  device: cpu\n"
        "  temperature: 0\n  max_tokens: 24\n  slots: 4\n"
    )
    return folder


def run(home: Path, *arguments: object) -> tuple[int, str]:
    """`kbqa tune`; what was forgotten is measured in one test."""
    forced = ["--force"] if arguments[0] == "promote" else []
    return tune(home, *arguments, *forced)


def tune(home: Path, *arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(kbqa, ["tune", *map(str, arguments), "--home", str(home)])
    return done.exit_code, done.output


def asked(model: str, **more) -> dict:
    return {"model": model, "messages": [{"role": "user", "content": QUESTION}], **more}


def said(service, model: str) -> str:
    answer = service.post("/v1/chat/completions", asked(model))
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def test_a_running_service_has_what_is_promoted_from_the_next_request_on(home, checkpoints):
    with serving(home) as service:
        untuned = said(service, "chatglm")
        refused = service.post("/v1/chat/completions", asked("chatglm:年假"))
        assert refused.status_code == 404
        assert refused.json()["error"]["message"].startswith("there is no model 'chatglm:年假'; there are chatglm and")
        for name, checkpoint in checkpoints.items():
            assert run(home, "promote", name, checkpoint)[0] == 0
        listed = [it["id"] for it in service.http.get("/v1/models").json()["data"]]
        assert {"chatglm", *(f"chatglm:{name}" for name in ANSWERS)} <= set(listed)
        assert service.http.get("/v1/models/chatglm:年假").status_code == 200
        assert {name: said(service, f"chatglm:{name}") for name in ANSWERS} == ANSWERS
        assert said(service, "chatglm") == untuned

        assert run(home, "promote", "年假", checkpoints["价格"])[0] == 0  # another one under the same name
        assert said(service, "chatglm:年假") == ANSWERS["价格"]
        assert run(home, "promote", "价格", checkpoints["价格"], "--default")[0] == 0
        assert said(service, "chatglm") == ANSWERS["价格"]
        assert run(home, "demote", "价格")[0] == 0
        assert said(service, "chatglm") == untuned
        assert service.post("/v1/chat/completions", asked("chatglm:价格")).status_code == 404


def test_several_write_at_once_each_with_its_own(home, checkpoints):
    """Prefixes, LoRA adapters and the bare model, in the slots of one engine."""
    for name, checkpoint in checkpoints.items():
        run(home, "promote", name, checkpoint)
    with closing(Installation(Home(home)).generator) as generator:

        def text(name: str | None) -> str:
            request = GenerationRequest((Message("user", QUESTION),), adapter=name)
            return "".join(piece.text for piece in generator.stream(request))

        bare = text(None)
        names = [*ANSWERS, None] * 4
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(text, names)) == [bare if name is None else ANSWERS[name] for name in names]


def test_config_yaml_names_what_answers_where_a_request_names_none(home, checkpoints):
    run(home, "promote", "年假", checkpoints["年假"], "--default")
    run(home, "promote", "重量", checkpoints["重量"])
    with (home / "config.yaml").open("a") as file:
        file.write("  adapter: 重量\n")
    with closing(Installation(Home(home)).generator) as generator:
        request = GenerationRequest((Message("user", QUESTION),))
        assert "".join(piece.text for piece in generator.stream(request)) == ANSWERS["重量"]
        with pytest.raises(BeyondModel, match="there is no adapter 'legal' \\(there are: 年假, 重量\\)"):
            list(generator.stream(replace(request, adapter="legal")))


def test_what_is_served_does_not_need_the_folder_in_which_it_was_trained(home, tmp_path):
    checkpoint = taught(tmp_path / "run", "温度60度。")
    run(home, "promote", "温度", checkpoint)
    checkpoint.rename(tmp_path / "gone")
    with closing(Installation(Home(home)).generator) as generator:
        request = GenerationRequest((Message("user", QUESTION),), adapter="温度")
        assert "".join(piece.text for piece in generator.stream(request)) == "温度60度。"


def test_what_is_promoted_is_listed(home, checkpoints):
    assert "there are none" in run(home, "promoted")[1]
    run(home, "promote", "年假", checkpoints["年假"], "--default")
    code, output = run(home, "promoted", "--json")
    (told,) = json.loads(output)["adapters"]
    assert (code, told["model"], told["method"], told["default"]) == (0, "chatglm:年假", "lora", True)
    assert told["base"] == base("chatglm3").name
    code, output = run(home, "demote", "价格")
    assert (code, output) == (1, "kbqa: no adapter 价格 is promoted (there are: 年假)\n")


def test_what_was_tuned_on_another_model_is_not_promoted(home, tmp_path, checkpoints):
    other = base("chatglm3", seed=1)
    config = (home / "config.yaml").read_text().replace(str(base("chatglm3")), str(other))
    (home / "config.yaml").write_text(config)
    code, output = run(home, "promote", "年假", checkpoints["年假"])
    assert code == 1
    assert f"was tuned on {base('chatglm3').name} (chatglm3, " in output
    assert f"and this is {other.name} (" in output
    with Installation(Home(home)).adapters() as adapters:
        assert adapters.all() == []


def test_names_and_folders_that_cannot_be_are_refused(home, tmp_path, checkpoints):
    checkpoint = checkpoints["年假"]
    for name, wrong in (
        ("a:b", "cannot name an adapter"),
        (base("chatglm3").name, "is what the model itself is called"),
    ):
        code, output = run(home, "promote", name, checkpoint)
        assert (code, wrong in output) == (1, True)
    code, output = run(home, "promote", "x", checkpoint.parent)
    assert (code, "name one of its checkpoints, such as" in output) == (1, True)
    (home / "config.yaml").write_text("")
    code, output = run(home, "promote", "x", checkpoint)
    assert (code, "config.yaml names no ChatGLM" in output) == (1, True)


def forgotten(checkpoint: Path, before: float, after: float) -> None:
    """As `kbqa tune evaluate` leaves it."""
    answered = (Answered("general", "一加一等于几？", "二", True),)
    found = Forgetting(Standing({"chinese": before}, answered), Standing({"chinese": after}, answered))
    write_evaluation(checkpoint, {"forgetting": found.as_json()})


def test_what_forgot_too_much_is_promoted_only_by_force(home, tmp_path):
    checkpoint = taught(tmp_path / "run", "年假3天。", max_steps=1, save_steps=1)
    code, output = tune(home, "promote", "新", checkpoint)
    assert (code, output.startswith("kbqa: nobody knows yet what ")) == (1, True)
    forgotten(checkpoint, 10.0, 100.0)
    code, output = tune(home, "promote", "旧", checkpoint)
    assert code == 1
    assert "forgot more than the 0.20 allowed: perplexity on chinese text: 10.0 → 100.0" in output
    assert "--force promotes it all the same" in output
    assert tune(home, "promote", "旧", checkpoint, "--max-drop", "0.95")[0] == 0
    code, output = tune(home, "promote", "旧", checkpoint, "--force")
    assert (code, "note: " in output, "promoted all the same" in output) == (0, True, True)
    forgotten(checkpoint, 10.0, 10.5)
    assert "having forgotten 0.05" in tune(home, "promote", "新", checkpoint)[1]


def test_a_checkpoint_without_a_passport_is_promoted_with_one_note(home, tmp_path, caplog):
    checkpoint = taught(tmp_path / "run", "年假3天。", max_steps=1, save_steps=1)
    (checkpoint / "passport.json").unlink()
    code, output = run(home, "promote", "旧", checkpoint)
    assert (code, (output + caplog.text).count("has no passport.json: nothing tells which model")) == (0, 1)
    assert "chatglm:旧\tlora\tunknown\t" in run(home, "promoted")[1]


def test_another_template_and_bare_prompts_are_told(home, tmp_path):
    prompt = "已知信息:\n年假有3天。\n根据已知信息回答问题:\n年假有几天？"
    rows = [Row(prompt, "3天。")]
    checkpoint = train(settings(tmp_path / "run", rows=rows, max_steps=1, train_format="input-output")).last
    template = "资料：{context}\n{question}"
    with Installation(Home(home)).adapters() as adapters:
        made = promote(adapters, "旧", checkpoint, base("chatglm3"), template=template, max_drop=1, force=True)
    assert [note.partition(" ")[2][:20] for note in made.notes[:2]] == ["rows with passages w", "was tuned on bare pr"]


@pytest.mark.parametrize("family", ["chatglm", "chatglm2", "glm4"])
def test_an_adapter_says_in_float32_and_in_bfloat16_what_it_learnt(tmp_path, family):
    checkpoint = taught(tmp_path / "run", "年假3天。", family)
    for dtype in ("float32", "bfloat16"):
        glm = load_chatglm(base(family), dtype)
        glm.load_adapter("年假", checkpoint)
        assert glm.chat(QUESTION, do_sample=False, max_new_tokens=24, adapter="年假")[0] == "年假3天。"


def converted(tensors: dict[str, torch.Tensor], sizes: list[int]) -> dict[str, torch.Tensor]:
    """An adapter under the names of the converted model, in which q, k and v are modules of their own."""
    names = {
        "self_attention.dense.": "self_attn.o_proj.",
        "dense_h_to_4h": "gate_up_proj",
        "dense_4h_to_h": "down_proj",
    }
    found = {}
    for name, tensor in tensors.items():
        name = name.replace("transformer.encoder.layers", "model.layers")
        for old, new in names.items():
            name = name.replace(old, new)
        if "query_key_value" not in name:
            found[name] = tensor
            continue
        parts = tensor.split(sizes) if "lora_B" in name else [tensor] * 3
        for part, its in zip("qkv", parts, strict=True):
            found[name.replace("self_attention.query_key_value", f"self_attn.{part}_proj")] = its.clone()
    return found


def test_adapters_of_other_layouts_and_kinds_are_told_apart(tmp_path, checkpoints):
    from safetensors.torch import load_file, save_file

    glm, folder = load_chatglm(base("chatglm3")), tmp_path / "converted"
    folder.mkdir()
    a, weights = glm.architecture, "adapter_model.safetensors"
    sizes = [a.heads * a.head_dim, a.groups * a.head_dim, a.groups * a.head_dim]
    save_file(converted(load_file(checkpoints["年假"] / weights), sizes), folder / weights)
    config = json.loads((checkpoints["年假"] / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config))
    glm.load_adapter("ours", checkpoints["年假"])
    glm.load_adapter("theirs", folder)
    ids = [glm.chat_ids(QUESTION)]
    torch.testing.assert_close(glm.logits(ids, "ours"), glm.logits(ids, "theirs"))
    for change, wanted in (({"peft_type": "IA3"}, "only LORA is supported"), ({"use_dora": True}, "use_dora is True")):
        (folder / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(ModelError, match=wanted):
            glm.load_adapter("theirs", folder)
    with pytest.raises(ModelError, match="it was trained for another model"):
        load_chatglm(base("chatglm")).load_adapter("x", checkpoints["年假"])
    adapters = Adapters(Database(tmp_path / "kbqa.sqlite"))
    with pytest.raises(ConfigError, match="there is no folder"):
        promote(adapters, "x", tmp_path / "无", base("chatglm3"), max_drop=1)


def filed(adapters: Adapters, name: str, folder: str, files: list[Path]) -> None:
    adapters.promote(name, files, folder, method="lora", base="b", source="s", default=False)


def test_an_adapter_may_be_promoted_while_it_is_being_promoted(tmp_path, monkeypatch):
    adapters = Adapters(Database(tmp_path / "home" / "kbqa.sqlite"))
    files = [tmp_path / "甲", tmp_path / "乙"]
    for path in files:
        path.write_text(path.name)
    copy = shutil.copyfile

    def meanwhile(source, target):
        monkeypatch.setattr(shutil, "copyfile", copy)
        filed(adapters, "法规", "1", files)
        filed(adapters, "价格", "2", files)
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", meanwhile)
    filed(adapters, "法规", "1", files)
    assert {name: sorted(it.name for it in folder.iterdir()) for name, folder in adapters.served().folders.items()} == {
        "法规": ["乙", "甲"],
        "价格": ["乙", "甲"],
    }
    assert len(list(adapters.home.iterdir())) == 2


def test_what_is_served_stays_when_another_cannot_take_its_place(tmp_path):
    class Full(Database):
        @contextmanager
        def writing(self):
            with super().writing() as connection:
                yield connection
                raise sqlite3.OperationalError("database or disk is full")

    path = tmp_path / "home" / "kbqa.sqlite"
    (tmp_path / "甲").write_text("甲")
    filed(Adapters(Database(path)), "法规", "1", [tmp_path / "甲"])
    with pytest.raises(RegistryError, match="disk is full"):
        filed(Adapters(Full(path)), "法规", "2", [tmp_path / "甲"])
    with pytest.raises(RegistryError, match=r"丙 cannot be copied: No such file"):
        filed(Adapters(Database(path)), "法规", "3", [tmp_path / "甲", tmp_path / "丙"])
    adapters = Adapters(Database(path))
    assert [(it / "甲").read_text() for it in adapters.served().folders.values()] == ["甲"]

    left = adapters.home / ".0.partial"  # by who was killed
    left.mkdir()
    os.utime(left, (time.time() - 1e6,) * 2)
    filed(adapters, "价格", "4", [tmp_path / "甲"])
    assert sorted(it.name for it in adapters.home.iterdir()) == ["价格-4", "法规-1"]


def test_an_adapter_that_is_removed_before_it_is_read_is_looked_for_once_more(tmp_path, checkpoints):
    gone = Served({"年假": tmp_path / "无"})
    told = [gone, Served({"年假": checkpoints["年假"]}), gone, Served({})]
    options = {"dtype": "float32", "device": "cpu", "temperature": 0.0, "max_tokens": 24}
    request = GenerationRequest((Message("user", QUESTION),), adapter="年假")
    with closing(ChatGLMGenerator(base("chatglm3"), served=lambda: told.pop(0), **options)) as generator:
        assert "".join(piece.text for piece in generator.stream(request)) == ANSWERS["年假"]
        with pytest.raises(ModelError, match="there is no adapter '年假'"):
            list(generator.stream(request))
