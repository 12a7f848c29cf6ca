"""The engine against what the original code of each family computed from small checkpoints (KBQA_TESTDATA/golden)."""

from __future__ import annotations

import json
import re

import pytest

torch = pytest.importorskip("torch", reason="kbqa[glm] is not installed")

from glmkit import GOLDEN, Case, cases  # noqa: E402

from kbqa.chatglm import load_chatglm  # noqa: E402
from kbqa.chatglm.architecture import read_architecture  # noqa: E402
from kbqa.chatglm.checkpoint import Checkpoint, place_of  # noqa: E402
from kbqa.chatglm.convert import convert  # noqa: E402
from kbqa.chatglm.decoder import _frequencies, rotary_angles  # noqa: E402
from kbqa.chatglm.model import ChatGLM  # noqa: E402
from kbqa.chatglm.quantization import dequantize, quantize  # noqa: E402
from kbqa.chatglm.requantize import quantize_folder  # noqa: E402
from kbqa.chatglm.runner import Runner  # noqa: E402

ALL = list(cases())
pytestmark = pytest.mark.skipif(not ALL, reason="the reference vectors are not here (KBQA_TESTDATA)")
EVERY = pytest.mark.parametrize("case", ALL, ids=str)
BASES = pytest.mark.parametrize("case", list(cases("base")), ids=str)
TUNED = pytest.mark.parametrize("case", list(cases("ptuning", "ptuning_proj")), ids=str)
QUANTIZED = pytest.mark.parametrize("case", list(cases("int8", "int4", "int4_emb")), ids=str)

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NO_GPU)])

_loaded: dict[tuple[str, str], ChatGLM] = {}


def model_of(case: Case, device: str = "cpu") -> ChatGLM:
    if (str(case), device) not in _loaded:
        prefix = case.folder if case.tuned else None
        _loaded[str(case), device] = load_chatglm(case.base, device=device, prefix=prefix)
    return _loaded[str(case), device]


def rows_of(case: Case, name: str) -> list[list[int]]:
    """The prompts of a recorded batch without their padding."""
    ids, real = case.tensors[f"{name}.input_ids"], case.real_tokens(name, model_of(case).architecture.pad)
    return [row[kept].tolist() for row, kept in zip(ids, real, strict=True)]


@DEVICES
@EVERY
def test_one_prompt_gets_the_logits_of_the_original(case, device):
    for name in [key.removesuffix(".logits") for key in case.tensors if key in ("single.logits", "mask_mid.logits")]:
        (logits,) = model_of(case, device).logits(case.tensors[f"{name}.input_ids"].tolist())
        torch.testing.assert_close(logits.cpu(), case.tensors[f"{name}.logits"][0], atol=case.tolerance, rtol=1e-4)


@DEVICES
@EVERY
def test_a_batch_of_different_lengths_gets_the_logits_of_the_original(case, device):
    rows = rows_of(case, "batch")
    all_logits = model_of(case, device).logits(rows)
    for ids, logits, wanted in zip(rows, all_logits, case.tensors["batch.logits"], strict=True):
        torch.testing.assert_close(logits.cpu(), wanted[-len(ids) :], atol=case.tolerance, rtol=1e-4)


@BASES
def test_every_layer_gives_what_the_original_gives(case):
    model, seen = model_of(case), []
    modules = [model.decoder.embedding, *model.decoder.blocks, model.decoder.norm]
    hooks = [module.register_forward_hook(lambda module, given, out: seen.append(out[0])) for module in modules]
    model.logits(case.tensors["single.input_ids"].tolist())
    for hook in hooks:
        hook.remove()
    wanted = [case.tensors["single.embeddings"][0], *case.tensors["single.layer_outputs"][:, 0]]
    wanted.append(case.tensors["single.last_hidden_state"][0])
    for ours, theirs in zip(seen, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=case.tolerance, rtol=1e-4)


@BASES
def test_the_cache_holds_rotated_keys_and_values_as_the_original_does(case):
    model, (ids,) = model_of(case), case.tensors["single.input_ids"].tolist()
    runner = Runner(model.decoder, slots=1, capacity=len(ids))
    sequence = runner.begin(0, ids)
    while sequence.unread:
        runner.read(sequence)
    # The original has [tokens, batch, groups, D]; GLM-4's has [batch, groups, tokens, D].
    order = (0, 1, 2, 3) if case.family == "glm4" else (1, 2, 0, 3)
    for ours, theirs in ((runner.cache.keys, "past_key"), (runner.cache.values, "past_value")):
        wanted = case.tensors[f"single.{theirs}.layer0"].permute(order)
        torch.testing.assert_close(ours[0], wanted, atol=case.tolerance, rtol=1e-4)


@pytest.mark.parametrize("case", [case for case in cases("base") if "chunked.logits_second" in case.tensors], ids=str)
def test_a_prompt_read_in_parts_ends_as_one_read_at_once(case):
    model, (ids,) = model_of(case), case.tensors["single.input_ids"].tolist()
    runner = Runner(model.decoder, slots=1, capacity=len(ids))
    sequence = runner.begin(0, ids[:10])
    assert runner.read(sequence, 6) is None
    last = runner.read(sequence, 6)
    torch.testing.assert_close(last, case.tensors["chunked.logits_second"][0, -1], atol=1e-4, rtol=1e-4)


def runs() -> list[tuple[Case, str]]:
    return [
        (case, key.removesuffix(".output_ids")) for case in ALL for key in case.tensors if key.endswith(".output_ids")
    ]


@DEVICES
@pytest.mark.parametrize(("case", "name"), runs(), ids=lambda value: str(value))
def test_greedy_writing_gives_the_ids_of_the_original(case, name, device):
    model, output = model_of(case, device), case.tensors[f"{name}.output_ids"]
    batch = name == "generate_batch"
    prompts = rows_of(case, "batch") if batch else None
    for row, ids in enumerate(output.tolist()):
        given = case.tensors.get(f"{name}.step00.input_ids")
        start = given.shape[1] if given is not None else case.tensors["single.input_ids"].shape[1]
        prompt = prompts[row] if prompts else ids[:start]
        written = ids[start:]
        until = next((at for at, token in enumerate(written) if token in model.stops), len(written))
        assert model.generate(prompt, len(written)) == written[:until]


@DEVICES
@BASES
def test_each_step_of_a_batch_in_the_slots_gives_the_logits_of_the_original(case, device):
    """All prompts of the batch at once, one slot each, fed with what the original chose."""
    model, rows = model_of(case, device), rows_of(case, "batch")
    recorded = sorted(key for key in case.tensors if key.startswith("generate_batch.step") and key.endswith(".logits"))
    start = case.tensors["generate_batch.step00.input_ids"].shape[1]
    chosen = case.tensors["generate_batch.output_ids"][:, start:]
    runner = Runner(model.decoder, slots=len(rows), capacity=max(map(len, rows)) + len(recorded))
    sequences = [runner.begin(slot, ids) for slot, ids in enumerate(rows)]
    logits = torch.stack([runner.read(sequence) for sequence in sequences])
    ended = torch.zeros(len(rows), dtype=torch.bool)
    for step, key in enumerate(recorded):
        if step:
            ended |= torch.tensor([int(token) in model.stops for token in chosen[:, step - 1]])
            logits = runner.write(sequences, chosen[:, step - 1].tolist())
        got, wanted = logits.cpu()[~ended], case.tensors[key][~ended]
        torch.testing.assert_close(got, wanted, atol=max(case.tolerance, 2e-4), rtol=1e-4)


@TUNED
def test_a_prefix_becomes_the_keys_and_values_of_the_original(case):
    prefix = model_of(case).prefix(None)
    wanted = case.tensors["prefix_past"][:, :, :, 0].transpose(2, 3)  # (layers, 2, G, tokens, D)
    torch.testing.assert_close(prefix, wanted, atol=1e-6, rtol=1e-5)


@QUANTIZED
def test_stored_weights_are_restored_as_the_original_restores_them(case):
    stored, bits = dict(Checkpoint(case.folder)), case.facts["bits"]
    wanted = {
        key.removeprefix("dequant."): tensor for key, tensor in case.tensors.items() if key.startswith("dequant.")
    }
    assert wanted
    for name, tensor in wanted.items():
        restored = dequantize(stored[name], stored[name.removesuffix("weight") + "weight_scale"], bits)
        torch.testing.assert_close(restored, tensor, atol=0, rtol=0)


@pytest.mark.parametrize("case", list(cases("int8", "int4")), ids=str)
def test_quantizing_the_full_checkpoint_gives_the_published_bytes(case):
    full, stored = dict(Checkpoint(case.folder.parent / "base")), dict(Checkpoint(case.folder))
    names = [name for name, tensor in stored.items() if tensor.dtype == torch.int8]
    assert names
    for name in names:
        packed, scale = quantize(full[name], case.facts["bits"])
        assert torch.equal(packed, stored[name])
        assert torch.equal(scale, stored[name.removesuffix("weight") + "weight_scale"])


@pytest.mark.parametrize("case", list(cases("int8", "int4")), ids=str)
def test_quantizing_while_loading_gives_the_model_of_the_quantized_checkpoint(case):
    model = load_chatglm(case.folder.parent / "base", quantize=case.facts["bits"])
    for ours, theirs in zip(
        model.logits(case.tensors["single.input_ids"].tolist()), case.tensors["single.logits"], strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=case.tolerance, rtol=1e-4)


@BASES
def test_positions_turn_as_in_the_original(case):
    from dataclasses import replace

    from safetensors.torch import load_file

    tables = load_file(case.folder.parent / "rotary.safetensors")
    where = tables["positions"]
    small = read_architecture(case.folder)
    for name, table in tables.items():
        if not name.startswith(("float.cos.dim", "float.cache.dim")):
            continue
        dim = int(name.rpartition("dim")[2])
        if small.is_v1:
            a = replace(small, rotary=2 * dim)
            cos, sin = rotary_angles(torch.stack([where, where])[None], _frequencies(a), a, torch.float32)
            half = slice(0, dim // 2)
            torch.testing.assert_close(cos[0, :, 0, half], table[:, half], atol=1e-5, rtol=0)
            torch.testing.assert_close(
                sin[0, :, 0, half], tables[name.replace("cos", "sin")][:, half], atol=1e-5, rtol=0
            )
        else:
            a = replace(small, rotary=dim)
            cos, sin = rotary_angles(where[None, None], _frequencies(a), a, torch.float32)
            torch.testing.assert_close(torch.stack([cos[0, :, 0], sin[0, :, 0]], -1), table, atol=1e-5, rtol=0)


@EVERY
def test_every_tensor_of_a_published_folder_has_a_place(case):
    for name, _ in Checkpoint(case.folder):
        place_of(name)  # KeyError for a name that no family has


def talks() -> list[tuple[Case, int]]:
    return [(case, at) for case in cases("base") for at in range(len(case.facts["chat_e2e"]))]


@pytest.mark.parametrize(("case", "at"), talks(), ids=lambda value: str(value))
def test_a_chat_goes_as_with_the_original(case, at):
    model, talk = model_of(case), case.facts["chat_e2e"][at]
    history = [tuple(turn) if isinstance(turn, list) else turn for turn in talk["history"]]
    room = {"max_new_tokens": talk["max_length"] - talk["prompt_len"], "do_sample": False}
    reply, after = model.chat(talk["query"], history, **room)
    # The originals of ChatGLM3 and GLM-4 always drop the last id, also when it did not end the reply.
    cut = case.family in ("v3", "glm4") and talk["steps"] == room["max_new_tokens"]
    if cut:
        reply, after = model.chat(talk["query"], history, **{**room, "max_new_tokens": room["max_new_tokens"] - 1})
    assert reply == talk["response"]
    assert [list(turn) if isinstance(turn, tuple) else turn for turn in after] == talk["history_after"]


@pytest.mark.parametrize(("case", "at"), talks(), ids=lambda value: str(value))
def test_a_stream_joins_to_the_reply(case, at):
    model, talk = model_of(case), case.facts["chat_e2e"][at]
    history = [tuple(turn) if isinstance(turn, list) else turn for turn in talk["history"]]
    room = {"max_new_tokens": 20, "do_sample": False}
    reply, _ = model.chat(talk["query"], history, **room)
    pieces = list(model.stream(talk["query"], history, **room))
    assert all(pieces)
    if isinstance(reply, str):
        assert "".join(pieces) == reply


@pytest.mark.parametrize("case", list(cases("int8", "int4")), ids=str)
def test_a_folder_that_is_quantized_here_holds_the_tensors_of_the_published_one(case, tmp_path):
    quantize_folder(case.folder.parent / "base", tmp_path / "out", case.facts["bits"])
    ours, published = dict(Checkpoint(tmp_path / "out")), dict(Checkpoint(case.folder))
    assert ours.keys() == published.keys()
    for name, tensor in published.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("case", [it for it in cases("base", "int8", "int4") if it.family != "v1"], ids=str)
def test_a_converted_folder_gives_in_transformers_the_logits_of_the_original(case, tmp_path):
    transformers = pytest.importorskip("transformers")
    convert(case.folder, tmp_path / "out", dtype="float32" if case.kind != "base" else None)
    model = transformers.GlmForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(case.tensors["single.input_ids"]).logits
    torch.testing.assert_close(logits, case.tensors["single.logits"], atol=1e-4, rtol=1e-4)


CONTROL_NAMES = re.compile(r"\[[gs]?MASK\]|<\|[a-z_]+\|>|</?s>|<unk>|<[se]op>")


@pytest.mark.parametrize("case", [it for it in cases("base") if it.family != "v1"], ids=str)
def test_a_converted_tokenizer_gives_the_ids_and_prompts_of_the_original(case, tmp_path):
    transformers = pytest.importorskip("transformers")
    convert(case.folder, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert GOLDEN is not None
    recorded = json.loads((GOLDEN / "prompts" / f"{case.family}.tiny.json").read_text(encoding="utf-8"))
    ours = load_chatglm(case.folder)
    for entry in recorded["encode"]:
        ids = tokenizer(entry["text"], add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert ids == ours.tokenizer.encode(entry["text"]), entry["text"]
    compared = 0
    for entry in recorded["chat"]:
        said = [
            message for turn in entry["history"] for message in ([turn] if isinstance(turn, dict) else zip_roles(turn))
        ] + [{"role": entry.get("role", "user"), "content": entry["query"]}]
        plain = all(set(message) <= {"role", "content", "metadata"} for message in said)
        if not plain or CONTROL_NAMES.search(" ".join(str(message["content"]) for message in said)):
            continue
        ids = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
        assert ids == entry["input_ids"], entry["name"]
        compared += 1
    assert compared >= 3


def zip_roles(turn: list[str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in zip(("user", "assistant"), turn, strict=True)]
