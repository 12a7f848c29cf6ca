import unicodedata

import pytest

from kbqa.analyzer import (
    INSIDE,
    Passage,
    analyze,
    fold,
    names_somebody,
    question_terms,
    question_words,
    stem,
    whole_names,
    word_bounds,
)


@pytest.mark.parametrize(
    ("written", "folded"),
    [("資料庫", "资料库"), ("ＧＬＭ－４", "glm-4"), ("Ⅳ級", "iv级"), ("年假１０天", "年假10天"), ("Straße", "straße")],
)
def test_spellings_of_one_text_are_folded_together(written, folded):
    assert fold(written) == folded


@pytest.mark.parametrize("mark", "，：；？！（）％～　\u00a0")
def test_full_width_marks_are_folded_as_unicode_has_it(mark):
    for text in (mark, f"数据{mark}\u0301库", f"１{mark}０００ é{mark}"):
        assert fold(text) == unicodedata.normalize("NFKC", text)


def test_traditional_and_simplified_text_have_the_same_terms():
    assert analyze("資料庫備份與恢復") == analyze("资料库备份与恢复")


@pytest.mark.parametrize(
    "name", ["glm-4-9b", "kb-2024-001", "tidb_ddl_version", "192.168.88.1", "a.b@example.com", "gb/t19001-2016"]
)
def test_a_name_is_one_term_and_its_parts_are_terms_too(name):
    words = analyze(f"参见{name.upper()}的说明").words
    assert name in words
    assert {part for part in ("glm", "kb", "tidb", "192.168", "example", "2016") if part in name} <= set(words)


def test_thousands_are_written_without_commas_but_lists_keep_theirs():
    assert "3076.1" in analyze("合计3,076.1万元").words
    assert {"1", "2", "3"} <= set(analyze("第1,2,3条").words)


def test_bigrams_do_not_run_across_punctuation_or_latin():
    assert analyze("年假，报销GLM手册").bigrams == ["年假", "报销", "手册"]


def test_a_single_character_is_still_a_bigram_term():
    assert analyze("税").bigrams == ["税"]


def test_a_run_of_characters_is_cut_as_it_is_alone():
    runs = ["南京市", "长江大桥", "データベース", "한국어", "税", "员工每年享有十天带薪年假"]
    alone = [word for run in runs for word in analyze(run).words]
    assert analyze("，".join(runs)).words == analyze("\n".join(runs)).words == alone


def test_japanese_and_korean_have_bigrams():
    assert analyze("データ").bigrams == ["デー", "ータ"]
    assert analyze("한국어").bigrams == ["한국", "국어"]


def test_a_question_loses_its_stop_words_and_repetitions():
    terms = question_terms("请问年假是什么？年假有多少天？")
    assert "年假" in "".join(terms.words)
    assert "什么" not in terms.words
    assert "什么" not in terms.bigrams
    assert len(terms.words) == len(set(terms.words))


def test_a_question_of_stop_words_alone_keeps_them():
    assert question_terms("是什么").words == ["是", "什么"]


@pytest.mark.parametrize("text", ["", "  \n", "？！。", "\x00\ufffd", "😀🎉"])
def test_text_without_words_has_no_terms_and_does_not_fail(text):
    terms = analyze(text)
    assert terms.words == []
    assert terms.bigrams == []


def test_forms_of_an_english_word_have_one_stem_and_other_words_are_left_alone():
    assert stem("acquired") == stem("acquiring") == stem("acquires")
    assert [stem(word) for word in ("glm-4", "2024", "年假", "is")] == ["glm-4", "2024", "年假", "is"]


def test_a_passage_holds_an_english_word_in_another_form_a_little_less():
    passage = Passage("The company acquired two firms and pays 1,000 dollars.")
    assert passage.share("acquired") == 1
    assert 0.5 < passage.share("acquire") < 1
    assert passage.share("1000") == 1
    assert passage.share("100") == passage.share("firmware") == 0


def test_a_helping_verb_is_no_part_of_a_name():
    assert question_terms("住宿能报多少").words == ["住宿", "报"]
    assert question_words("年假要提前几天请") == ["年", "假", "提前", "几天", "请"]
    assert question_terms("奖学金给哪所学校").words == ["奖学金", "学校"]
    assert question_words("何炅能力") == ["何炅", "能力"]


def test_a_noun_that_asks_with_its_question_word_is_not_looked_for():
    assert question_terms("装修找哪个部门登记？").words == ["装修", "登记"]
    assert question_terms("什么岗位要持证").words == ["持证"]
    assert question_terms("哪一个科室").words == ["一个"]
    assert question_terms("部门会议谁参加").words == ["部门", "会议", "参加"]
    assert question_terms("哪个部门经理签字").words == ["部门经理", "签字"]


@pytest.mark.parametrize(
    ("clause", "somebody"),
    [
        ("签字人为运营副总经理贺知秋", True),
        ("馆长为文曼舒老师", True),
        ("由john smith负责", True),
        ("由站长考核", False),
        ("校长由教育局任命", False),
        ("经理应当高度重视", False),
    ],
)
def test_a_clause_names_somebody_or_nobody(clause, somebody):
    assert names_somebody(clause) is somebody


@pytest.mark.parametrize("text", ["会话最大数量", "年会几点开", "股会", "监会", "有载"])
def test_what_only_looks_like_a_helping_verb_stays_in_its_word(text):
    assert question_words(text) == analyze(text).words


def test_the_bounds_of_words_are_offsets_of_the_text():
    folded = fold("我們公司 X200  年假\t有、幾天？")
    bounds = sorted(word_bounds(folded))
    assert (bounds[0], bounds[-1]) == (0, len(folded))
    assert {2, 4}.issubset(bounds)


@pytest.mark.parametrize(
    ("text", "word", "share"),
    [
        ("陪产假十五天。", "产假", 0),
        ("产假一百五十八天，陪产假十五天。", "产假", 1),
        ("由副院长批准。", "院长", 0),
        ("总经理级可坐飞机。", "经理", 0),
        ("非工作日加班按两倍计算。", "工作日", 0),
        ("公司发布了半年度报告。", "年度", 0),
        ("部门经理批准。", "经理", INSIDE),
        ("副主任医师可以会诊，主任医师负责。", "主任", INSIDE),
        ("副主任医师可以会诊，副主任医师负责。", "主任", 0),
        ("带薪年假五天。", "年假", INSIDE),
    ],
)
def test_a_name_within_the_name_of_another_thing_does_not_stand_there(text, word, share):
    assert Passage(text).share(word) == share


def test_a_word_is_asked_for_by_its_whole_name():
    assert whole_names("陪产假有几天？", ["产假", "天"]) == ["陪产假", "天"]
    assert whole_names("院长和副院长由谁任命？", ["院长", "任命"]) == ["院长", "任命"]
    assert Passage("陪产假十五天。").share("陪产假") == 1


@pytest.mark.parametrize("lines", [[], ["年假"], ["報銷制度ＡＢＣ", "", "Σας e\u0301", "、，。", "\u0301 alone", "ﷺ①"]])
def test_lines_are_folded_together_as_each_by_itself(lines):
    assert [passage.text for passage in Passage.each(lines)] == [fold(line) for line in lines]
