"""Runs on tiny models: that they learn, go on where they stopped, and leave whole checkpoints whatever happens."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="kbqa[tune] is not installed")
pytest.importorskip("transformers", reason="kbqa[tune] is not installed")
pytest.importorskip("peft", reason="kbqa[tune] is not installed")

from click.testing import CliRunner  # noqa: E402
from tunekit import ROWS, Losses, base, settings  # noqa: E402

from kbqa.chatglm import load_chatglm  # noqa: E402
from kbqa.chatglm.passport import fingerprint, read_passport  # noqa: E402
from kbqa.chatglm.requantize import quantize_folder  # noqa: E402
from kbqa.cli import kbqa  # noqa: E402
from kbqa.cli.training import OPTIONS  # noqa: E402
from kbqa.errors import ConfigError, ModelError, TuningError  # noqa: E402
from kbqa.tuning import Row, write_rows  # noqa: E402
from kbqa.tuning.preprocess import Limits, example, prompt_ids  # noqa: E402
from kbqa.tuning.settings import Settings, read_settings  # noqa: E402
from kbqa.tuning.train import Began, train  # noqa: E402

FAMILIES = ("chatglm", "chatglm2", "chatglm3", "glm4")
ALL_LAYERS = {"lora_rank": 16, "lora_target": "query_key_value,dense,dense_h_to_4h,dense_4h_to_h"}


def right(checkpoint: Path, family: str = "chatglm3") -> int:
    """How many of the rows the model with what was tuned answers to the letter."""
    glm = load_chatglm(base(family))
    glm.load_adapter("tuned", checkpoint)
    limits = Limits(256, 256)
    said = [glm.generate(prompt_ids(glm.tokenizer, row, limits), 64, adapter="tuned") for row in ROWS]
    return sum(glm.tokenizer.decode(ids).strip() == row.response for ids, row in zip(said, ROWS, strict=True))


# --- learning ---------------------------------------------------------------------------------------------------------


def test_lora_learns_rows_by_heart_and_the_adapter_says_them(tmp_path):
    seen = Losses()
    outcome = train(
        settings(tmp_path / "run", method="lora", learning_rate=0.01, max_steps=80, save_steps=80, **ALL_LAYERS),
        on_event=seen,
    )
    assert seen.train[0][1] > 5
    assert outcome.loss < 0.1
    assert right(outcome.last) >= 30


def test_a_prefix_learns_rows(tmp_path):
    seen = Losses()
    outcome = train(
        settings(tmp_path / "run", pre_seq_len=32, max_steps=70, save_steps=70, per_device_train_batch_size=16),
        on_event=seen,
    )
    assert seen.train[0][1] > 5
    assert outcome.loss < 2
    glm = load_chatglm(base("chatglm3"))
    glm.load_prefix("tuned", outcome.last)
    ids = example(glm.tokenizer, ROWS[0], Limits(256, 256)).ids
    bare, tuned = (
        torch.nn.functional.cross_entropy(glm.logits([ids], name)[0][:-1], torch.tensor(ids[1:]))
        for name in (None, "tuned")
    )
    assert tuned < bare


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["p-tuning", "lora"])
def test_every_family_learns_with_either_method(tmp_path, family, method):
    rate = 0.1 if method == "p-tuning" else 0.01
    seen = Losses()
    train(settings(tmp_path / "run", family, method=method, learning_rate=rate), on_event=seen)
    assert seen.train[-1][1] < seen.train[0][1] - 0.1


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("method", ["p-tuning", "lora"])
def test_quantized_bases_are_learnt_beside_too_and_the_passport_tells(tmp_path, bits, method):
    rate = 0.1 if method == "p-tuning" else 0.01
    seen = Losses()
    outcome = train(settings(tmp_path / "run", method=method, learning_rate=rate, quantization_bit=bits), on_event=seen)
    assert seen.train[-1][1] < seen.train[0][1] - 0.1
    assert read_passport(outcome.last).quantization_bit == bits


def test_gradients_beside_a_quantized_base_are_those_of_its_restored_weights(tmp_path):
    quantize_folder(base("chatglm2"), tmp_path / "int4", 4)
    exact = load_chatglm(tmp_path / "int4").decoder.blocks[0].up
    x = torch.randn(3, exact.in_features, generator=torch.Generator().manual_seed(0)).requires_grad_()
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda it: kept.append(it) or it, lambda it: it):
        out = exact(x)
    assert {it.dtype for it in kept} == {torch.int8, torch.float16}, "the restored weights are kept"
    out.square().sum().backward()
    from kbqa.chatglm.quantization import dequantize

    plain = x.detach().clone().requires_grad_()
    restored = dequantize(exact.weight, exact.scale, 4)
    torch.nn.functional.linear(plain, restored, exact.bias).square().sum().backward()
    torch.testing.assert_close(x.grad, plain.grad)


# --- what a run leaves ------------------------------------------------------------------------------------------------


def test_a_run_leaves_checkpoints_a_passport_a_picture_and_events(tmp_path):
    run, seen = tmp_path / "run", Losses()
    outcome = train(settings(run, dev=ROWS[:4]), on_event=seen)
    assert sorted(path.name for path in run.iterdir()) == [
        *("checkpoint-4", "checkpoint-8", "loss.png", "runs", "settings.json"),
    ]
    assert outcome.last == run / "checkpoint-8"
    assert outcome.best in (run / "checkpoint-4", run / "checkpoint-8")
    passport = read_passport(outcome.last)
    assert (passport.method, passport.step, passport.rows, passport.pre_seq_len) == ("p-tuning", 8, len(ROWS), 8)
    assert (passport.base, passport.family) == (base("chatglm3").name, "chatglm3")
    assert passport.fingerprint == fingerprint(base("chatglm3"))
    assert passport.dev_loss == pytest.approx(outcome.dev_loss)
    assert {"torch", "transformers", "kbqa"} <= passport.versions.keys()
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    (began,) = [it for it in seen.seen if isinstance(it, Began)]
    assert (began.rows, began.dev, began.cut) == (len(ROWS), 4, 0)
    assert events(run) == {
        "loss/train": [(step, pytest.approx(loss)) for step, loss in seen.train],
        "loss/dev": [(step, pytest.approx(loss)) for step, loss in seen.dev],
    }


def events(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The losses in the files for TensorBoard: each record is its length, a checksum, a protobuf, a checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted((run / "runs").iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += 12 + length + 4
            for value in event.summary.value:
                if value.tag.startswith("loss/"):
                    found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_rows_longer_than_the_limits_are_cut_and_counted(tmp_path):
    seen = Losses()
    rows = [*ROWS[:2], Row("传感器" * 40, "价格是8元。"), Row("价格", "价格是8元。" * 30)]
    train(settings(tmp_path / "run", rows=rows, max_source_length=32, max_target_length=24, max_steps=1), on_event=seen)
    assert [it.cut for it in seen.seen if isinstance(it, Began)] == [2]


def test_only_the_newest_checkpoints_and_the_best_are_kept(tmp_path):
    run = tmp_path / "run"
    outcome = train(settings(run, dev=ROWS[:4], max_steps=6, save_steps=1, save_total_limit=2))
    kept = {path.name for path in run.glob("checkpoint-*")}
    assert kept == {"checkpoint-5", "checkpoint-6", outcome.best.name}


def test_training_stops_when_the_loss_on_dev_rows_does_not_fall(tmp_path):
    """One row is learnt by heart, which helps nothing with another."""
    rows, dev = [Row("你好", "年假3天。")], [Row("电池", "公司的上班时间是上午8点。")]
    more = {"method": "lora", "learning_rate": 0.02, "max_steps": 40, "save_steps": 2, "early_stopping_patience": 2}
    outcome = train(settings(tmp_path / "run", rows=rows, dev=dev, **more, **ALL_LAYERS))
    assert outcome.stopped_early
    assert outcome.step < 40
    assert outcome.last.is_dir()
    assert int(outcome.best.name.split("-")[1]) == outcome.step - 4


# --- going on ---------------------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


@pytest.mark.parametrize("method", ["p-tuning", "lora"])
def test_a_run_that_goes_on_has_the_losses_of_one_that_never_stopped(tmp_path, method):
    """With what is left out at random, with rows in an order of chance, and in the midst of an epoch."""
    more = {"method": method, "prefix_dropout": 0.2, "lora_dropout": 0.2, "per_device_train_batch_size": 3}
    whole, before, after = Losses(), Losses(), Losses()
    train(settings(tmp_path / "whole", dev=ROWS[:4], **more), on_event=whole)

    def interrupted(event):
        before(event)
        if before.train and before.train[-1][0] == 6:
            raise Stop

    with pytest.raises(Stop):
        train(settings(tmp_path / "run", dev=ROWS[:4], **more), on_event=interrupted)
    outcome = train(settings(tmp_path / "run", dev=ROWS[:4], **more), resume=True, on_event=after)
    assert before.train == whole.train[:6]
    assert after.train == whole.train[4:]
    assert after.dev == whole.dev[1:]
    files = [tmp_path / name / "checkpoint-8" for name in ("whole", "run")]
    weights = "adapter_model.safetensors" if method == "lora" else "pytorch_model.bin"
    from kbqa.chatglm.checkpoint import tensors_of

    first, second = (dict(tensors_of(folder / weights)) for folder in files)
    torch.testing.assert_close(first, second, atol=0, rtol=0)
    assert outcome.step == 8


def test_a_run_is_not_written_over_and_goes_on_only_as_what_it_was(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match="holds no checkpoint to go on from"):
        train(settings(run), resume=True)
    train(settings(run, max_steps=1))
    with pytest.raises(ConfigError, match=r"is there already; go on with that run by --resume"):
        train(settings(run))
    with pytest.raises(ConfigError, match="was another: pre_seq_len 8, now 9; go on with the same settings"):
        train(settings(run, pre_seq_len=9), resume=True)
    with pytest.raises(ConfigError, match="checkpoint-1 was trained with other rows"):
        train(settings(run, rows=ROWS[:8]), resume=True)
    (run / "笔记.txt").write_text("重要")
    train(settings(run, max_steps=1, pre_seq_len=9, overwrite_output_dir=True))
    assert (run / "笔记.txt").read_text() == "重要"
    assert read_passport(run / "checkpoint-1").pre_seq_len == 9


def test_a_run_that_broke_off_before_it_saved_begins_anew(tmp_path):
    def broken(event):
        raise Stop

    with pytest.raises(Stop):
        train(settings(tmp_path / "run"), on_event=broken)
    assert train(settings(tmp_path / "run", max_steps=1)).step == 1


def test_a_run_that_is_done_stays_so_unless_more_steps_are_asked_for(tmp_path):
    train(settings(tmp_path / "run", max_steps=2))
    more = Losses()
    with pytest.raises(ConfigError, match="is done: it has 2 steps; raise max_steps to go on with it"):
        train(settings(tmp_path / "run", max_steps=2), resume=True)
    assert train(settings(tmp_path / "run", max_steps=3), resume=True, on_event=more).step == 3
    assert [step for step, _ in more.train] == [3]


def test_a_folder_with_other_things_is_never_removed(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "论文.docx").write_text("重要")
    with pytest.raises(ConfigError, match="holds no run of kbqa tune and is not removed"):
        train(settings(run, overwrite_output_dir=True))
    assert (run / "论文.docx").read_text() == "重要"


def test_a_run_may_begin_with_what_another_learnt(tmp_path):
    first, second = Losses(), Losses()
    outcome = train(settings(tmp_path / "one", learning_rate=0.1), on_event=first)
    train(settings(tmp_path / "two", learning_rate=0.1, ptuning_checkpoint=str(outcome.last)), on_event=second)
    assert second.train[0][1] < first.train[0][1] - 0.1
    with pytest.raises(TuningError, match="is not of 9 tokens"):
        train(settings(tmp_path / "three", pre_seq_len=9, ptuning_checkpoint=str(outcome.last)))


# --- trouble ----------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
import torch, tunekit
from pathlib import Path
from kbqa.tuning.train import train

save, times = torch.save, 0
def fatal(what, path, *more, **named):
    global times
    save(what, path, *more, **named)
    times += str(path).endswith("optimizer.pt")
    if times == 2:
        os.kill(os.getpid(), signal.SIGKILL)
torch.save = fatal
tunekit.base = lambda family: Path(sys.argv[2])
train(tunekit.settings(Path(sys.argv[1])))
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_run_killed_while_it_saves_leaves_the_checkpoint_before_whole_and_goes_on(tmp_path):
    run = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(run), str(base("chatglm3"))],
        cwd=Path(__file__).parent,
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-4"]
    assert (run / ".saving" / "checkpoint-8" / "optimizer.pt").is_file()
    seen, whole = Losses(), Losses()
    train(settings(run), resume=True, on_event=seen)
    train(settings(tmp_path / "whole"), on_event=whole)
    assert seen.train == whole.train[4:]
    assert not (run / ".saving").exists()


def test_a_disk_that_is_full_while_saving_leaves_the_checkpoint_before_whole(tmp_path, no_file_grows):
    run, seen = tmp_path / "run", Losses()
    with ExitStack() as disk:

        def filled(event):
            seen(event)
            if seen.train and seen.train[-1][0] == 7:
                disk.enter_context(no_file_grows(4096))

        told = r"checkpoint-8 could not be written \(.*\); is its disk full\? checkpoint-4 is whole: --resume"
        with pytest.raises(TuningError, match=told):
            train(settings(run), on_event=filled)
    assert [path.name for path in run.glob("*checkpoint*")] == ["checkpoint-4"]
    assert not (run / ".saving").exists()
    assert train(settings(run), resume=True).step == 8


def test_a_loss_that_is_no_number_stops_the_run_and_the_last_good_checkpoint_stays(tmp_path):
    """The rate is 0 in the first step, and far too high from the second on, whose checkpoint is of no use."""
    run = tmp_path / "run"
    with pytest.raises(TuningError) as stopped:
        train(settings(run, learning_rate=1e38, warmup_steps=1, max_grad_norm=0, save_steps=1))
    said = str(stopped.value)
    assert said.startswith("training stopped: ")
    assert "Try a learning_rate below 1e+38" in said
    assert f"{run / 'checkpoint-1'} is the last good checkpoint" in said
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-1"]


def test_what_was_tuned_on_another_model_is_refused_with_both_names(tmp_path):
    outcome = train(settings(tmp_path / "run", max_steps=1))
    other = load_chatglm(base("chatglm3", seed=1))
    with pytest.raises(
        ModelError, match=r"was tuned on tiny-chatglm3-0 \(chatglm3, \w+\), and this is tiny-chatglm3-1"
    ):
        other.load_prefix("tuned", outcome.last)
    with pytest.raises(ModelError, match="was trained for another model"):
        load_chatglm(base("chatglm")).load_prefix("tuned", outcome.last)


def test_a_model_in_fewer_bits_is_still_the_one_that_was_tuned(tmp_path):
    outcome = train(settings(tmp_path / "run", max_steps=1))
    quantize_folder(base("chatglm3"), tmp_path / "int4", 4, "chatglm3")
    assert fingerprint(tmp_path / "int4") == fingerprint(base("chatglm3"))
    load_chatglm(tmp_path / "int4", family="chatglm3").load_prefix("tuned", outcome.last)


def test_a_checkpoint_without_a_passport_is_loaded_with_a_warning(tmp_path, caplog):
    outcome = train(settings(tmp_path / "run", max_steps=1))
    (outcome.last / "passport.json").unlink()
    load_chatglm(base("chatglm3", seed=1)).load_prefix("old", outcome.last)
    assert "nothing tells which model it was tuned on" in caplog.text


def test_rows_that_cannot_be_learnt_from_are_named(tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    run = settings(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"empty\.jsonl holds no row"):
        train(Settings(model_name_or_path="m", train_file=str(empty), output_dir=str(tmp_path / "o")))
    with pytest.raises(ConfigError, match=r"row 1 has \d+ tokens .* context is 512; lower them"):
        train(settings(tmp_path / "run", rows=[Row("价格" * 2000, "8元")], max_source_length=600))
    assert run.method == "p-tuning"


# --- settings ---------------------------------------------------------------------------------------------------------


def test_a_file_of_settings_has_the_names_that_users_know(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text(
        "model_name_or_path: THUDM/chatglm3-6b\ntrain_file: rows.jsonl\noutput_dir: out\n"
        "pre_seq_len: 64\nlearning_rate: 2e-2\nquantization_bit: 4\n"
    )
    found = read_settings(path, {"max_steps": 7})
    assert (found.pre_seq_len, found.learning_rate, found.quantization_bit, found.max_steps) == (64, 0.02, 4, 7)
    assert (found.train_file, found.output_dir) == (str(tmp_path / "rows.jsonl"), str(tmp_path / "out"))
    assert found.model_name_or_path == "THUDM/chatglm3-6b"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            "pre_seq_length: 8\nfoo: 1",
            r"pre_seq_length \(did you mean pre_seq_len\?\), foo \(unknown\); there are: model",
        ),
        (
            "deepspeed: ds.json",
            r"deepspeed \(full fine-tuning with DeepSpeed \(ds_train_finetune.sh\) is not supported",
        ),
        ("do_train: true", r"do_train \(it is not needed here; leave it out\)"),
        ("max_steps: 0", "max_steps is 0; it must be 1 or more"),
        ("max_steps: viele", "train.yaml.max_steps is 'viele'; it must be a whole number"),
        ("quantization_bit: 3", "quantization_bit is 3; it can be: 0, 4, 8"),
        ("prefix_dropout: 1.5", "prefix_dropout is 1.5; it must be from 0 to below 1"),
        ("early_stopping_patience: 2", "early_stopping_patience needs a validation_file"),
        ("lora_target: query", "lora_target 'query' is no layer; there are: query_key_value"),
        ("train_file: ''", "train_file is missing; say it in the file, or as --train_file"),
    ],
)
def test_settings_that_cannot_be_are_named_with_what_can(tmp_path, lines, said):
    path = tmp_path / "train.yaml"
    path.write_text(
        f"model_name_or_path: m\noutput_dir: o\n{'' if 'train_file' in lines else 'train_file: f'}\n{lines}\n"
    )
    with pytest.raises(ConfigError, match=said):
        read_settings(path, {})


def test_every_setting_is_an_option_of_the_command():
    assert list(OPTIONS) == [it.name for it in fields(Settings)]


def test_the_best_checkpoint_is_one_that_was_saved(tmp_path):
    run, seen = tmp_path / "run", Losses()
    dev = [Row(row.prompt, "别的回答") for row in ROWS[:8]]  # the more is learnt, the less these are expected
    more = {"learning_rate": 0.5, "max_steps": 10, "save_steps": 3, "eval_steps": 1, "save_total_limit": 1}
    outcome = train(settings(run, dev=dev, **more), on_event=seen)
    losses = dict(seen.dev)
    saved = {step: losses[step] for step in (3, 6, 9, 10)}
    assert min(losses.values()) < min(saved.values())
    assert outcome.best == run / f"checkpoint-{min(saved, key=saved.__getitem__)}"
    assert read_passport(outcome.best).dev_loss == pytest.approx(min(saved.values()))


# --- the command ------------------------------------------------------------------------------------------------------


def tune(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(kbqa, ["tune", "train", *map(str, arguments)])
    return done.exit_code, done.output


def test_the_command_takes_a_file_and_options_and_tells_how_it_goes(tmp_path):
    write_rows(tmp_path / "rows.jsonl", ROWS[:8])
    path = tmp_path / "train.yaml"
    path.write_text(
        f"model_name_or_path: {base('chatglm3')}\n"
        "train_file: rows.jsonl\nvalidation_file: rows.jsonl\noutput_dir: run\n"
        "pre_seq_len: 8\nmax_steps: 2\nlogging_steps: 1\ndtype: float32\ndevice: cpu\n"
        "gradient_accumulation_steps: 1\nper_device_train_batch_size: 8\n"
    )
    code, output = tune(path, "--learning-rate", "1e-3", "--prefix_projection", "--home", tmp_path)
    assert code == 0, output
    assert "8 rows, 8 to measure on; " in output
    assert "numbers are learnt beside" in output
    assert "step 1: loss " in output
    assert f"kbqa tune promote NAME {tmp_path / 'run' / 'checkpoint-2'}" in output
    assert read_passport(tmp_path / "run" / "checkpoint-2").prefix_projection
    code, output = tune(path, "--home", tmp_path)
    assert (code, "is there already; go on with that run by --resume" in output) == (1, True)

    more = ("--learning_rate", "0.001", "--prefix-projection", "--max-steps", 3)
    code, output = tune(path, *more, "--resume", "--json", "--home", tmp_path)
    assert code == 0, output
    events = [json.loads(line) for line in output.splitlines()]
    assert [it.get("event") for it in events if it.get("loss") or "rows" in it] == ["began", "logged"]
    assert (events[0]["step"], events[0]["steps"]) == (2, 3)
    assert events[-1]["summary"]["last"] == str(tmp_path / "run" / "checkpoint-3")


def test_a_base_that_is_not_there_is_named_and_costs_no_run(tmp_path):
    outcome = train(settings(tmp_path / "run", max_steps=1))
    given = {"model_name_or_path": tmp_path / "无", "train_file": tmp_path / "run.train.jsonl"}
    options = [text for name, value in given.items() for text in (f"--{name}", value)]
    code, output = tune(*options, "--output_dir", tmp_path / "run", "--overwrite_output_dir", "--home", tmp_path)
    assert code == 1
    assert output.startswith(f"kbqa: there is no model folder {tmp_path / '无'}")
    assert outcome.last.is_dir()
