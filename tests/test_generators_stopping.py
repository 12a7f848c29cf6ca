"""Stop strings in text that was cut anywhere."""

import pytest

from kbqa.generators.stopping import Stopper

TEXT = "年假有十天。\n\n问：病假呢？\n答：三天。\n\n问：完"


def cut(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("stop", [("\n\n问：",), ("。\n\n", "\n\n问："), ("没有",), ("", "答"), ()])
def test_text_ends_before_the_first_stop_string_however_it_is_cut(stop, size):
    stopper = Stopper(stop)
    shown = "".join(stopper.add(piece) for piece in cut(TEXT, size)) + stopper.end()
    places = [TEXT.index(it) for it in stop if it and it in TEXT]
    assert shown == TEXT[: min(places, default=len(TEXT))]
    assert stopper.hit == bool(places)


def test_what_comes_behind_a_stop_string_is_never_shown_even_where_another_one_stands_in_it():
    stopper = Stopper(("。",))
    assert stopper.add("十天。") == "十天"
    assert [stopper.add("三天"), stopper.add("五天。"), stopper.end()] == ["", "", ""]


def test_only_what_may_begin_a_stop_string_is_held_back():
    stopper = Stopper(("<|user|>", "||"))
    assert [stopper.add(it) for it in ("a<", "|u", "x|", "y")] == ["a", "", "<|ux", "|y"]
    stopper.add("<|")
    assert stopper.end() == "<|"
