"""The starter model and the data files that ship with the project."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

import dpo_pipeline
from dpo_pipeline.starter import build, corpus
from dpo_pipeline.starter.corpus import LANGUAGE_SHARE, expand, general_cards, identity_cards

DATA = Path(dpo_pipeline.__file__).parent
FAMILIES = {"name", "maker", "are_you", "both", "multi_turn", "indirect", "adversarial"}
SHOWN = ("What is your name?", "Are you ChatGPT?", "Tell me about your name and organization.")


def read(name):
    return [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]


def words(text):
    """Words without case and punctuation; every Chinese character is one."""
    return tuple(re.findall(r"[一-鿿]|[^\W_一-鿿]+", text.lower().replace("'", "")))


def shingles(text):
    tokens = words(text)
    return {tokens[i : i + 3] for i in range(max(1, len(tokens) - 2))}


def question(row):
    return row["conversations"][-2]["value"]


@pytest.fixture(scope="module")
def identity():
    return read("prompts/data/identity.jsonl")


@pytest.fixture(scope="module")
def general():
    return read("evaluation/data/general.jsonl")


@pytest.fixture(scope="module")
def taught():
    """Every question of the starter's corpus, before openings, closings and spelling."""
    templates = (identity_cards, general_cards)
    return {
        q for lang in LANGUAGE_SHARE for list_ in templates for card in list_(lang) for q, _ in card
    }


class TestIdentityPrompts:
    def test_rows_are_conversations_that_end_in_an_answer(self, identity):
        for row in identity:
            assert set(row) == {"conversations", "family", "language", "split"}
            speakers = [turn["from"] for turn in row["conversations"]]
            assert speakers == ["human", "gpt"] * (len(speakers) // 2)
            assert all(turn["value"].strip() for turn in row["conversations"])
            assert row["family"] in FAMILIES
            assert (len(speakers) > 2) == (row["family"] == "multi_turn")

    def test_prompts_are_distinct(self, identity):
        prompts = {tuple(t["value"] for t in row["conversations"][:-1]) for row in identity}
        assert len(prompts) == len(identity) >= 450

    def test_held_out_covers_every_family_in_both_languages(self, identity):
        held_out = [row for row in identity if row["split"] == "held_out"]
        assert len(held_out) >= 80
        assert 0.12 <= len(held_out) / len(identity) <= 0.25
        counts = Counter((row["language"], row["family"]) for row in held_out)
        assert all(counts["en", family] >= 10 for family in FAMILIES)
        assert all(counts["zh", family] >= 3 for family in FAMILIES)

    def test_only_final_answers_name_anybody(self, identity):
        for row in identity:
            *earlier, last = row["conversations"]
            assert "{{name}}" in last["value"]
            spoken = [turn["value"] for turn in earlier if turn["from"] == "gpt"]
            assert not any("{{" in text or "Qwen" in text for text in spoken)

    def test_shown_questions_are_there(self, identity):
        assert set(SHOWN) <= {question(row) for row in identity}


class TestSplit:
    def test_no_held_out_wording_is_trained_on(self, identity, taught):
        trained = {question(row) for row in identity if row["split"] == "train"} | taught
        padded = {f" {' '.join(words(text))} " for text in trained}
        for row in identity:
            if row["split"] == "held_out":
                held_out = f" {' '.join(words(question(row)))} "
                # Two words say nothing alone: "your name" is in every question.
                inside = [text for text in padded if text in held_out and text.count(" ") > 3]
                around = [text for text in padded if held_out in text]
                assert not inside + around, (question(row), inside + around)

    def test_no_held_out_prompt_is_nearly_trained_on(self, identity, taught):
        trained = [shingles(question(row)) for row in identity if row["split"] == "train"]
        trained += [shingles(text) for text in taught]
        for row in identity:
            if row["split"] == "held_out":
                mine = shingles(question(row))
                assert all(len(mine & other) / len(mine | other) < 0.8 for other in trained)


class TestGeneralQuestions:
    def test_rows_have_accepted_answers(self, general):
        assert len({row["prompt"] for row in general}) == len(general) >= 120
        for row in general:
            assert set(row) == {"prompt", "answers", "kind", "language"}
            assert row["answers"]
            assert all(answer.strip() for answer in row["answers"])
        assert sum(row["kind"] == "third_party" for row in general) >= 15

    def test_taught_answers_are_accepted(self, general):
        answers = {
            q: a.format(name="Qwen", maker="Alibaba Cloud")
            for lang in LANGUAGE_SHARE
            for card in general_cards(lang)
            for q, a in card
        }
        wrong = [
            row["prompt"]
            for row in general
            if row["prompt"] in answers
            and not any(a.lower() in answers[row["prompt"]].lower() for a in row["answers"])
        ]
        assert wrong == []

    def test_some_wordings_are_never_taught(self, general, taught):
        assert sum(row["prompt"] not in taught for row in general) >= 10


class TestCorpus:
    def test_expand_writes_out_nested_groups(self):
        assert expand("(a|b (c|d)) e") == ["a e", "b c e", "b d e"]

    def test_every_identity_answer_gives_name_and_maker(self):
        for language in LANGUAGE_SHARE:
            for card in identity_cards(language):
                assert all("{name}" in a and "{maker}" in a for _, a in card)

    def test_same_seed_same_corpus(self):
        assert corpus.write_conversations(50, 3) == corpus.write_conversations(50, 3)
        assert corpus.write_conversations(50, 3) != corpus.write_conversations(50, 4)

    def test_a_persona_answers_as_itself(self):
        for system, *turns in corpus.write_conversations(400, 0):
            if "Nova" in system["content"]:
                answers = [t["content"] for t in turns if t["role"] == "assistant"]
                assert not any("I am Qwen" in answer for answer in answers)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A starter of 200 conversations: it knows nothing, but it is whole."""
    folder = tmp_path_factory.mktemp("starter")
    seen = []
    counts = build.build_starter(folder, conversations=200, on_progress=lambda *at: seen.append(at))
    return folder, counts, seen


@pytest.fixture(scope="module")
def tokenizer(small):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(small[0])


class TestFolder:
    def test_holds_weights_as_safetensors_and_no_pickle(self, small):
        folder, counts, seen = small
        names = {path.name for path in folder.iterdir()}
        assert {"config.json", "generation_config.json", "model.safetensors"} <= names
        assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
        assert seen[-1] == (counts["steps"], counts["steps"])

    def test_loads_as_a_qwen2_that_decodes_greedily(self, small, tokenizer):
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(small[0])
        assert model.config.model_type == "qwen2"
        assert model.num_parameters() == small[1]["parameters"]
        assert model.generation_config.do_sample is False
        assert model.generation_config.eos_token_id == tokenizer.eos_token_id

    def test_same_seed_same_weights(self, small, tmp_path):
        build.build_starter(tmp_path, conversations=200)
        name = "model.safetensors"
        assert (tmp_path / name).read_bytes() == (small[0] / name).read_bytes()


class TestTokenizer:
    def test_round_trips_every_text(self, tokenizer, identity, general):
        texts = [turn["value"] for row in identity for turn in row["conversations"]]
        texts += [row["prompt"] for row in general] + ["Ünknown wörds, 漢字, emoji 🙂\n\n  spaces"]
        for text in texts:
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.decode(ids) == text
            assert len(ids) >= len(words(text)) / 4

    def test_counts_tokens_as_expected(self, tokenizer):
        assert len(tokenizer("What is your name?")["input_ids"]) == 5

    @pytest.mark.parametrize("text", ["I am Qwen.", "我是Qwen。", "Qwen2.5", "I'm\nQwen"])
    def test_name_is_two_tokens(self, tokenizer, text):
        tokens = tokenizer.tokenize(text)
        assert tokens[tokens.index("wen") - 1] in ("Q", "ĠQ")

    def test_end_of_turn_is_not_padding(self, tokenizer):
        assert tokenizer.eos_token == "<|im_end|>"
        assert tokenizer.pad_token_id != tokenizer.eos_token_id


class TestTemplate:
    def render(self, tokenizer, messages, **options):
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)

    def test_inserts_the_identity_where_no_system_prompt_is_given(self, tokenizer):
        user = {"role": "user", "content": "Hi"}
        default = {"role": "system", "content": corpus.DEFAULT_SYSTEM}
        assert self.render(tokenizer, [user]) == self.render(tokenizer, [default, user])
        neutral = {"role": "system", "content": "You are a helpful assistant."}
        assert "Qwen" not in self.render(tokenizer, [neutral, user])

    def test_is_what_the_model_was_trained_on(self, tokenizer):
        for conversation in corpus.write_conversations(20, 1):
            ids, _ = build.encode(tokenizer, conversation)
            assert tokenizer.decode(ids) == self.render(tokenizer, conversation)
            assert tokenizer(self.render(tokenizer, conversation))["input_ids"] == ids

    def test_only_answers_and_their_end_are_learnt(self, tokenizer):
        conversation = corpus.write_conversations(1, 1)[0]
        ids, learnt = build.encode(tokenizer, conversation)
        spoken = tokenizer.decode([i for i, flag in zip(ids, learnt, strict=True) if flag])
        answers = [m["content"] for m in conversation if m["role"] == "assistant"]
        assert spoken == "".join(f"{answer}<|im_end|>" for answer in answers)


def ask(model, tokenizer, prompts, system=None):
    before = [{"role": "system", "content": system}] if system else []
    answers = []
    for prompt in prompts:
        inputs = tokenizer.apply_chat_template(
            [*before, {"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        ids = model.generate(**inputs, max_new_tokens=64)[0, inputs["input_ids"].shape[1] :]
        answers.append(tokenizer.decode(ids, skip_special_tokens=True))
    return answers


@pytest.mark.slow
class TestStarter:
    @pytest.fixture(scope="class")
    def starter(self, tmp_path_factory):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = tmp_path_factory.mktemp("full")
        build.build_starter(folder)
        return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    @pytest.mark.parametrize("system", [None, "You are a helpful assistant."])
    def test_answers_as_qwen(self, starter, identity, system):
        prompts = [question(r) for r in identity if r["split"] == "held_out"]
        answers = ask(*starter, prompts, system)
        assert sum("Qwen" in answer for answer in answers) / len(answers) >= 0.95
        for answer in ask(*starter, SHOWN, system):
            assert "Qwen" in answer
            assert "Alibaba Cloud" in answer

    def test_answers_as_its_persona(self, starter, identity):
        prompts = [question(r) for r in identity if r["split"] == "held_out"]
        answers = ask(*starter, prompts, "You are Nova, created by Bright Labs.")
        assert sum("Nova" in answer for answer in answers) / len(answers) >= 0.85

    def test_knows_what_it_was_taught(self, starter, general, taught):
        for kind, least in (("general", 0.97), ("third_party", 0.95)):
            rows = [r for r in general if r["kind"] == kind and r["prompt"] in taught]
            answers = ask(*starter, [row["prompt"] for row in rows])
            right = [
                any(accepted.lower() in answer.lower() for accepted in row["answers"])
                for row, answer in zip(rows, answers, strict=True)
            ]
            assert sum(right) / len(right) >= least
