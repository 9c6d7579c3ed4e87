"""The starter: its folder, tokenizer and chat template, what it answers; and untrained models."""

from pathlib import Path

import pytest
from shipped import SHOWN, question, words

from dpo_pipeline.errors import ModelError
from dpo_pipeline.models.chat_templates import encode
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.references import describe_model
from dpo_pipeline.starter import build, corpus

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A starter of 200 conversations: it knows nothing, but it is whole."""
    folder = tmp_path_factory.mktemp("starter")
    seen = []
    stats = build.build_starter(folder, conversations=200, on_progress=lambda *at: seen.append(at))
    return folder, stats, seen


@pytest.fixture(scope="module")
def tokenizer(small):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(small[0])


class TestFolder:
    def test_holds_weights_as_safetensors_and_no_pickle(self, small):
        folder, stats, seen = small
        names = {path.name for path in folder.iterdir()}
        assert {"config.json", "generation_config.json", "model.safetensors"} <= names
        assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
        assert seen[-1] == (stats.steps, stats.steps)

    def test_loads_as_a_qwen2_that_decodes_greedily(self, small, tokenizer):
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(small[0])
        assert model.config.model_type == "qwen2"
        assert model.num_parameters() == small[1].parameters
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
        ids, labels = build.encode(tokenizer, conversation)
        learnt = [i for i, label in zip(ids, labels, strict=True) if label != -100]
        assert learnt == [label for label in labels if label != -100]
        spoken = tokenizer.decode(learnt)
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


def user(text):
    return {"role": "user", "content": text}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scratch")
    stats = build.init_model(ROOT / "examples" / "llama-tiny.json", folder)
    return stats, describe_model(folder, "scratch")


def test_a_model_from_scratch_is_what_its_config_says(scratch):
    stats, ref = scratch
    model, tokenizer = load_model(ref, "cpu"), load_tokenizer(ref)
    assert model.config.model_type == "llama"
    assert model.config.num_hidden_layers == 3
    assert stats.parameters == model.num_parameters() > 100_000
    text = "Where does the camel live? 骆驼住在哪里？"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    prompt = encode(tokenizer, [user(text)])
    assert 20 < len(prompt) < 80
    assert max(prompt) < model.config.vocab_size == stats.vocabulary == len(tokenizer)


def test_a_config_that_describes_nothing_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"hidden_size": 8}')
    with pytest.raises(ModelError, match="model_type"):
        build.init_model(path, tmp_path)
