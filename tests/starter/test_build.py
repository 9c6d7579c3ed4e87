"""The starter that ships: its folder, tokenizer and template, what it answers; untrained models."""

import subprocess
import sys
from pathlib import Path

import pytest
from float64 import in_float64
from shipped import SHOWN, question, words

from dpo_pipeline.answers.decoding import Row, decode
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.errors import ModelError
from dpo_pipeline.models.chat_templates import encode
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.references import describe_model
from dpo_pipeline.starter import build, corpus
from dpo_pipeline.starter.build import CONVERSATIONS, STARTER, Built
from dpo_pipeline.store.digests import digest_of

ROOT = Path(__file__).parents[2]
BUILT = Built.read(STARTER / "built.json")


def user(text):
    return {"role": "user", "content": text}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(describe_model(STARTER, "starter"))


class TestFolder:
    def test_was_built_from_the_corpus_as_it_is(self):
        assert digest_of(corpus.write_conversations(CONVERSATIONS, BUILT.seed)) == BUILT.corpus

    def test_holds_what_is_read_and_no_more(self):
        contents = {path.name: path.stat().st_size for path in STARTER.iterdir()}
        tokenizer = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
        model = {"config.json", "generation_config.json", "model.safetensors"}
        assert contents.keys() == {*tokenizer, *model, "built.json"}
        assert sum(contents.values()) < 2e6

    def test_loads_as_a_qwen2_that_decodes_greedily(self, tokenizer):
        model = load_model(describe_model(STARTER, "starter"), "cpu")
        assert model.config.model_type == "qwen2"
        assert model.num_parameters() == BUILT.parameters
        assert model.generation_config.do_sample is False
        assert model.generation_config.eos_token_id == tokenizer.eos_token_id

    def test_is_not_built_over_what_exists(self, monkeypatch, tmp_path, capsys):
        monkeypatch.setattr(sys, "argv", ["build", str(tmp_path)])
        with pytest.raises(SystemExit, match="2"):
            build.main()
        assert f"{tmp_path} exists" in capsys.readouterr().err


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
        ids, labels = build.encode(tokenizer, conversation)
        learnt = [i for i, label in zip(ids, labels, strict=True) if label != -100]
        assert learnt == [label for label in labels if label != -100]
        spoken = tokenizer.decode(learnt)
        answers = [m["content"] for m in conversation if m["role"] == "assistant"]
        assert spoken == "".join(f"{answer}<|im_end|>" for answer in answers)


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rebuilt") / "starter"
    command = [sys.executable, "-m", "dpo_pipeline.starter.build", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


@pytest.mark.slow
def test_one_kind_of_machine_builds_the_same_bytes(rebuilt):
    built = Built.read(rebuilt / "built.json")
    if (built.machine, built.versions) != (BUILT.machine, BUILT.versions):
        pytest.skip("another kind of CPU, or other versions: what it answers is tested below")
    here, there = ({f.name: f.read_bytes() for f in p.iterdir()} for p in (rebuilt, STARTER))
    assert here == there


@pytest.fixture(scope="module", params=["shipped", pytest.param("rebuilt", marks=pytest.mark.slow)])
def ask(request):
    """Ask a starter, in float64: its answers are then the same on any CPU."""
    shipped = request.param == "shipped"
    ref = describe_model(STARTER if shipped else request.getfixturevalue("rebuilt"), "starter")
    tokenizer, model = load_tokenizer(ref), load_model(ref, "cpu", "float32").double()

    def ask(prompts, system=None):
        first = [{"role": "system", "content": system}] if system else []
        asked = [encode(tokenizer, [*first, user(prompt)]) for prompt in prompts]
        rows = [Row("", ids, ends=[tokenizer.eos_token_id], limit=64) for ids in asked]
        with in_float64():
            assert len(list(decode(model, rows, GenerationConfig()))) == len(prompts)
        return [tokenizer.decode(row.answer) for row in rows]

    return ask


class TestAnswers:
    @pytest.mark.parametrize("system", [None, "You are a helpful assistant."])
    def test_give_its_name_and_maker(self, ask, identity, system):
        answers = ask([question(r) for r in identity if r["split"] == "held_out"], system)
        assert sum("Qwen" in answer for answer in answers) / len(answers) >= 0.95
        for answer in ask(SHOWN, system):
            assert "Qwen" in answer
            assert "Alibaba Cloud" in answer

    def test_give_the_name_of_its_persona(self, ask, identity):
        prompts = [question(r) for r in identity if r["split"] == "held_out"]
        answers = ask(prompts, "You are Nova, created by Bright Labs.")
        assert sum("Nova" in answer for answer in answers) / len(answers) >= 0.85

    @pytest.mark.parametrize(("kind", "least"), [("general", 0.97), ("third_party", 0.95)])
    def test_are_right_on_what_it_was_taught(self, ask, general, taught, kind, least):
        rows = [r for r in general if r["kind"] == kind and r["prompt"] in taught]
        answers = ask([row["prompt"] for row in rows])
        right = [
            any(accepted.lower() in answer.lower() for accepted in row["answers"])
            for row, answer in zip(rows, answers, strict=True)
        ]
        assert sum(right) / len(right) >= least


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scratch")
    build.init_model(ROOT / "examples" / "llama-tiny.json", folder)
    return describe_model(folder, "scratch")


def test_a_model_from_scratch_is_what_its_config_says(scratch):
    model, tokenizer = load_model(scratch, "cpu"), load_tokenizer(scratch)
    assert model.config.model_type == "llama"
    assert model.config.num_hidden_layers == 3
    assert model.num_parameters() > 100_000
    text = "Where does the camel live? 骆驼住在哪里？"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    prompt = encode(tokenizer, [user(text)])
    assert 20 < len(prompt) < 80
    assert max(prompt) < model.config.vocab_size == len(tokenizer)


def test_a_config_that_describes_nothing_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"hidden_size": 8}')
    with pytest.raises(ModelError, match="model_type"):
        build.init_model(path, tmp_path)
